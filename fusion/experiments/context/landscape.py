"""The full spatial case on the built-in landscape: cubes of several sites and years, the production of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...context.cubes import Cube, SensorCube, observed_statistics, smooth_backscatter
from ...context.samples import ContextSamples, context_frames
from ...data import Landscape, Modality
from ...data.landscape.vegetation import BANDS
from ...embed.dense import BlockEncoder
from ...evaluation import Section
from ..state import State
from . import pictures
from .regression import Rows, predict, report
from .stages import Recipe, sensor, train_stages

__all__ = ["cross_validate", "open_sites"]


def open_sites(
    source: str, *, sites: int, years: Sequence[int], size: int, seed: int = 0
) -> tuple[dict[str, Any], str]:
    """Landscapes of ``sites`` seeds in several ``years``, one cube each; ``source`` must be ``landscape``."""
    if source != "landscape":
        raise ValueError(f"this experiment runs on the built-in landscape, not on {source}")
    scenes = {f"site{k}-{year}": Landscape(size, seed + k, year=year, fine=2) for k in range(sites) for year in years}
    cubes = [_cube(name, scene) for name, scene in scenes.items()]
    words = f"{len(cubes)} synthetic cubes of {size} x {size} pixels: {sites} sites in {', '.join(map(str, years))}"
    return {"all": cubes, "scenes": scenes}, words


def _cube(name: str, scene: Landscape) -> Cube:
    first = int(np.datetime64(f"{scene.year}-01-01").astype("datetime64[D]").astype(np.int64))
    optical = scene.optical
    values = np.where(optical.values == 0, np.nan, optical.values.astype(np.float32))
    days, radar = scene.radar
    s2 = Modality("s2", "series", BANDS, 10.0, 1, "reflectance x 10000")
    s1 = Modality("s1", "series", ("VV", "VH"), 10.0, 1, "dB")
    sensors = {
        "s2": SensorCube(s2, first + optical.days - 1, values, optical.clear),
        "s1": SensorCube(s1, first + days - 1, smooth_backscatter(radar)),
    }
    return Cube(name, sensors, scene.geo, site=name.split("-")[0])


def cross_validate(
    state: State,
    *,
    window: int,
    sensors: Mapping[str, Mapping[str, Any]],
    samples: int,
    recipe: Mapping[str, Any],
    fusion: Mapping[str, Any],
    pixels: int,
    regressor: Mapping[str, Any],
    repeats: int = 1,
) -> str:
    """Trains on some sites in some years, predicts production at other sites and, at the same ones, in the last year.

    The representation is trained once, on the training sites in the training years alone; the regression too, for
    each of the two splits on the rows that neither share.

    Args:
        pixels: a cube, whose series are used.
    """
    cubes: list[Cube] = state.data["all"]
    names = sorted({c.site for c in cubes})
    last = max(c.name.split("-")[1] for c in cubes)
    held = set(names[-max(1, len(names) // 3) :])
    seen = [c for c in cubes if c.site not in held and not c.name.endswith(last)]
    configs = [sensor(observed_statistics(seen, seen[0].sensors[n].modality), window, f) for n, f in sensors.items()]
    train, validation = (
        ContextSamples(seen, configs, stride=3, limit=n, seed=state.seed + k)
        for k, n in enumerate((samples, max(64, samples // 8)))
    )
    model = train_stages(
        configs, train, validation, state.out / "train", Recipe.of(recipe), fusion=fusion, seed=state.seed,
        progress=state.progress,
    )  # fmt: skip
    state.models["pretrained"] = model

    tables = [_rows(cube, state.data["scenes"][cube.name], model, pixels, state.seed) for cube in cubes]
    rows, embedding = _join([t[0] for t in tables]), np.concatenate([t[1] for t in tables])
    cube_of = np.repeat(np.arange(len(cubes)), [len(t[0]) for t in tables])
    in_training = np.isin(cube_of, [cubes.index(c) for c in seen])
    tests = {
        "by_site": np.isin(cube_of, [k for k, c in enumerate(cubes) if c.site in held]),
        "by_year": np.isin(cube_of, [k for k, c in enumerate(cubes) if c.site not in held and c.name.endswith(last)]),
    }
    items: list[Any] = []
    for key, test in tests.items():
        where = np.flatnonzero(in_training), np.flatnonzero(test)
        guessed = predict(rows, embedding, *where, regressor, repeats=repeats, seed=state.seed)
        sizes = f"{len(where[1])} pixels and dates, learned from {len(where[0])}"
        what = f"Synthetic production of {sizes} of other {key[3:]}s."
        state.metrics[key], shown = report(rows.target[where[1]], guessed, what)
        items += shown
    state.sections.append(Section("Production of synthetic fields", "", items))
    _maps(state, next(c for c in cubes if c.site in held), model)
    return "; ".join(
        f"{key} R2 model {state.metrics[key]['model']['r2']:.3f}, forest {state.metrics[key]['forest']['r2']:.3f}"
        for key in tests
    )


def _rows(cube: Cube, scene: Landscape, model: Any, pixels: int, seed: int) -> tuple[Rows, np.ndarray]:
    """Rows of some pixels on every date they were seen, and their embeddings."""
    height, width = cube.shape
    chosen = np.zeros(height * width, dtype=bool)
    chosen[np.random.default_rng(seed).choice(height * width, min(pixels, height * width), replace=False)] = True
    mask = chosen.reshape(height, width)
    embedding = BlockEncoder(model, cube, pixels=mask)(slice(0, height), slice(0, width))[:, :, mask]  # (T, E, n)
    s2, s1 = cube.sensors["s2"], cube.sensors["s1"]
    values, _ = s2.read(slice(0, height), slice(0, width))
    backscatter, _ = s1.read(slice(0, height), slice(0, width))
    nearest = np.abs(s1.days[None, :] - s2.days[:, None]).argmin(axis=1)
    first = int(np.datetime64(f"{scene.year}-01-01").astype("datetime64[D]").astype(np.int64))
    truth = scene.production(s2.days - first + 1)[:, mask]  # (T, n)
    seen = np.isfinite(embedding[:, 0])  # (T, n)
    number = np.full(seen.shape, -1)
    number[seen] = np.arange(seen.sum())
    context = []
    for t, n in np.argwhere(seen):
        near = context_frames(seen[:, n][None], s2.days, np.array([t]), 7, 120)[0]
        context.append(np.where(near >= 0, number[np.maximum(near, 0), n], -1))
    date, _ = np.nonzero(seen)
    bands = values[:, :, mask].transpose(0, 2, 1)[seen]
    more = backscatter[nearest][:, :, mask].transpose(0, 2, 1)[seen]
    rows = Rows(bands, more, np.array(context), s2.days[date], truth[seen].astype(np.float64))
    return rows, embedding.transpose(0, 2, 1)[seen]


def _join(parts: Sequence[Rows]) -> Rows:
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    context = [np.where(p.context >= 0, p.context + start, -1) for p, start in zip(parts, starts, strict=True)]
    joined = {f: np.concatenate([getattr(p, f) for p in parts]) for f in ("bands", "more", "day", "target")}
    return Rows(context=np.concatenate(context), **joined)


def _maps(state: State, cube: Cube, model: Any) -> None:
    usable = np.flatnonzero(cube.sensors["s2"].seen_share() > 0.9)[:8]
    encoder = BlockEncoder(model, cube, dates=usable)
    embedding = encoder(*(slice(0, n) for n in cube.shape))
    iso = [str(np.datetime64(int(d), "D")) for d in encoder.days]
    caption = f"Synthetic cube {cube.name}, a site that training never saw."
    middle = len(iso) // 2
    items = [
        pictures.pca_maps(embedding, iso, caption),
        pictures.similarity(embedding[middle], (cube.shape[0] // 2, cube.shape[1] // 2), iso[middle], caption),
    ]
    state.sections.append(Section("What the embeddings look like", "", items))
