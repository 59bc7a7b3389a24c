"""A saved probe of the pixels of cubes: the context-aware system's way to a map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from ..context import ContextFusion
from ..data import Cube
from ..evaluation import Picture, Row, Section, Table
from ..evaluation.cube_pixels import CubePixels, labelled_pixels, pixel_features, require_pixel_labels, score_pixels
from ..evaluation.estimators import Fitted, Kind, fit_estimator
from ..training import Probed, save_model
from . import figures, scores
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
    test: str = "test",
) -> Path:
    """Learns labelled pixels from their embeddings, saves what was learned, and scores it beside the raw bands.

    Rows are ``pretrained`` (the mean embedding of each part of the year), ``raw`` (the mean of each band, the same
    estimator) and ``raw_forest``, all of the same pixels.

    Args:
        cubes: of the scenes that the tiles of ``state`` are of.
        pixels: of the training split that are learned from at most, and of the test split that are scored.
        periods: equal parts of the year.
        longest_gap: days to another sensor's nearest date, beyond which it does not take part.

    Returns:
        ``best.safetensors`` in the folder of results.

    Raises:
        ValueError: labels that are not of pixels, or none of a split.
    """
    model = cast(ContextFusion, state.model("pretrained"))
    require_pixel_labels(state.split("all"))
    known, unseen = state.split(labelled), state.split(test)
    learned, told = (labelled_pixels(tiles, cubes, pixels, state.seed) for tiles in (known, unseen))
    parts, missed = [], 0
    for some in (learned, told):
        embedded, raw = pixel_features(model, cubes, some, periods=periods, longest_gap=longest_gap)
        seen = ~np.isnan(embedded).all(axis=1)
        missed += int((~seen).sum())
        if not seen.any():
            raise ValueError(f"probe: none of {len(some)} labelled pixels was ever seen by the reference sensor")
        parts.append((some.subset(seen), embedded[seen], raw[seen]))
    (learned, embedded, raw), (told, embedded_test, raw_test) = parts
    blocks = known.blocks()
    groups = (np.array(known.names) if blocks is None else blocks)[learned.tile]
    with_pixels = np.unique(told.tile)  # the others would be samples of nothing
    place = np.searchsorted(with_pixels, told.tile)
    scored = CubePixels(told.cube, told.row, told.column, told.label, place, told.task, told.classes)

    def row(name: str, method: Kind, x: np.ndarray, x_test: np.ndarray) -> tuple[Row, Fitted]:
        features = learned.features(x, known.names)
        fitted = fit_estimator(method, features, seed=state.seed, groups=groups, of="pixel")
        tiles = len(np.unique(learned.tile))
        result = score_pixels(method, fitted, scored, x_test, len(with_pixels), tiles)
        sensors = tuple(m.name for m in model.config.modalities)
        return Row(name, sensors, 1.0, state.seed, result), fitted

    first, fitted = row("pretrained", kind, embedded, embedded_test)
    rows = [first, row("raw", kind, raw, raw_test)[0]]
    if kind != "forest":
        rows.append(row("raw", "forest", raw, raw_test)[0])
    named = scores.by_name(rows, first=kind, names={})
    tiles = unseen.subset(with_pixels)
    found = scores.intervals(named, tiles, state.seed)
    conditions = " ".join(
        [
            f"{len(learned)} labelled pixels of {len(np.unique(learned.tile))} tiles of split {labelled!r}, scored on "
            f"{len(told)} of {len(with_pixels)} tiles of split {test!r}; {periods} parts of the year; "
            f"{', '.join(f'{name} {value}' for name, value in fitted.setting.items())}; seed {state.seed}.",
            *_verdict(named),
            *([f"{missed} labelled pixels were never seen and are left out."] if missed else []),
            *(f"Note: {note}." for note in dict.fromkeys(note for row in rows for note in row.result.notes)),
            *dict.fromkeys(one.note for one in found.values()),
        ]
    )
    probed = Probed(
        model,
        task=learned.task,  # type: ignore[arg-type]
        classes=learned.classes,
        estimator=kind,
        sizes=fitted.estimator.sizes(),
        features="periods",
        periods=periods,
        longest_gap=longest_gap,
        ignore_index=known.ignore_index,
    )
    probed.estimator.load_state_dict(fitted.estimator.state_dict())
    path = save_model(state.out / "best.safetensors", model, metrics=first.result.scores, finetuned=probed)
    state.metrics[key] = scores.as_metrics(named, found, tiles.classes) | {"conditions": conditions}
    items: list[Picture | Table] = [scores.table(named, conditions, found)]
    items += figures.per_class(named, tiles, conditions)
    state.sections.append(Section("What pixels tell", "", items))
    return path


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
