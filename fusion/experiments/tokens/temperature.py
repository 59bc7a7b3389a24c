"""Daily temperature of a season from the Sentinel-2 images of the place: places of any number and length, in tiles."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data import ArrayTiles, Modality, TileDataset, block_splits
from ...evaluation import Picture, Section, Table
from ...evaluation.generation import Generated, compare, pictures
from ...evaluation.profile_scores import score_table
from ...settings import renamed
from ...token_fusion.in_memory import Recipe, learn
from ...workflow.kept import keep_profiles
from ...workflow.state import State

__all__ = ["generate", "open_places"]

_BANDS = ("B02", "B03", "B04", "B8A")
_CLEAR = 0  # of cloud_mask
_MEAN = "eobs_tg"  # of meteo_vars, degC
_METRES, _PATCH = 20.0, 4  # a pixel; pixels per patch side


def open_places(
    source: str | Path, *, tile: int = 16, block: int = 2, window: int = 60, every: int = 10
) -> tuple[dict[str, TileDataset], str]:
    """Cubes of the folder ``source`` cut into tiles of ``tile`` x ``tile`` pixels, with the temperature of their place.

    Every tile comes as its whole season, days counting from 1 January; and as windows of ``window`` days that begin
    ``every`` days apart, days counting from the window's first, so that the date is not given away.

    Parts ``season/...`` and ``window/...``: every place by its name (``portugal``, ``romania``), of three places or
    more the tiles of all others as ``not NAME``, and ``train``, ``val``, ``test`` by blocks of ``block`` x ``block``
    tiles within all places. All tiles of a place share one series of temperature, for that is what E-OBS knows of two
    kilometres. Places may differ in size and in the number of their dates.

    Raises:
        ValueError: no cube in the folder, a cube that lacks an array or is smaller than a tile, or no place as long as
            a window.
    """
    paths = sorted(Path(source).glob("*.npz"))
    if not paths:
        raise ValueError(f"{source}: no .npz here; --data is the folder with the minicubes")
    cubes = {place: _cube(path, tile) for place, path in _named(paths).items()}
    longest = max(int(np.ptp(cube["temperature_days"])) + 1 for cube in cubes.values())
    if longest < window:
        raise ValueError(f"{source}: the longest series of temperature has {longest} days, fewer than window={window}")
    parts: dict[str, TileDataset] = {}
    for kind, cut in (("season", _season), ("window", lambda cube: _windows(cube, window, every))):
        pieces = {place: cut(cube) for place, cube in cubes.items()}  # a place may be too short for a window
        tiles = _tiles({place: piece for place, piece in pieces.items() if len(piece["s2"])}, tile // _PATCH, block)
        parts |= {f"{kind}/{name}": tiles.split(name) for name in tiles.splits}
        parts[f"{kind}/all"] = tiles
    spans = ", ".join(f"{place} {cube['first']} to {cube['last']}" for place, cube in cubes.items())
    words = f"{len(parts['season/all'])} tiles of {tile * _METRES:g} m, {len(parts['window/all'])} windows; {spans}"
    return parts, words


@renamed(given="conditioning")
def generate(
    state: State,
    *,
    recipes: Mapping[str, Mapping[str, Mapping[str, Any]]],
    target: str = "temperature",
    conditioning: Sequence[str] = ("s2",),
    samples: int = 8,
    how: Mapping[str, Any] | None = None,
    unit: str = "degC",
) -> str:
    """Temperature from images where training never was; scores go to ``<kind>_by_<split>.<method>.rmse``.

    By place: learned at all other places and generated at each one, scored together; left out where there is one place
    alone. By block: learned and generated within all places, whose weather is thus known; only the ground is new.

    Args:
        recipes: for ``season`` and ``window`` the models by name, as arguments of
            :class:`~fusion.token_fusion.in_memory.Recipe`. The first is ``model``, the others ``model_<name>``. A
            tokenizer of a series with a ``step`` and no ``start`` or ``length`` spans the days of the data.
        how: arguments of :func:`fusion.token_fusion.generate.generate`.
        unit: of the target, for the report.
    """
    told = []
    for kind, models in recipes.items():
        first, last = _span(state.split(f"{kind}/all"))
        plans = {name: Recipe.of(_spanning(settings, first, last)) for name, settings in models.items()}
        parts = [name.partition("/")[2] for name in state.data if name.startswith(f"{kind}/")]
        places = [name for name in parts if name not in ("train", "val", "test", "all") and name[:4] != _OTHERS]
        splits = {"place": _pairs(places), "block": [("train", "test")]}
        if len(places) < 2:
            told.append(f"{kind} by place left out: one place alone, {places[0]}")
        for split, pairs in ((split, pairs) for split, pairs in splits.items() if pairs):
            found, names = [], []
            for train, test in pairs:
                known, unseen = state.split(f"{kind}/{train}"), state.split(f"{kind}/{test}")
                found.append(_one(plans, known, unseen, target, conditioning, samples, state.seed, how))
                names += unseen.names
            result = _joined(found)
            rows = result.scores()
            what = f"{_SPLITS[split]} {len(names)} {kind}s scored; seed {state.seed}."
            state.metrics[f"{kind}_by_{split}"] = rows | {"conditions": what}
            ground = np.array([name.rpartition("/")[0] for name in names])  # windows of one tile together
            keep_profiles(state, f"{kind}_by_{split}", result.truth, result.guesses, ground)
            items: list[Picture | Table] = [score_table(rows, what, unit), *pictures(result, target, unit, what, names)]
            state.sections.append(Section(f"{target.capitalize()} of a {kind}, by {split}", "", items))
            told.append(f"{kind} by {split} " + ", ".join(f"{n} {rows[n]['rmse']:.2f}" for n in ("model", "ridge")))
    return f"RMSE ({unit}): " + "; ".join(told)


_OTHERS = "not "  # of the tiles of all places but one
_SPLITS = {
    "place": "Learned at the other places and generated at each one.",
    "block": "Easier: other ground of the same places, whose weather training has seen.",
}


def _pairs(places: Sequence[str]) -> list[tuple[str, str]]:
    """Names of the parts to train and to test on, each place once to test on; none of one place alone."""
    if len(places) < 3:
        return [(a, b) for a in places for b in places if a != b]
    return [(f"{_OTHERS}{place}", place) for place in places]


def _span(tiles: TileDataset) -> tuple[int, int]:
    """First and last valid day of any series of any tile."""
    days = [tile.days[m][tile.valid[m]] for tile in map(tiles.__getitem__, range(len(tiles))) for m in tile.days]
    known = [own for own in days if len(own)]
    return min(int(own.min()) for own in known), max(int(own.max()) for own in known)


def _spanning(settings: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
    """The settings of a recipe whose tokenizers of series, those with a step, span the days from first to last."""
    model = dict(settings.get("model") or {})
    tokenizers = {}
    for name, given in (model.get("tokenizers") or {}).items():
        own = dict(given)
        if "step" in own:
            own.setdefault("start", first)
            own.setdefault("length", max(1, math.ceil((last + 1 - own["start"]) / own["step"])))
        tokenizers[name] = own
    return {**settings, "model": model | {"tokenizers": tokenizers}} if tokenizers else dict(settings)


def _one(
    plans: Mapping[str, Recipe],
    known: TileDataset,
    unseen: TileDataset,
    target: str,
    conditioning: Sequence[str],
    samples: int,
    seed: int,
    how: Mapping[str, Any] | None,
) -> Generated:
    """All models and baselines, trained on ``known``."""
    results: list[Generated] = []
    for plan in plans.values():
        model, first = learn(known, plan, seed), not results
        found = compare(
            model, known, unseen, target, conditioning, samples=samples, seed=seed, how=how, baselines=first
        )
        results.append(found)
    main = results[0]
    main.guesses.update(
        {f"model_{name}": found.guesses["model"] for name, found in list(zip(plans, results, strict=True))[1:]}
    )
    return main


def _joined(parts: Sequence[Generated]) -> Generated:
    """The tiles of several as one; dates that some training never saw are left out."""
    guesses = {name: np.concatenate([part.guesses[name] for part in parts]) for name in parts[0].guesses}
    drawn = np.concatenate([part.drawn for part in parts], axis=1)
    truth = np.concatenate([part.truth for part in parts])
    truth = np.where(np.isfinite(guesses["mean_profile"]), truth, np.nan)
    dates = np.isfinite(truth).any((0, 1))
    kept = {name: guess[..., dates] for name, guess in guesses.items()}
    return Generated(truth[..., dates], kept, drawn[..., dates], parts[0].days[dates])


def _tiles(cubes: Mapping[str, Mapping[str, np.ndarray]], side: int, block: int) -> ArrayTiles:
    """Tiles (or windows of tiles) of all places, with places and blocks as splits."""
    s2 = Modality("s2", "series", _BANDS, _METRES, _PATCH, "reflectance x 10000")
    temperature = Modality("temperature", "series", ("mean",), _METRES * _PATCH, 1, "degC")

    def joined(key: str) -> np.ndarray:
        return _stacked([cube[key] for cube in cubes.values()])

    places = np.repeat(list(cubes), [len(cube["s2"]) for cube in cubes.values()])
    # Places lie far apart, so that no block spans two.
    position, number = joined("position"), np.unique(places, return_inverse=True)[1]
    splits = block_splits(position + np.stack([1000 * number, 0 * number], axis=1), block=block)
    splits |= {place: np.flatnonzero(places == place) for place in cubes}
    if len(cubes) > 2:
        splits |= {f"{_OTHERS}{place}": np.flatnonzero(places != place) for place in cubes}
    names = [f"{p}/{r}-{c}/{d}" for p, (r, c), d in zip(places, position, joined("begin"), strict=True)]
    return ArrayTiles(
        [s2, temperature],
        {name: joined(name) for name in ("s2", "temperature")},
        {name: joined(f"{name}_days") for name in ("s2", "temperature")},
        grid=(side, side),
        names=names,
        splits={name: rows.tolist() for name, rows in splits.items()},
    )


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays (n, ...) after one another; series of fewer dates (axis 1) are filled with NaN, their days are masked."""
    if parts[0].ndim < 2:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    out = np.ma.masked_all((sum(map(len, parts)), longest, *parts[0].shape[2:]), parts[0].dtype)
    start = 0
    for part in parts:
        out[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return out.filled(np.nan) if out.dtype.kind == "f" else out if out.mask.any() else out.data


def _season(cube: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tiles of the whole season."""
    count, side = len(cube["s2"]), cube["side"]
    air = cube["temperature"]
    return {
        "s2": cube["s2"],
        "s2_days": np.broadcast_to(cube["s2_days"], (count, len(cube["s2_days"]))),
        "temperature": np.broadcast_to(air[:, None, None, None], (count, len(air), 1, side, side)),
        "temperature_days": np.broadcast_to(cube["temperature_days"], (count, len(air))),
        "position": cube["position"],
        "begin": np.zeros(count, dtype=np.int64),
    }


def _windows(cube: Mapping[str, Any], window: int, every: int) -> dict[str, np.ndarray]:
    """Windows of tiles, tile after tile for each first day."""
    season = _season(cube)
    first, last = cube["temperature_days"][[0, -1]]
    parts: dict[str, list[np.ndarray]] = {key: [] for key in season}
    for begin in range(int(first), int(last) + 2 - window, every):
        for name in ("s2", "temperature"):
            inside = (cube[f"{name}_days"] >= begin) & (cube[f"{name}_days"] < begin + window)
            parts[name].append(season[name][:, inside])
            parts[f"{name}_days"].append(season[f"{name}_days"][:, inside] - begin)
        parts["position"].append(season["position"])
        parts["begin"].append(season["begin"] + begin)
    return {key: _stacked(arrays) if arrays else season[key][:0] for key, arrays in parts.items()}


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by place: by the country where a name is number_MGRS_latitude_longitude and the zone's country is known, by
    the zone, or by the name of the file; where two files would have one name, by those of the files."""
    zones = [
        next(iter(re.findall(r"(?<![A-Za-z0-9])\d{2}[C-X][A-Z]{2}(?![A-Za-z0-9])", p.stem)), p.stem) for p in paths
    ]
    called = [{"29S": "portugal", "34T": "romania"}.get(zone[:3], zone) for zone in zones]
    return {name if called.count(name) == 1 else path.stem: path for name, path in zip(called, paths, strict=True)}


def _cube(path: Path, tile: int) -> dict[str, Any]:
    """``s2`` (N, L, 4, tile, tile) of all tiles, ``temperature`` (days,), their days, and where the tiles are."""
    with np.load(path) as cube:
        lacking = [name for name in ("s2", "cloud_mask", "s2_dates", "meteo", "meteo_dates") if name not in cube]
        if lacking:
            raise ValueError(f"{path}: no {', '.join(lacking)}; a minicube has s2, cloud_mask, meteo and their dates")
        s2, clouds = cube["s2"].astype(np.float32), cube["cloud_mask"]
        dates, meteo_dates = (cube[name].astype("datetime64[D]") for name in ("s2_dates", "meteo_dates"))
        variables = cube["meteo_vars"].astype(str).tolist() if "meteo_vars" in cube else [_MEAN]
        if _MEAN not in variables:
            raise ValueError(f"{path}: meteo_vars are {', '.join(variables)}; {_MEAN}, the daily mean, is wanted")
        temperature = cube["meteo"][:, variables.index(_MEAN)].astype(np.float32)
    if min(s2.shape[-2:]) < tile:
        raise ValueError(
            f"{path}: {s2.shape[-2]} x {s2.shape[-1]} pixels hold no tile of {tile} x {tile}; give a smaller tile"
        )
    seen = (clouds == _CLEAR)[:, None] & (s2 > 0)
    s2 = np.where(seen, s2, np.nan)
    rows, columns = (size // tile for size in s2.shape[-2:])
    tiles = s2[..., : rows * tile, : columns * tile].reshape(*s2.shape[:2], rows, tile, columns, tile)
    january = dates[0].astype("datetime64[Y]").astype("datetime64[D]")
    return {
        "s2": tiles.transpose(2, 4, 0, 1, 3, 5).reshape(rows * columns, *s2.shape[:2], tile, tile),
        "s2_days": (dates - january).astype(np.int64),
        "temperature": temperature,
        "temperature_days": (meteo_dates - january).astype(np.int64),
        "position": np.stack(np.divmod(np.arange(rows * columns), columns), axis=1),
        "side": tile // _PATCH,
        "first": meteo_dates[0],
        "last": meteo_dates[-1],
    }
