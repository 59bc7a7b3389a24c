"""The step ``curve``: what few labels and many tell, with and without pretraining."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ..data import TileDataset
from ..data import fraction as draw_labels
from ..evaluation import Picture, Row, Section, Table
from ..evaluation.alignment import Align
from ..evaluation.curve_plots import learning_curve
from ..evaluation.pools import AnyPool
from . import scores
from .kept import keep
from .probed_rows import probed_rows
from .probing import probe_maps
from .state import State
from .tuning import Start, tune

__all__ = ["curve", "curve_of_runs", "distinct_fractions"]

FRACTIONS = (0.01, 0.05, 0.1, 0.25, 1.0)
Points = dict[str, dict[float, list[float]]]


def curve(
    state: State,
    *,
    key: str = "curve",
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 3,
    probe: Literal["linear", "forest"] = "linear",
    pool: AnyPool = "mean",
    control: bool = True,
    starts: Sequence[Start] = (),
    rates: Mapping[str, float] | None = None,
    module: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    model: str = "pretrained",
    labelled: str = "train",
    test: str = "test",
    validation: str | None = None,
    align: Align = "auto",
) -> str:
    """A learning curve: scores with 1, 5, 10, 25 and 100 % of the labels.

    Rows are probes of the frozen model (``pretrained``), of the same with random weights (``random``), of band
    statistics (``raw``), and the strongest control on raw values (``raw_best``), all with the same labels, draw by
    draw. Scores go to ``<key>.<row>_<percent>.<metric>``.

    Args:
        fractions: of the labels. One that holds fewer than two tiles takes two; of several that come to the same number
            of tiles only the first is run. Every class keeps at least one tile, or every tenth of a quantity.
        draws: how often labels are drawn; all of them can be drawn in one way only.
        probe, pool, control, align: as in :func:`fusion.workflow.steps.compare`.
        starts: also fine-tune the whole model from these, ``pretrained`` (row ``finetuned``) or ``scratch``; it takes a
            training for each fraction and draw.
        rates, module, training, validation: of fine-tuning.

    Raises:
        ValueError: no fraction, a fraction that is no share, or what the probes refuse.
    """
    known, unseen = state.split(labelled), state.split(test)
    chosen = distinct_fractions(known, fractions, state.seed)
    shares = list(chosen.values())
    percent = {share: f"{100 * asked:g}" for asked, share in chosen.items()}
    if known.dense:
        seeds = [state.seed + k for k in range(draws)]
        rows = [
            row
            for share in shares
            for seed in (seeds if share < 1 else seeds[:1])
            for row in probe_maps(state.model(model), known, unseen, share, seed, probes=[probe], control=control)
        ]
    else:
        rows = probed_rows(
            state, model, labelled, test, shares, draws, probes=[probe], forest=False, control=control, pool=pool,
            align=align,
        )  # fmt: skip
    if starts:
        held_out = None if validation is None else state.split(validation)
        tuned, _, _ = tune(
            state, state.model(model), known, unseen, held_out, state.run_folder(key), starts=starts, fractions=shares,
            draws=draws, rates=rates, module=module, training=training, alone=False,
        )  # fmt: skip
        rows += [replace(row, features="finetuned") if row.features == "pretrained" else row for row in tuned]
    named: scores.Named = {}
    for row in rows:
        named.setdefault(f"{_line(row)}_{percent[row.fraction]}", []).append(row)
    found = scores.intervals(named, unseen, state.seed)
    keep(state, key, named, unseen)
    left_out = [f"{100 * f:g} %" for f in sorted(fractions) if f not in chosen]
    more = [f"Not run, for want of tiles to tell it from the share before: {', '.join(left_out)}."] if left_out else []
    conditions = scores.pooled(pool, rows) if not known.dense else "Features are of patches. "
    conditions += scores.conditions(state, rows, draws, labelled, test, found, more)
    state.metrics[key] = scores.as_metrics(named, found, unseen.classes) | {"conditions": conditions}
    metric = scores.main_metric(rows)
    points: Points = {}
    for row in rows:
        own = points.setdefault(_line(row), {}).setdefault(float(percent[row.fraction]), [])
        own.append(row.result.scores[metric])
    picture = learning_curve(points, metric, "draws of the labels", conditions)
    items: list[Picture | Table] = [picture, scores.table(named, conditions, found)]
    state.sections.append(Section("Few labels and many", "", items))
    return scores.summary(named, metric, found)


def distinct_fractions(known: TileDataset, fractions: Sequence[float], seed: int) -> dict[float, float]:
    """Fractions of the labels that come to different numbers of tiles, ascending, and the share that is drawn of each:
    it, or what two tiles are.

    Raises:
        ValueError: no fraction, one that is no share, or fewer than two labelled tiles.
    """
    if not fractions or not all(0 < f <= 1 for f in fractions):
        raise ValueError(f"curve: fractions {list(fractions)}; give shares of the labels above 0, at most 1")
    if len(known) < 2:
        raise ValueError(f"curve: {len(known)} labelled tile; give two or more")
    found: dict[int, tuple[float, float]] = {}
    for share in sorted(set(fractions)):
        least = max(share, 2 / len(known))  # a probe learns from two tiles at least
        found.setdefault(len(draw_labels(known, least, seed)), (share, least))
    return dict(found.values())


def curve_of_runs(key: str, runs: Mapping[str, Sequence[Any]]) -> list[Picture]:
    """The learning curve of a group over draws, seeds and repetitions; nothing where the group is no curve.

    Args:
        runs: by repetition and seed, each with ``metrics`` as in ``metrics.json``.
    """
    points: Points = {}
    metric = ""
    for run in (run for seeds in runs.values() for run in seeds):
        for name, row in run.metrics.get(key, {}).items():
            match = re.fullmatch(r"(.+)_(\d+(?:\.\d+)?)", name)
            metric = next((m for m in scores.MAIN if isinstance(row, Mapping) and m in row), "")
            if match is None or not metric:
                continue
            values = row.get("draws", {}).get(metric, [row[metric]])
            points.setdefault(match[1], {}).setdefault(float(match[2]), []).extend(values)
    points = {name: own for name, own in points.items() if len(own) > 1}
    if not points:
        return []
    main = next(m for m in scores.MAIN if any(m in r for r in _rows(runs, key)))
    return [learning_curve(points, main, "draws of the labels, seeds and repetitions")]


def _rows(runs: Mapping[str, Sequence[Any]], key: str) -> list[Mapping[str, Any]]:
    first = next(iter(runs.values()))[0].metrics[key]
    return [row for row in first.values() if isinstance(row, Mapping)]


def _line(row: Row) -> str:
    """The name of a row without the share of the labels."""
    return f"{row.features}_best" if row.method == "best" else row.features
