"""Linear probes of crop types on the patches: embeddings of one date against that date's raw bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...context import ContextFusion
from ...context.cubes import Cube
from ...embed.dense import BlockEncoder
from ...evaluation import Features, Section, Table, linear_probe
from ..state import State
from . import pictures

__all__ = ["MONTHS", "Pixels", "describe", "probe", "score", "score_months", "stripes", "table"]

MONTHS = ("04", "05", "06", "07", "08", "09")
_STRIPES = 4  # a patch's columns, alternately for training and testing


def stripes(shape: tuple[int, int], margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (H, W) of training and of test stripes, without those whose windows would reach over a border."""
    column = np.arange(shape[1])
    width = shape[1] // _STRIPES
    inner = (column % width >= margin) & (column % width < width - margin)
    training = (column // width) % 2 == 0
    return tuple(np.broadcast_to(inner & part, shape) for part in (training, ~training))


@dataclass(frozen=True)
class Pixels:
    """Labelled pixels and what is known of each from one date a month.

    Attributes:
        x: (months, N, D) by kind of feature, NaN where not seen.
        y: (N,) class.
        train: (N,) bool.
        names: (N,) patch.
    """

    x: dict[str, np.ndarray]
    y: np.ndarray
    train: np.ndarray
    names: np.ndarray
    classes: tuple[str, ...]


def table(state: State, model: ContextFusion, pixels: int) -> Pixels:
    """Codes and raw bands of at most ``pixels`` training and as many test pixels a patch."""
    parts: dict[str, list[np.ndarray]] = {"fused": [], "s2": [], "s1": [], "raw": []}
    y, train, names = [], [], []
    for cube in state.data["all"]:
        labels = state.data["labels"][cube.name]
        training, test = stripes(cube.shape, model.config.reference.window // 2)
        rng = np.random.default_rng(state.seed)
        chosen = [_some(part & (labels >= 0), pixels, rng) for part in (training, test)]
        used = chosen[0] | chosen[1]
        slots = _slots(cube)
        codes = BlockEncoder(model, cube, dates=slots, pixels=used).codes(*(slice(0, n) for n in cube.shape))
        codes["raw"] = _raw(cube, slots)
        for kind, values in parts.items():
            values.append(codes[kind][:, :, used].transpose(0, 2, 1))  # (months, n, D)
        y.append(labels[used])
        train.append(chosen[0][used])
        names += [cube.name] * int(used.sum())
    x = {kind: np.concatenate(values, axis=1) for kind, values in parts.items()}
    return Pixels(x, np.concatenate(y), np.concatenate(train), np.array(names), tuple(state.data["classes"]))


def score_months(pixels: Pixels, x: np.ndarray) -> list[dict[str, float]]:
    """Scores of a linear probe a month, on (months, N, D); of the pixels that the reference saw, the same for all."""
    seen = np.isfinite(pixels.x["fused"]).all(axis=2)  # (months, N)
    return [score(pixels, x[m], seen[m]) for m in range(len(x))]


def score(pixels: Pixels, x: np.ndarray, seen: np.ndarray | None = None) -> dict[str, float]:
    """Scores of a linear probe on (N, D)."""
    seen = np.ones(len(x), dtype=bool) if seen is None else seen
    train, test = (
        Features(x[rows].astype(np.float32), pixels.y[rows], tuple(pixels.names[rows]), "multiclass", pixels.classes)
        for rows in (seen & pixels.train, seen & ~pixels.train)
    )
    return linear_probe(train, test).scores


def probe(state: State, *, key: str = "probe", pixels: int = 700, season: bool = True) -> str:
    """The same linear probe of crop type on the fused embedding, on each sensor's own code and on raw bands.

    Of one date: for each month from April to September the clearest date of each patch; the score is the mean over the
    months. Training and test stripes share no pixel, not even of context.

    Args:
        pixels: at most so many for training and for testing a patch.
        season: add probes that see all six dates at once, the harder comparison for a representation.
    """
    data = table(state, state.model("pretrained"), pixels)
    scores = {kind: score_months(data, x) for kind, x in data.x.items()}
    conditions = describe(data)
    state.metrics[key] = {kind: _mean(found) | {"dimensions": data.x[kind].shape[2]} for kind, found in scores.items()}
    columns = ["features of one date", "dimensions", "macro F1", "sd over months", "weighted F1"]
    rows = [
        [kind, v["dimensions"], v["macro_f1"], v["macro_f1_sd"], v["weighted_f1"]]
        for kind, v in state.metrics[key].items()
    ]
    state.metrics[key]["conditions"] = conditions
    by_month = {kind: [s["macro_f1"] for s in found] for kind, found in scores.items()}
    items: list[Any] = [
        Table(columns, rows, conditions, best=["macro F1", "weighted F1"]),
        pictures.lines(MONTHS, by_month, "macro F1", f"The same by month. {conditions}"),
    ]
    if season:
        items.append(_season(state, data))
    state.sections.append(Section("Crop types from one date", "", items))
    return ", ".join(f"{row[0]} {row[2]:.3f}" for row in rows)


def describe(data: Pixels) -> str:
    counts = ", ".join(f"{c} {int((data.y == k).sum())}" for k, c in enumerate(data.classes))
    return (
        f"Linear probe, {int(data.train.sum())} training pixels, {int((~data.train).sum())} test pixels of the other "
        f"stripes; mean over {len(MONTHS)} months, one date each. Pixels by class: {counts}."
    )


def _season(state: State, data: Pixels) -> Table:
    joined = {kind: np.concatenate(list(data.x[kind]), axis=1) for kind in ("fused", "raw")}
    found = {kind: score(data, x) for kind, x in joined.items()}
    state.metrics["season"] = found
    rows = [[kind, joined[kind].shape[1], v["macro_f1"], v["weighted_f1"]] for kind, v in found.items()]
    columns = ["features of six dates", "dimensions", "macro F1", "weighted F1"]
    note = "All six dates side by side; missing values take the training mean."
    return Table(columns, rows, note, best=["macro F1", "weighted F1"])


def _mean(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    macro = [s["macro_f1"] for s in scores]
    weighted = [s["weighted_f1"] for s in scores]
    return {
        "macro_f1": float(np.mean(macro)),
        "macro_f1_sd": float(np.std(macro)),
        "weighted_f1": float(np.mean(weighted)),
    }


def _some(mask: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``most`` True entries of a mask, at random."""
    places = np.flatnonzero(mask)
    chosen = np.zeros(mask.size, dtype=bool)
    chosen[places if len(places) <= most else rng.choice(places, most, replace=False)] = True
    return chosen.reshape(mask.shape)


def _slots(cube: Cube) -> list[int]:
    """For each month of the growing season of the patch's last year the reference's date with the clearest view."""
    series = cube.sensors["s2"]
    dates = np.asarray(series.days).astype("datetime64[D]").astype(str)
    share = series.seen_share()
    year = max(date[:4] for date in dates if date[5:7] == MONTHS[-1])
    within = [[t for t, date in enumerate(dates) if date.startswith(f"{year}-{month}")] for month in MONTHS]
    return [max(month, key=lambda t: share[t]) for month in within]


def _raw(cube: Cube, slots: Sequence[int]) -> np.ndarray:
    """(dates, bands, H, W): reflectance on the date and backscatter on the nearest one; NaN where not observed."""
    s2, s1 = cube.sensors["s2"], cube.sensors["s1"]
    nearest = [int(np.abs(s1.days - s2.days[t]).argmin()) for t in slots]
    parts = []
    for series, dates in ((s2, slots), (s1, nearest)):
        values, observed = series.read(*(slice(0, n) for n in cube.shape))
        parts.append(np.where(observed, values, np.nan)[list(dates)])
    return np.concatenate(parts, axis=1)
