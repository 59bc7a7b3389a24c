"""A saved probe of the pixels of cubes: the context-aware system's way to a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from ..context import ContextFusion
from ..data import Cube, TileDataset
from ..evaluation import Picture, Row, Section, Table
from ..evaluation.cube_pixels import (
    CubePixels,
    labelled_pixels,
    pixel_coverage,
    pixel_features,
    predicted,
    require_pixel_labels,
    score_pixels,
)
from ..evaluation.estimators import Fitted, Kind, fit_estimator
from ..training import Probed, save_model
from ..training.conformal import ConformalInterval, fewest_residuals
from . import figures, scores
from .probing import LEVEL
from .state import State

__all__ = ["probe_cubes"]


def probe_cubes(
    state: State,
    cubes: Sequence[Cube],
    kind: Kind,
    *,
    key: str = "probe",
    pixels: int = 20_000,
    periods: int = 4,
    longest_gap: int = 7,
    labelled: str = "train",
    validation: str = "val",
    test: str = "test",
) -> Path:
    """Learns labelled pixels from their embeddings, saves what was learned, and scores it beside the raw bands.

    Rows are ``pretrained`` (the mean embedding of each part of the year), ``raw`` (the mean of each band, the same
    estimator) and ``raw_forest``, all of the same pixels.

    Args:
        cubes: of the scenes that the tiles of ``state`` are of.
        pixels: of the training split that are learned from at most, and of the test split that are scored.
        periods: equal parts of the year.
        validation: split that the interval of a quantity is computed from; without it there is none.
        longest_gap: days to another sensor's nearest date, beyond which it does not take part.

    Returns:
        ``best.safetensors`` in the folder of results.

    Raises:
        ValueError: labels that are not of pixels, or none of a split.
    """
    model = cast(ContextFusion, state.model("pretrained"))
    require_pixel_labels(state.split("all"))
    known, unseen = state.split(labelled), state.split(test)

    def encoded(tiles: TileDataset) -> _Encoded:
        some = labelled_pixels(tiles, cubes, pixels, state.seed)
        embedded, raw = pixel_features(model, cubes, some, periods=periods, longest_gap=longest_gap)
        seen = ~np.isnan(embedded).all(axis=1)
        if not seen.any():
            raise ValueError(f"probe: none of {len(some)} labelled pixels was ever seen by the reference sensor")
        return _Encoded(some.subset(seen), embedded[seen], raw[seen], int((~seen).sum()))

    learned, told = encoded(known), encoded(unseen)
    blocks = known.blocks()
    groups = (np.array(known.names) if blocks is None else blocks)[learned.pixels.tile]
    with_pixels, place = np.unique(told.pixels.tile, return_inverse=True)  # the others would be samples of nothing
    scored, tiles = replace(told.pixels, tile=place), unseen.subset(with_pixels)
    sensors, trained = tuple(m.name for m in model.config.modalities), len(np.unique(learned.pixels.tile))

    def row(name: str, method: Kind, x: np.ndarray, x_test: np.ndarray) -> tuple[Row, Fitted]:
        fitted = fit_estimator(
            method, learned.pixels.features(x, known.names), seed=state.seed, groups=groups, of="pixel"
        )
        result = score_pixels(method, fitted, scored, x_test, len(tiles), trained)
        return Row(name, sensors, 1.0, state.seed, result), fitted

    first, fitted = row("pretrained", kind, learned.embedded, told.embedded)
    interval: ConformalInterval | None = None
    missing: list[str] = []
    if scored.task == "regression":
        held_out = encoded(state.split(validation)) if validation in state.data else None
        interval, missing = _interval(fitted, held_out)
        if interval is not None:
            coverage = pixel_coverage(interval, fitted, scored, told.embedded, len(tiles))
            first = replace(first, result=replace(first.result, coverage=coverage))
    rows = [first, row("raw", kind, learned.raw, told.raw)[0]]
    if kind != "forest":
        rows.append(row("raw", "forest", learned.raw, told.raw)[0])
    named = scores.by_name(rows, first=kind, names={})
    found = scores.intervals(named, tiles, state.seed)
    missed = learned.missed + told.missed
    conditions = " ".join(
        [
            f"{len(learned.pixels)} labelled pixels of {trained} tiles of split {labelled!r}, scored on {len(scored)} "
            f"of {len(tiles)} tiles of split {test!r}; {periods} parts of the year; "
            f"{', '.join(f'{name} {value}' for name, value in fitted.setting.items())}; seed {state.seed}.",
            *_verdict(named),
            *([scores.coverage(named, found)] if interval else []),
            *([f"{missed} labelled pixels were never seen and are left out."] if missed else []),
            *(f"Note: {note}." for note in dict.fromkeys([*missing, *(n for row in rows for n in row.result.notes)])),
            *dict.fromkeys(one.note for one in found.values()),
        ]
    )
    probed = Probed(
        model,
        task=scored.task,  # type: ignore[arg-type]
        classes=scored.classes,
        estimator=kind,
        sizes=fitted.estimator.sizes(),
        features="periods",
        periods=periods,
        longest_gap=longest_gap,
        ignore_index=known.ignore_index,
        interval_level=LEVEL,
        intervals=[] if interval is None else [interval.to_dict()],
    )
    probed.estimator.load_state_dict(fitted.estimator.state_dict())
    path = save_model(state.out / "best.safetensors", model, metrics=first.result.scores, finetuned=probed)
    state.metrics[key] = scores.as_metrics(named, found, tiles.classes) | {"conditions": conditions}
    if first.result.coverage is not None:
        state.metrics[key]["pretrained"] |= first.result.coverage.scores()
    items: list[Picture | Table] = [scores.table(named, conditions, found)]
    items += figures.per_class(named, tiles, conditions)
    state.sections.append(Section("What pixels tell", "", items))
    return path


@dataclass(frozen=True)
class _Encoded:
    """Pixels that were seen, what they are learned from, and how many were never seen."""

    pixels: CubePixels
    embedded: np.ndarray
    raw: np.ndarray
    missed: int


def _interval(fitted: Fitted, held_out: _Encoded | None) -> tuple[ConformalInterval | None, list[str]]:
    """The interval of a quantity from pixels that were not learned from, or why there is none."""
    if held_out is None:
        return None, ["the quantity has no interval, which takes a validation split"]
    fewest, given = fewest_residuals(LEVEL), len(held_out.pixels)
    if given < fewest:
        return None, [f"the quantity has no interval: {given} labels of the validation split, {fewest} are wanted"]
    prediction = predicted(fitted, held_out.embedded)[:, 0]
    return ConformalInterval.fit(prediction, held_out.pixels.label, LEVEL), []


def _verdict(named: scores.Named) -> list[str]:
    """A sentence where raw bands do better: whoever wants the best map is to know."""
    metric = scores.main_metric(named["pretrained"])
    value = {name: rows[0].result.scores[metric] for name, rows in named.items()}
    best = max(value, key=value.__getitem__)
    if best == "pretrained":
        return []
    return [
        f"The raw bands are better here: {metric.replace('_', ' ')} {value[best]:.3f} ({best}) against "
        f"{value['pretrained']:.3f} of the embeddings, which are what is saved."
    ]
