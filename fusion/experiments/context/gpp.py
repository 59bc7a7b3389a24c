"""Gross primary production at flux sites from series of satellite bands and weather, split by site and by year."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ...context import ContextFusion, FusionConfig, SensorAutoencoder
from ...context.module import FusionPretraining, SensorPretraining
from ...context.samples import ContextSamples
from ...context.two_stage import Recipe, objective, sensor
from ...data import Tile, TileBatch, collate
from ...data.cubes import observed_statistics
from ...data.flux_sites import FluxSites, read_flux_sites
from ...evaluation import Section
from ...evaluation.reconstruction import explained_variance, reconstruction_table
from ...evaluation.regression import predict, report
from ...evaluation.rows import Rows
from ...training.in_memory import descend
from ...workflow.state import State

__all__ = ["beside", "cross_validate", "open_sites"]

Stage = TypeVar("Stage", SensorPretraining, FusionPretraining)


def open_sites(source: str | Path) -> tuple[dict[str, Any], str]:
    """The flux sites of the folder ``source``, see :func:`fusion.data.flux_sites.read_flux_sites`."""
    sites = read_flux_sites(source)
    return {"all": sites}, str(sites)


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
    years: bool = True,
    gaussian: bool = False,
) -> str:
    """Everything, the representation included, is trained without the held-out sites (or years), fold by fold.

    Methods are those of :func:`~fusion.evaluation.regression.predict`; the embedding is made of bands and
    weather, which ``forest_all`` and ``ridge_all`` see as well.

    Args:
        steps: of stage 1 and stage 2.
        regressor: settings of :func:`fusion.evaluation.temporal.fit_regressor`; ``repeats`` seeds of it are averaged.
        folds: of sites; years are left out one at a time.
        years: whether they are.
        gaussian: adds a Gaussian process on the embedding and :func:`beside`, and one on the latter alone, the
            strongest control that was found.
    """
    from sklearn.model_selection import GroupKFold

    sites: FluxSites = state.data["all"]
    rows = Rows(sites.bands, sites.weather, sites.site, sites.day, sites.gpp)
    splits = {"by_site": (sites.site, folds)}
    if years:
        splits["by_year"] = (sites.year, len(np.unique(sites.year)))
    plan = Plan(
        sensors, fusion, (steps[0], steps[1]), Recipe.of(recipe or {}), regressor, repeats, state.seed, gaussian
    )
    items: list[Any] = []
    for key, (groups, parts) in splits.items():
        held_out = list(GroupKFold(parts).split(sites.bands, groups=groups))
        with ProcessPoolExecutor(min(os.cpu_count() or 1, parts), get_context("spawn")) as pool:
            run = partial(_fold, plan, sites, rows)
            predicted, kept = zip(*pool.map(run, *zip(*held_out, strict=True)), strict=True)
        order = np.argsort(np.concatenate([test for _, test in held_out]))
        guessed = {name: np.concatenate([p[name] for p in predicted])[order] for name in predicted[0]}
        what = (
            f"Each of {len(sites)} images once, predicted without its {key[3:]} ({parts} folds of {key[3:]}s), on one "
            f"representation a fold by the mean of {repeats} trainings of the transformer."
        )
        state.metrics[key], shown = report(rows, guessed, what, quantity="GPP", unit="g C m⁻² d⁻¹")
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
    gaussian: bool


def beside(sites: FluxSites) -> np.ndarray:
    """(N, 20) bands, weather, and the near-infrared reflectance of vegetation (NIRv, Badgley et al. 2017) times
    short-wave radiation, diffuse radiation for photosynthesis, mean temperature and soil moisture.

    Production is near proportional to NIRv times radiation (Dechant et al. 2022, "NIRVP"), which a method on bands
    and weather has to find out from products of them.
    """
    band = {
        name: sites.bands[:, k].astype(np.float64)
        for k, name in enumerate(sites.cubes[0].sensors["hls"].modality.bands)
    }
    weather = {
        name: sites.weather[:, k].astype(np.float64)
        for k, name in enumerate(sites.cubes[0].sensors["weather"].modality.bands)
    }
    red, near_infrared = band["red"], band["nir"]
    total = near_infrared + red
    nirv = (near_infrared - red) / np.where(total > 0, total, 1.0) * near_infrared
    products = [nirv * weather[name] for name in ("SWLAND", "PARDFLAND", "T2MEAN", "GWETROOT")]
    return np.hstack([sites.bands, sites.weather, np.stack(products, axis=1)])


def _fold(
    plan: Plan, sites: FluxSites, rows: Rows, train: np.ndarray, test: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Predictions of one fold and what its embedding explains of the images held out.

    In a process of its own, with one thread: the matrices are too small for several.
    """
    torch.set_num_threads(1)
    model = _represent(sites, train, plan)
    tiles = _tiles(sites, model)  # the neighbours in time of a row are inputs, held out or not
    with torch.no_grad():
        embedding = model(collate(tiles)).embedding.numpy()
    kept = explained_variance(model, collate([tiles[i] for i in test]))
    known = beside(sites) if plan.gaussian else None
    found = predict(rows, embedding, train, test, plan.regressor, repeats=plan.repeats, seed=plan.seed, beside=known)
    return found, kept


def _represent(sites: FluxSites, train: np.ndarray, plan: Plan) -> ContextFusion:
    """Both stages on the rows ``train``, without their GPP."""
    cubes = sites.cubes_of(train)
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
    encoders: dict[str, SensorAutoencoder] = {}
    for config in configs:
        module = SensorPretraining(SensorAutoencoder(config), objective(config, plan.recipe))
        encoders[config.modality.name] = _train(module, batches, plan.steps[0], plan.recipe.lr).model
    model = ContextFusion(FusionConfig(tuple(configs), **plan.fusion), encoders)
    if plan.recipe.freeze:
        model.freeze_sensors()
    objectives = {c.modality.name: objective(c, plan.recipe) for c in configs}
    return _train(FusionPretraining(model, objectives), batches, plan.steps[1], plan.recipe.lr).model.eval()


def _train(module: Stage, batches: list[TileBatch], steps: int, lr: float) -> Stage:
    return descend(
        module,
        lambda step: module.losses(batches[step % len(batches)])[0],
        steps=steps,
        lr=lr,
        weight_decay=module.weight_decay,
    )


def _tiles(sites: FluxSites, model: ContextFusion) -> list[Tile]:
    """The context of every image, in the order of the table's rows."""
    samples = ContextSamples(sites.cubes, model.config.sensors, stride=1)
    places = [name.split("/")[:2] for name in samples.names]
    order = np.argsort([sites.rows[site][int(date)] for site, date in places])
    return [samples[int(i)] for i in order]
