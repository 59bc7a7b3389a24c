"""The year's temperature at weather stations from the terrain around them, each station left out once."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ...data import ArrayTiles, Modality, TileDataset
from ...data.opening import open_raster
from ...evaluation import Picture, Section, Table
from ...evaluation.generation import Generated, pictures
from ...evaluation.model_profiles import expected_profiles, profiles, sampled_profiles, tile_statistics
from ...evaluation.profile_baselines import forest_profiles, kriging_profiles, mean_profile, ridge_profiles
from ...evaluation.profile_scores import score_table
from ...settings import renamed
from ...token_fusion import TokenFusion
from ...token_fusion.counterfactual import calendar
from ...token_fusion.in_memory import Recipe, learn
from ...workflow.kept import keep_profiles
from ...workflow.state import State

__all__ = ["leave_one_out", "open_stations"]

_PATCH, _SIDE = 3, 3  # pixels of about 1 km per patch side, patches per tile side
_NODATA = -32768
_LAPSE = -0.0065  # K/m of the standard atmosphere
_TARGET = "temperature"


def open_stations(source: str | Path, *, places: int = 300, seed: int = 0) -> tuple[dict[str, TileDataset], str]:
    """Stations and terrain of the folder ``source``.

    Parts: ``stations``, all of them with their temperature; ``inside``, those on valid pixels of the raster, each of
    which is to be predicted; ``outside``, the others, which have no terrain image; and ``terrain``, ``places`` windows
    of the raster without a station or a temperature. A tile is 9 x 9 pixels around its place; what lies beyond the
    raster takes the window's mean.

    Raises:
        ValueError: a file is missing.
    """
    folder = Path(source)
    wanted = ("stations.csv", "tmean_2019.csv", "dem_twi_serbia.tif")
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: no {', '.join(missing)}; --data is the folder that holds them")
    with open(folder / wanted[0], newline="") as file:
        stations = list(csv.DictReader(file))
    with open(folder / wanted[1], newline="") as file:
        _, *table = csv.reader(file)
    profiles = {row[0]: np.array([float(v) if v not in ("", "NA") else np.nan for v in row[1:]]) for row in table}
    raster, transform = _raster(folder / wanted[2])
    at = np.array([[int(s["raster_row"]), int(s["raster_col"])] for s in stations])
    location = np.array([[float(s[name]) for name in ("lat", "lon", "elevation")] for s in stations])
    temperature = np.stack([profiles[s["staid"]] for s in stations]).astype(np.float32)
    inside = np.array([r >= 0 and np.isfinite(raster[:, r, c]).all() for r, c in at])
    windows = np.stack(
        [_window(raster, r, c) if ok else np.full_like(_window(raster, 0, 0), np.nan)
         for (r, c), ok in zip(at, inside, strict=True)]
    )  # fmt: skip
    valid = np.argwhere(np.isfinite(raster).all(0))
    drawn = valid[np.random.default_rng(seed).choice(len(valid), min(places, len(valid)), replace=False)]
    elsewhere = np.stack([[*(transform @ [c + 0.5, r + 0.5, 1])[1::-1], raster[0, r, c]] for r, c in drawn])
    windows = np.concatenate([windows, np.stack([_window(raster, r, c) for r, c in drawn])])
    location = np.concatenate([location, elsewhere])
    temperature = np.concatenate([temperature, np.full((len(drawn), temperature.shape[1]), np.nan, np.float32)])
    spread = np.ones((1, 1, _SIDE, _SIDE), dtype=np.float32)
    terrain = Modality("terrain", "image", ("elevation", "wetness"), 1000.0, _PATCH, "m, index")
    place = Modality("location", "image", ("latitude", "longitude", "elevation"), 1000.0 * _PATCH, 1, "degrees, m")
    mean = Modality("temperature", "series", ("mean",), 1000.0 * _PATCH, 1, "degC")
    count = len(stations)
    tiles = ArrayTiles(
        [terrain, place, mean],
        {
            "terrain": windows,
            "location": location[:, :, None, None] * spread,
            "temperature": temperature[:, :, None, None, None] * spread,
        },
        {"temperature": np.arange(temperature.shape[1])},
        grid=(_SIDE, _SIDE),
        names=[s["name"].strip() for s in stations] + [f"{r}-{c}" for r, c in drawn],
        splits={
            "stations": range(count),
            "inside": np.flatnonzero(inside).tolist(),
            "outside": np.flatnonzero(~inside).tolist(),
            "terrain": range(count, count + len(drawn)),
        },
    )
    parts = {name: tiles.split(name) for name in tiles.splits}
    words = f"{count} stations, {int(inside.sum())} of them on the raster, and {len(drawn)} windows of terrain"
    return parts | {"all": tiles}, words


def _raster(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(2, rows, columns) float32 with NaN, and the transform (2, 3) from (column, row, 1) to (longitude, latitude)."""
    with open_raster(path) as file:
        values, transform = file.read().astype(np.float32), file.transform
    return np.where(values == _NODATA, np.nan, values), np.array(transform).reshape(3, 3)[:2]


def _window(raster: np.ndarray, row: int, column: int) -> np.ndarray:
    """(2, 9, 9) around a pixel, NaN beyond the raster."""
    reach = _PATCH * _SIDE // 2
    padded = np.pad(raster, ((0, 0), (reach, reach), (reach, reach)), constant_values=np.nan)
    return padded[:, row : row + 2 * reach + 1, column : column + 2 * reach + 1]


@renamed(given="conditioning")
def leave_one_out(
    state: State,
    *,
    recipes: Mapping[str, Mapping[str, Any]],
    own_steps: int = 60,
    corrected: str | None = None,
    groups: int = 5,
    conditioning: Mapping[str, Sequence[str]] | None = None,
    samples: int = 8,
    how: Mapping[str, Any] | None = None,
    key: str = "generation",
) -> str:
    """The year's temperature of every station on the raster, by models that have seen all stations but that one.

    A model is first trained on what no station leaves out, those off the raster and the windows of terrain, and then
    for every station on all others as well. Scores go to ``<key>.<method>.rmse`` and so on. ``<recipe>_<inputs>`` is
    the expectation of a model, e.g. ``bins_terrain``; ``samples_...`` the median of what the first one generates;
    ``ridge``, ``forest`` and ``kriging`` see latitude, longitude and elevation of the station; ``nearest`` is the
    profile of the nearest other station, ``nearest_lapse`` the same moved to the station's elevation by -6.5 K/km.
    ``<recipe>_corrected`` is the expectation of models given the location, plus what they miss at the other stations,
    kriged to the station by latitude, longitude and elevation. What they miss is that of models which have seen
    neither the other station nor the one to be predicted: stations are put into groups, and a model is trained for
    each pair of groups without both.

    Args:
        recipes: of the models by name, as arguments of :class:`~fusion.token_fusion.in_memory.Recipe`.
        own_steps: of training for each station.
        corrected: the recipe whose expectation is corrected; None: of none.
        groups: of stations for it; it trains groups * (groups - 1) / 2 further models.
        conditioning: inputs by name; by default the terrain, the location, and both.
        how: arguments of :func:`fusion.token_fusion.generate.generate`.
    """
    everything: TileDataset = state.data["all"]
    stations, inside = state.split("stations"), state.split("inside")
    conditioning = conditioning or {"terrain": ["terrain"], "location": ["location"], "both": ["terrain", "location"]}
    rows = [everything.names.index(name) for name in inside.names]
    common = [i for part in ("outside", "terrain") for i in _rows(everything, state.split(part))]
    plans = {name: Recipe.of(settings) for name, settings in recipes.items()}
    bases = {name: learn(everything.subset(common), plan, state.seed) for name, plan in plans.items()}
    profile = profiles(next(iter(bases.values())), stations, _TARGET)  # (N, 1, T)
    place = tile_statistics(stations, ["location"])  # (N, 3)
    at = [stations.names.index(name) for name in inside.names]
    apart = np.random.default_rng(state.seed).permutation(len(stations)) % groups  # group of each station
    told = (
        {}
        if corrected is None
        else _of_pairs(everything, stations, apart, plans[corrected], bases[corrected], own_steps, state.seed)
    )
    guesses: dict[str, list[np.ndarray]] = {}
    drawn = []
    for number, (row, own) in enumerate(zip(rows, at, strict=True)):
        others, held_out = _without(everything, row), everything.subset([row])
        for name, plan in plans.items():
            model = learn(others, plan, state.seed + number, start=bases[name], steps=own_steps)
            for which, names in conditioning.items():
                guesses.setdefault(f"{name}_{which}", []).append(expected_profiles(model, held_out, _TARGET, names))
            if name == next(iter(plans)):
                names = list(conditioning.values())[-1]
                drawn.append(sampled_profiles(model, held_out, _TARGET, names, samples, state.seed, **(how or {})))
        known = np.arange(len(stations)) != own
        simple = (place[known], profile[known], place[own : own + 1])
        found = {
            "mean_profile": mean_profile(profile[known], 1),
            "ridge": ridge_profiles(*simple),
            "kriging": kriging_profiles(*simple),
            "forest": forest_profiles(*simple, seed=state.seed),
            **_nearest(*simple),
        }
        if corrected is not None:
            expected = _unseen_by(told, apart, own)  # (N, 1, T)
            missed = profile[known] - expected[known]
            found[f"{corrected}_corrected"] = expected[own : own + 1] + kriging_profiles(simple[0], missed, simple[2])
        for name, values in found.items():
            guesses.setdefault(name, []).append(values)
    methods = {name: np.concatenate(values) for name, values in guesses.items()}
    made = np.concatenate(drawn, axis=1)
    days = calendar(next(iter(bases.values())), _TARGET)
    result = Generated(profile[at], {"samples": np.median(made, axis=0)} | methods, made, days)
    scored = result.scores()
    what = (
        f"{len(inside)} stations, each predicted by methods that know the other {len(stations) - 1} "
        f"({len(inside) - 1} of them with terrain); seed {state.seed}."
    )
    state.metrics[key] = scored | {"conditions": what}
    keep_profiles(state, key, result.truth, result.guesses)
    items: list[Picture | Table] = [
        score_table(scored, what, "degC"),
        *pictures(result, _TARGET, "degC", what, inside.names),
    ]
    state.sections.append(Section("The year's temperature where no station is", "", items))
    return "RMSE " + ", ".join(f"{name} {row['rmse']:.2f}" for name, row in scored.items())


Pairs = dict[tuple[int, int], np.ndarray]  # by two groups: profiles (N, 1, T) of all stations


def _of_pairs(
    everything: TileDataset,
    stations: TileDataset,
    group: np.ndarray,
    plan: Recipe,
    base: TokenFusion,
    steps: int,
    seed: int,
) -> Pairs:
    """What models say of all stations, given their location, that have seen none of two groups of them."""
    number = np.array(_rows(everything, stations))
    found: Pairs = {}
    for pair in combinations(range(int(group.max()) + 1), 2):
        hidden = set(number[np.isin(group, pair)].tolist())
        known = everything.subset([i for i in range(len(everything)) if i not in hidden])
        model = learn(known, plan, seed, start=base, steps=steps)
        found[pair] = expected_profiles(model, stations, _TARGET, ["location"])
    return found


def _unseen_by(told: Pairs, group: np.ndarray, own: int) -> np.ndarray:
    """(N, 1, T): of each station the mean over the models that have seen neither it nor the station ``own``."""
    pairs = [(pair, values) for pair, values in told.items() if group[own] in pair]
    return np.stack([np.mean([v[k] for pair, v in pairs if group[k] in pair], axis=0) for k in range(len(group))])


def _rows(everything: TileDataset, part: TileDataset) -> list[int]:
    number = {name: i for i, name in enumerate(everything.names)}
    return [number[name] for name in part.names]


def _without(everything: TileDataset, row: int) -> TileDataset:
    return everything.subset([i for i in range(len(everything)) if i != row])


def _nearest(place: np.ndarray, profile: np.ndarray, unseen: np.ndarray) -> dict[str, np.ndarray]:
    """Of the nearest other station, as it is and at the station's elevation; distances on the ground."""
    apart = (place[:, :2] - unseen[:, :2]) * [1, np.cos(np.radians(unseen[0, 0]))]
    order = np.linalg.norm(apart, axis=1).argsort()
    merged = profile[order[0]]
    for k in order[1:]:  # a missing date is that of the next nearest
        merged = np.where(np.isnan(merged), profile[k], merged)
    return {"nearest": merged[None], "nearest_lapse": merged[None] + _LAPSE * (unseen[0, 2] - place[order[0], 2])}
