"""Gross primary production at flux towers from series of satellite bands and weather, split by site and by year."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...context import ContextFusion, FusionConfig, SensorAutoencoder
from ...context.module import FusionPretraining, SensorPretraining
from ...context.samples import ContextSamples
from ...data import Modality, Tile, TileBatch, collate
from ...data.cubes import Cube, SensorCube, observed_statistics
from ...evaluation import Section
from ...workflow.state import State
from .reconstruction import explained_variance, reconstruction_table
from .regression import predict, report
from .rows import Rows
from .stages import Recipe, objective, sensor

__all__ = ["cross_validate", "open_towers"]

_FILE = "hls_merra_gpp_sites.csv"
_BANDS = {"blue": "b2", "green": "b3", "red": "b4", "nir": "b5", "swir1": "b6", "swir2": "b7"}
_WEATHER = (
    "T2MIN", "T2MAX", "T2MEAN", "TSMDEWMEAN", "GWETROOT", "LHLAND", "SHLAND", "SWLAND", "PARDFLAND", "PRECTOTLAND",
)  # fmt: skip


@dataclass(frozen=True)
class Towers:
    """The rows of the table, one an image, and the same as one cube of a single pixel a site.

    Attributes:
        bands (N, 6), weather (N, 10), gpp (N,): in g C m-2 d-1.
        site, year: (N,) text; day: (N,) since 1970-01-01.
        rows: by site, its rows in the order of time.
    """

    cubes: list[Cube]
    bands: np.ndarray
    weather: np.ndarray
    gpp: np.ndarray
    site: np.ndarray
    year: np.ndarray
    day: np.ndarray
    rows: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.gpp)


def open_towers(source: str | Path) -> tuple[dict[str, Any], str]:
    """``hls_merra_gpp_sites.csv`` of the folder ``source``.

    Raises:
        ValueError: there is no such file, or a row lacks a value.
    """
    path = Path(source) / _FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; --data is the folder that holds it")
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))

    def column(*names: str) -> np.ndarray:
        values = np.array([[row[name] or "nan" for name in names] for row in table], dtype=np.float32)
        if not np.isfinite(values).all():
            row, name = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(f"{path}: row {row + 2} has no value of {names[name]}")
        return values

    bands, weather, gpp = column(*_BANDS.values()), column(*_WEATHER), column("GPP")[:, 0].astype(np.float64)
    site, year = (np.array([row[name] for row in table]) for name in ("SITE_ID", "year"))
    day = np.array([row["date"] for row in table], dtype="datetime64[D]").astype(np.int64)
    optical = Modality("hls", "series", tuple(_BANDS), 30.0, 1, "reflectance")
    met = Modality("weather", "series", _WEATHER, 30.0, 1, "MERRA-2")
    cubes, rows = [], {}
    for name in np.unique(site):
        own = np.flatnonzero(site == name)
        rows[str(name)] = own = own[np.argsort(day[own])]
        sensors = {
            "hls": SensorCube(optical, day[own], bands[own][..., None, None]),
            "weather": SensorCube(met, day[own], weather[own][..., None, None]),
        }
        cubes.append(Cube(str(name), sensors))
    towers = Towers(cubes, bands, weather, gpp, site, year, day, rows)
    return {"all": towers}, f"{len(gpp)} images at {len(cubes)} towers, {min(year)} to {max(year)}"


def cross_validate(
    state: State,
    *,
    sensors: Mapping[str, Mapping[str, Any]],
    fusion: Mapping[str, Any],
    steps: tuple[int, int],
    regressor: Mapping[str, Any],
    recipe: Mapping[str, Any] | None = None,
    folds: int = 6,
    repeats: int = 2,
) -> str:
    """Everything, the representation included, is trained without the held-out sites (or years), fold by fold.

    Methods are those of :func:`~fusion.experiments.context.regression.predict`; the embedding is made of bands and
    weather, which ``forest_all`` and ``ridge_all`` see as well.

    Args:
        steps: of stage 1 and stage 2.
        regressor: settings of :func:`fusion.context.gpp.fit_regressor`; ``repeats`` seeds of it are averaged.
        folds: of sites; years are left out one at a time.
    """
    from sklearn.model_selection import GroupKFold

    towers: Towers = state.data["all"]
    rows = Rows(towers.bands, towers.weather, towers.site, towers.day, towers.gpp)
    splits = {"by_site": (towers.site, folds), "by_year": (towers.year, len(np.unique(towers.year)))}
    plan = Plan(sensors, fusion, tuple(steps), Recipe.of(recipe or {}), regressor, repeats, state.seed)
    items: list[Any] = []
    for key, (groups, parts) in splits.items():
        held_out = list(GroupKFold(parts).split(towers.bands, groups=groups))
        with ProcessPoolExecutor(min(os.cpu_count() or 1, parts), get_context("spawn")) as pool:
            run = partial(_fold, plan, towers, rows)
            predicted, kept = zip(*pool.map(run, *zip(*held_out, strict=True)), strict=True)
        order = np.argsort(np.concatenate([test for _, test in held_out]))
        guessed = {name: np.concatenate([p[name] for p in predicted])[order] for name in predicted[0]}
        what = f"Each of {len(towers)} images once, predicted without its {key[3:]} ({parts} folds of {key[3:]}s)."
        state.metrics[key], shown = report(rows, guessed, what)
        told = {name: float(np.mean([fold[name] for fold in kept])) for name in sensors}
        state.metrics.setdefault("reconstruction", {})[key] = told
        items += [*shown, reconstruction_table(told, f"of images held out ({key}, mean of folds)")]
    state.sections.append(Section("Gross primary production where (or when) nothing was seen", "", items))
    return "; ".join(
        f"{key} R2 model {state.metrics[key]['model']['r2']:.3f}, forest {state.metrics[key]['forest']['r2']:.3f}"
        for key in splits
    )


@dataclass(frozen=True)
class Plan:
    """What every fold does; fields as :func:`cross_validate` takes them."""

    sensors: Mapping[str, Mapping[str, Any]]
    fusion: Mapping[str, Any]
    steps: tuple[int, int]
    recipe: Recipe
    regressor: Mapping[str, Any]
    repeats: int
    seed: int


def _fold(
    plan: Plan, towers: Towers, rows: Rows, train: np.ndarray, test: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Predictions of one fold and what its embedding explains of the images held out.

    In a process of its own, with one thread: the matrices are too small for several.
    """
    torch.set_num_threads(1)
    model = _represent(towers, train, plan)
    tiles = _tiles(towers, model)  # the neighbours in time of a row are inputs, held out or not
    with torch.no_grad():
        embedding = model(collate(tiles)).embedding.numpy()
    kept = explained_variance(model, collate([tiles[i] for i in test]))
    found = predict(rows, embedding, train, test, plan.regressor, repeats=plan.repeats, seed=plan.seed)
    return found, kept


def _represent(towers: Towers, train: np.ndarray, plan: Plan) -> ContextFusion:
    """Both stages on the rows ``train``, without their GPP."""
    cubes = _only(towers, train)
    configs = [
        sensor(observed_statistics(cubes, cubes[0].sensors[name].modality), 1, fields)
        for name, fields in plan.sensors.items()
    ]
    samples = ContextSamples(cubes, configs, stride=1)
    names = [m.name for m in samples.modalities]
    rng = np.random.default_rng(plan.seed)
    size = min(256, len(samples))
    drawn = [rng.choice(len(samples), size, replace=False) for _ in range(12)]
    batches = [collate([samples[int(i), k] for i in rows], names) for k, rows in enumerate(drawn)]  # random views
    torch.manual_seed(plan.seed)
    encoders = {}
    for config in configs:
        module = SensorPretraining(SensorAutoencoder(config), objective(config, plan.recipe))
        encoders[config.modality.name] = _descend(module, batches, plan.steps[0], plan.recipe.lr).model
    model = ContextFusion(FusionConfig(tuple(configs), **plan.fusion), encoders)
    if plan.recipe.freeze:
        model.freeze_sensors()
    objectives = {c.modality.name: objective(c, plan.recipe) for c in configs}
    return _descend(FusionPretraining(model, objectives), batches, plan.steps[1], plan.recipe.lr).model.eval()


def _descend(module: Any, batches: list[TileBatch], steps: int, lr: float) -> Any:
    """A plain loop: with a thousand single pixels, keeping a run folder would take longer than the training."""
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=module.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    module.train()
    for step in range(steps):
        optimizer.zero_grad()
        module.losses(batches[step % len(batches)])[0].backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    return module


def _only(towers: Towers, rows: np.ndarray) -> list[Cube]:
    """The cubes with only these rows in them."""
    kept = np.zeros(len(towers), dtype=bool)
    kept[rows] = True
    cubes = []
    for cube in towers.cubes:
        own = kept[towers.rows[cube.name]]
        if own.any():
            parts = {n: SensorCube(s.modality, s.dates[own], s.values[own]) for n, s in cube.sensors.items()}
            cubes.append(Cube(cube.name, parts))
    return cubes


def _tiles(towers: Towers, model: ContextFusion) -> list[Tile]:
    """The context of every image, in the order of the table's rows."""
    samples = ContextSamples(towers.cubes, model.config.sensors, stride=1)
    places = [name.split("/")[:2] for name in samples.names]
    order = np.argsort([towers.rows[site][int(date)] for site, date in places])
    return [samples[int(i)] for i in order]
