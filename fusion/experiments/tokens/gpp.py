"""Gross primary production at flux sites: joint pretraining of bands and weather against what else one would do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ...data import ArrayTiles, Modality
from ...data import fraction as draw_labels
from ...data.flux_sites import FluxSites, read_flux_sites
from ...evaluation import Picture, Section, Spread, Table, score
from ...evaluation.intervals import sample_sums, score_intervals
from ...evaluation.model_profiles import inputs
from ...evaluation.plots import observed_predicted
from ...evaluation.regressors import forest, gaussian_process, ridge
from ...settings import renamed
from ...token_fusion.generate import require_token_fusion
from ...token_fusion.heads import Tuning, regress, representation
from ...token_fusion.in_memory import Recipe, learn, tokenize
from ...training.systems import reinitialised
from ...workflow.examine import sensitivity
from ...workflow.state import State

__all__ = ["cross_validate", "open_flux_sites", "sensitive"]

_BEFORE, _FRAMES = 90, 4  # days of weather before an image, and at most so many dates of it


def open_flux_sites(source: str | Path) -> tuple[dict[str, Any], str]:
    """``hls_merra_gpp_sites.csv`` of the folder ``source``: a tile is one image of a site and its day's production.

    The image is one pixel, the mean of its 50 x 50; weather is a series: that of the day, and of the dates with an
    image of the same site in the same year up to 90 days before. Day 90 is the image's own.

    Parts: ``all`` tiles, and ``sites``, the table itself.

    Raises:
        ValueError: there is no such file, or a row lacks a value.
    """
    sites = read_flux_sites(source)
    hls, weather = (series.modality for series in sites.cubes[0].sensors.values())
    near = _before(sites)  # (N, L)
    seen = near >= 0
    days = np.where(seen, sites.day[near] - sites.day[:, None] + _BEFORE, 0)
    tiles = ArrayTiles(
        [Modality("hls", "image", hls.bands, 30.0, 1, hls.unit), weather],
        {"hls": sites.bands, "weather": np.where(seen[..., None], sites.weather[near], np.nan)},
        {"weather": days},
        names=[f"{site}/{day}" for site, day in zip(sites.site, sites.day.astype("datetime64[D]"), strict=True)],
        task="regression",
        classes=("GPP",),
        labels=torch.from_numpy(sites.gpp.astype(np.float32))[:, None],
    )
    return {"all": tiles, "sites": sites}, str(sites)


def _before(sites: FluxSites) -> np.ndarray:
    """(N, frames) rows of the same site and year up to each row's date, itself the last; -1 where there is none."""
    found = np.full((len(sites), _FRAMES), -1)
    for own in sites.rows.values():  # in the order of time
        for k, row in enumerate(own):
            earlier = own[max(0, k + 1 - _FRAMES) : k + 1]
            same = (sites.day[row] - sites.day[earlier] <= _BEFORE) & (sites.year[earlier] == sites.year[row])
            kept = earlier[same]
            found[row, _FRAMES - len(kept) :] = kept
    return found


@dataclass(frozen=True)
class Plan:
    """What every fold does; fields as :func:`cross_validate` takes them."""

    recipe: Recipe
    tuning: Mapping[str, Any]
    fractions: tuple[float, ...]


@renamed(shares="fractions")
def cross_validate(
    state: State,
    *,
    recipe: Mapping[str, Any],
    tuning: Mapping[str, Any] | None = None,
    fractions: Sequence[float] = (0.1, 1.0),
    repeats: int = 3,
    folds: int = 4,
) -> str:
    """GPP of every image, predicted without its site (or its year); scores go to ``<split>.labels_<percent>.<row>.r2``.

    Tokenizers and models are learned without the held-out sites (or years). Rows: ``joint``, pretrained on bands and
    weather without GPP, then fine-tuned; ``scratch``, the same network and tokens without pretraining;
    ``hls`` and ``weather``, the pretrained network fine-tuned on one of them; ``probe``, a ridge regression on the
    pretrained representation; ``ridge``, ``forest`` and ``gaussian_process`` on all values before tokenization;
    ``joint_and_process``, the mean of ``joint`` and ``gaussian_process``; ``mean`` of the labels. ``r2_low`` and
    ``r2_high`` are the 95 % interval over sites (or the sites of years), drawn with replacement.

    Args:
        recipe: of the models, as fields of :class:`~fusion.token_fusion.in_memory.Recipe`.
        tuning: fields of :class:`~fusion.token_fusion.heads.Tuning`.
        fractions: of the labels, drawn anew in every repeat.
        repeats: seeds; the folds of sites are drawn anew, too.
        folds: of sites; years are left out one at a time.
    """
    from sklearn.model_selection import GroupKFold

    tiles, sites = cast(ArrayTiles, state.data["all"]), cast(FluxSites, state.data["sites"])
    plan = Plan(Recipe.of(recipe), tuning or {}, tuple(fractions))
    target = sites.gpp
    jobs = []
    for split, groups in (("by_site", sites.site), ("by_year", sites.year)):
        parts = folds if split == "by_site" else len(np.unique(groups))
        for repeat in range(repeats):
            cut = GroupKFold(parts, shuffle=True, random_state=state.seed + repeat)
            jobs += [(split, repeat, *rows) for rows in cut.split(target, groups=groups)]
    guessed: dict[tuple[str, int], dict[tuple[float, str], np.ndarray]] = {}
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(jobs)), get_context("spawn")) as pool:
        run = partial(_fold, plan, tiles)
        found = pool.map(run, [j[2] for j in jobs], [j[3] for j in jobs], [state.seed + j[1] for j in jobs])
        for (split, repeat, _, test), by_row in zip(jobs, found, strict=True):
            rows = guessed.setdefault((split, repeat), {})
            for key, values in by_row.items():
                rows.setdefault(key, np.full(len(target), np.nan))[test] = values
    told = []
    for split in ("by_site", "by_year"):
        state.metrics[split], items = {}, []
        draws = [guessed[split, repeat] for repeat in range(repeats)]
        for fraction in plan.fractions:
            named = {row: [(target, draw[of, row]) for draw in draws] for of, row in draws[0] if of == fraction}
            scored, shown = _report(named, split[3:], fraction, sites.site, repeats)
            state.metrics[split][f"labels_{fraction:.0%}".rstrip("%")] = scored
            items += shown
            told.append(f"{split} {fraction:.0%} " + ", ".join(f"{r} {scored[r]['r2']:.2f}" for r in _TOLD))
        title = f"Gross primary production of {split[3:]}s that were never seen"
        state.sections.append(Section(title, "", items))
    return "R2 " + "; ".join(told)


_TOLD = ("joint", "scratch", "hls", "weather", "ridge", "forest", "gaussian_process", "joint_and_process")
_ROWS = {
    "joint": "pretrained on both, fine-tuned",
    "scratch": "the same without pretraining",
    "hls": "pretrained on both, fine-tuned on bands alone",
    "weather": "pretrained on both, fine-tuned on weather alone",
    "probe": "ridge regression on the pretrained representation",
    "ridge": "on all values",
    "forest": "random forest on all values",
    "gaussian_process": "on all values: a plane and a smooth surface",
    "joint_and_process": "mean of joint and gaussian_process",
    "mean": "of the labels",
}


def _fold(
    plan: Plan, tiles: ArrayTiles, train: np.ndarray, test: np.ndarray, seed: int
) -> dict[tuple[float, str], np.ndarray]:
    """Predictions of one fold by fraction and row, in a process of its own: the matrices are too small for threads."""
    torch.set_num_threads(1)
    known, unseen = tiles.subset(train), tiles.subset(test)
    model = learn(known, plan.recipe, seed)
    seen, hidden = tokenize(model, known), tokenize(model, unseen)
    codes = [representation(model, tokens) for tokens in (seen, hidden)]
    raw = [inputs(model, part, ["hls", "weather"]) for part in (known, unseen)]
    target = known.labels().numpy()[:, 0]
    torch.manual_seed(seed)
    fresh = require_token_fusion(reinitialised(model))
    found: dict[tuple[float, str], np.ndarray] = {}
    for fraction in plan.fractions:
        few = torch.tensor(draw_labels(known, fraction, seed))
        labelled, gpp = seen.rows(few), target[few]
        how = Tuning(**{"seed": seed} | dict(plan.tuning))
        found[fraction, "joint"] = regress(model, labelled, gpp, how).predict(hidden)
        found[fraction, "scratch"] = regress(fresh, labelled, gpp, how).predict(hidden)
        for name in ("hls", "weather"):
            single = regress(model, labelled.select([name]), gpp, how)
            found[fraction, name] = single.predict(hidden.select([name]))
        for name, made, (x, new) in (
            ("probe", ridge(), codes),
            ("ridge", ridge(), raw),
            ("forest", forest(seed), raw),
            ("gaussian_process", gaussian_process(), raw),
        ):
            found[fraction, name] = made.fit(x[few], gpp).predict(new)
        both = (found[fraction, "joint"], found[fraction, "gaussian_process"])
        found[fraction, "joint_and_process"] = np.mean(both, axis=0)
        found[fraction, "mean"] = np.full(len(test), gpp.mean())
    return found


def _report(
    named: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
    group: str,
    fraction: float,
    site: np.ndarray,
    repeats: int,
) -> tuple[dict[str, Any], list[Table | Picture]]:
    """Metrics, table and scatter of pairs of targets and predictions by row, one a repeat."""
    count = len(site)
    scored: dict[str, Any] = {}
    spreads, ends = {}, {}
    for row, pairs in named.items():
        draws = [score("regression", *pair) for pair in pairs]
        spreads[row] = {m: Spread.of([draw[m] for draw in draws]) for m in draws[0]}
        scored[row] = {m: s.mean for m, s in spreads[row].items()} | {f"{m}_sd": s.sd for m, s in spreads[row].items()}
        r2 = score_intervals("regression", [sample_sums("regression", *pair, 1) for pair in pairs], site).scores["r2"]
        scored[row] |= {"r2_low": r2.low, "r2_high": r2.high}
        ends[row] = r2
    what = (
        f"Each of {count} images once, predicted without its {group}, from {fraction:.0%} of the labels of the other "
        f"{group}s; mean and standard deviation over {repeats} seeds; beside it the 95 % interval over sites."
    )
    rows = [[name, _ROWS[name], s["r2"], str(ends[name]), s["rmse"], s["mae"]] for name, s in spreads.items()]
    columns = ["", "", "R²", "R² (95 %)", "RMSE (g C m⁻² d⁻¹)", "MAE"]
    table = Table(columns, rows, what, best=["R²"], lowest=columns[4:])
    target, guess = named["joint"][0]
    shown = observed_predicted(target, guess, "GPP", "g C m⁻² d⁻¹", f"joint, first seed. {what}")
    return scored | {"conditions": what}, [table, shown]


def sensitive(
    state: State, *, recipe: Mapping[str, Any], tuning: Mapping[str, Any] | None = None, key: str = "sensitivity"
) -> str:
    """Which modalities, bands and dates GPP hangs on, of a model that was trained on all sites."""
    tiles, sites = state.split("all"), cast(FluxSites, state.data["sites"])
    model = learn(tiles, Recipe.of(recipe), state.seed)
    regressor = regress(model, tokenize(model, tiles), sites.gpp, Tuning(seed=state.seed, **(tuning or {})))
    state.models["regressor"] = regressor.model
    return sensitivity(state, head=regressor, model="regressor", tiles="all", most=None, key=key)
