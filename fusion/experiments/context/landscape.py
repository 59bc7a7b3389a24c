"""The full spatial case on the built-in landscape: cubes of several sites and years, the production of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...context import ContextFusion
from ...context.samples import ContextSamples
from ...context.two_stage import Recipe, TwoStages, held_out, sensor
from ...data import Landscape, Modality, collate
from ...data.cubes import Cube, SensorCube, observed_statistics, smooth_backscatter
from ...data.landscape.vegetation import BANDS, CLASSES
from ...embed.dense import BlockEncoder
from ...evaluation import Section, embedding_plots
from ...evaluation.reconstruction import explained_variance, reconstruction_table
from ...evaluation.regression import predict, report
from ...evaluation.rows import Rows
from ...evaluation.rows import season as season_of
from ...workflow.state import State

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
    first, optical = np.datetime64(f"{scene.year}-01-01", "D"), scene.optical
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
    season: bool = False,
) -> str:
    """Trains on some sites in some years, predicts production at other sites and, at the same ones, in the last year.

    The representation is trained once, on the training sites in the training years alone, and so is the regression:
    none of its rows is of a held-out site or of the last year.

    Args:
        pixels: a cube, whose series are used.
        regressor: settings of :func:`fusion.evaluation.temporal.fit_regressor`; ``repeats`` seeds of it are averaged.
        season: regressors on embeddings, ``forest_all`` and ``ridge_all`` know the day of the year, as the paper's
            regression may know the sun's radiation.
    """
    cubes: list[Cube] = state.data["all"]
    names = sorted({c.site for c in cubes})
    last = max(c.name.split("-")[1] for c in cubes)
    held = set(names[-max(1, len(names) // 3) :])
    known = [c for c in cubes if c.site not in held and not c.name.endswith(last)]
    unseen = [c for c in cubes if c.site in held]
    configs = [sensor(observed_statistics(known, known[0].sensors[n].modality), window, f) for n, f in sensors.items()]
    train, validation = (
        ContextSamples(known, configs, stride=3, limit=n, seed=state.seed + k)
        for k, n in enumerate((samples, held_out(samples)))
    )
    stages = TwoStages(
        train, validation, state.out / "train", Recipe.of(recipe), seed=state.seed, progress=state.progress
    )
    model = stages.train_all(configs, fusion).eval()
    state.models["pretrained"] = model
    checked = ContextSamples(unseen, configs, stride=3, limit=256, seed=state.seed)
    batch = collate([checked[i] for i in range(len(checked))], [m.name for m in checked.modalities])
    state.metrics["reconstruction"] = explained_variance(model, batch)
    items: list[Any] = [reconstruction_table(state.metrics["reconstruction"], "at sites never seen")]

    tables = [_rows(cube, state.data["scenes"][cube.name], model, pixels, season, state.seed) for cube in cubes]
    rows, embedding = Rows.joined([t[0] for t in tables]), np.concatenate([t[1] for t in tables])
    cube_of = np.repeat(np.arange(len(cubes)), [len(t[0]) for t in tables])
    site, year = (np.array([c.name.split("-")[k] for c in cubes])[cube_of] for k in (0, 1))
    elsewhere = np.isin(site, list(held))
    learned = np.flatnonzero(~elsewhere & (year != last))
    tests = {"by_site": elsewhere, "by_year": ~elsewhere & (year == last)}
    asked = np.flatnonzero(np.logical_or(*tests.values()))  # both learn from the same rows
    found = predict(rows, embedding, learned, asked, regressor, repeats=repeats, seed=state.seed)
    for key, test in tests.items():
        own = test[asked]
        what = (
            f"Synthetic production of {own.sum()} pixels and dates of other {key[3:]}s than the {len(learned)} learned."
        )
        guessed = {name: values[own] for name, values in found.items()}
        state.metrics[key], shown = report(rows.only(asked[own]), guessed, what, quantity="GPP", unit="g C m⁻² d⁻¹")
        items += shown
    state.sections.append(Section("Production of synthetic fields", "", items))
    _maps(state, unseen[0], model)
    return "; ".join(
        f"{key} R2 model {state.metrics[key]['model']['r2']:.3f}, forest {state.metrics[key]['forest']['r2']:.3f}"
        for key in tests
    )


def _rows(
    cube: Cube, scene: Landscape, model: ContextFusion, pixels: int, season: bool, seed: int
) -> tuple[Rows, np.ndarray]:
    """Rows of some pixels on every date they were observed, and the regressors' inputs, (N, E) or (N, E + 2)."""
    height, width = cube.shape
    chosen = np.zeros(height * width, dtype=bool)
    chosen[np.random.default_rng(seed).choice(height * width, min(pixels, height * width), replace=False)] = True
    mask = chosen.reshape(height, width)
    embedding = BlockEncoder(model, cube, pixels=mask)(*cube.whole)[:, :, mask]  # (T, E, n)
    s2, s1 = cube.sensors["s2"], cube.sensors["s1"]
    values, _ = s2.read(*cube.whole)
    backscatter, _ = s1.read(*cube.whole)
    nearest = np.abs(s1.dates[None, :] - s2.dates[:, None]).argmin(axis=1)
    observed = np.isfinite(embedding[:, 0])  # (T, n)
    date, pixel = np.nonzero(observed)
    day = s2.epoch_days[date]
    truth = scene.production((s2.dates - np.datetime64(f"{scene.year}-01-01", "D")).astype(int) + 1)[:, mask]  # (T, n)
    bands, more, features = (
        part.transpose(0, 2, 1)[observed] for part in (values[:, :, mask], backscatter[nearest][:, :, mask], embedding)
    )
    if season:
        more, features = (np.hstack([part, season_of(day)]) for part in (more, features))
    place = np.array([f"{cube.name}, pixel {p}" for p in np.flatnonzero(chosen)])[pixel]
    return Rows(bands, more, place, day, truth[observed].astype(np.float64)), features


def _maps(state: State, cube: Cube, model: ContextFusion) -> None:
    """Pictures of a whole cube; the seasons are those of a pixel of each of four classes."""
    usable = np.flatnonzero(cube.sensors["s2"].observed_share() > 0.6)
    encoder = BlockEncoder(model, cube, dates=usable)
    embedding = encoder(*cube.whole)
    iso = encoder.dates.astype(str).tolist()
    caption = f"Synthetic cube {cube.name}, a site that training never saw."
    middle = len(iso) // 2
    items = [
        embedding_plots.pca_maps(embedding, iso, caption),
        embedding_plots.similarity(embedding[middle], (cube.shape[0] // 2, cube.shape[1] // 2), iso[middle], caption),
        embedding_plots.seasonal_curves(embedding, encoder.dates, _pure(state.data["scenes"][cube.name]), caption),
    ]
    state.sections.append(Section("What the embeddings look like", "", items))


def _pure(scene: Landscape, most: int = 4) -> dict[str, tuple[int, int]]:
    """By class, a pixel that it covers alone, of the classes that cover most of the scene."""
    share = scene.class_share  # (H, W, classes)
    largest = np.argsort(-share.sum(axis=(0, 1)))[:most]
    places = {CLASSES[k]: np.unravel_index(share[..., k].argmax(), share.shape[:2]) for k in largest}
    return {name: (int(row), int(column)) for name, (row, column) in places.items()}
