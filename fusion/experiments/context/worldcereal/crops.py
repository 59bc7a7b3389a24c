"""Linear probes of crop types on the patches: embeddings of one date against that date's raw bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ....context import ContextFusion
from ....data import Cube
from ....embed.dense import BlockEncoder
from ....evaluation import Features, Section, Table, embedding_plots, linear_probe
from ....workflow.state import State
from .data import STRIPES, stripes

__all__ = [
    "MONTHS",
    "Labelled",
    "Pixels",
    "describe",
    "features",
    "label",
    "probe",
    "score",
    "score_months",
    "summary",
]

MONTHS = ("04", "05", "06", "07", "08", "09")


@dataclass(frozen=True)
class Pixels:
    """The pixels of all stripes and what is known of each from one date a month.

    Attributes:
        x: (months, N, D) by kind of feature, NaN where not observed.
        test: (N,) bool, those of test stripes.
        patch: (N,) name; ``place``: (N,) position in the patch.
        block: (N,) which square of 160 m the pixel lies in.
    """

    x: dict[str, np.ndarray]
    test: np.ndarray
    patch: np.ndarray
    place: np.ndarray
    block: np.ndarray


@dataclass(frozen=True)
class Labelled:
    """What a probe may know of the pixels.

    Attributes:
        y: (N,) class, -1 where there is none.
        draws: (draws, N) bool, training pixels whose labels are used.
        test: (N,) bool, labelled pixels of test stripes.
    """

    pixels: Pixels
    y: np.ndarray
    draws: np.ndarray
    test: np.ndarray
    classes: tuple[str, ...]


def features(state: State, model: ContextFusion) -> Pixels:
    """Codes and raw bands of the pixels of all stripes, on the clearest date of every month."""
    parts: dict[str, list[np.ndarray]] = {"fused": [], "s2": [], "s1": [], "raw": []}
    test, patch, place, block = [], [], [], []
    for cube in state.data["all"]:
        training, held_out = stripes(cube.shape, model.config.reference.window // 2)
        used = training | held_out
        slots = _slots(cube)
        codes = BlockEncoder(model, cube, dates=slots, pixels=used).codes(*cube.whole)
        codes["raw"] = _raw(cube, slots)
        for kind, values in parts.items():
            values.append(codes[kind][:, :, used].transpose(0, 2, 1))  # (months, n, D)
        test.append(held_out[used])
        place.append(np.flatnonzero(used))
        row, column = np.nonzero(used)
        side = cube.shape[1] // STRIPES
        block += [f"{cube.name} {r} {c}" for r, c in zip(row // side, column // side, strict=True)]
        patch += [cube.name] * int(used.sum())
    x = {kind: np.concatenate(values, axis=1) for kind, values in parts.items()}
    x["sensors"] = np.concatenate([x["s2"], x["s1"]], axis=2)
    x["raw_s2"] = x["raw"][:, :, : state.data["all"][0].sensors["s2"].modality.channels]
    return Pixels(x, np.concatenate(test), np.array(patch), np.concatenate(place), np.array(block))


def label(state: State, pixels: Pixels, kind: str, most: int, draws: int) -> Labelled:
    """Gives the pixels labels of a kind; a draw has at most ``most`` training pixels a patch."""
    maps, classes = state.data["labels"][kind]
    y, chosen = np.full(len(pixels.place), -1), np.zeros((draws, len(pixels.place)), dtype=bool)
    generators = [np.random.default_rng((state.seed, k)) for k in range(draws)]  # more draws change none of the first
    for name, labels in maps.items():
        own = np.flatnonzero(pixels.patch == name)
        y[own] = labels.ravel()[pixels.place[own]]
        known = own[(y[own] >= 0) & ~pixels.test[own]]
        for draw, rng in zip(chosen, generators, strict=True):
            draw[rng.permutation(known)[:most]] = True
    return Labelled(pixels, y, chosen, pixels.test & (y >= 0), classes)


def score_months(labelled: Labelled, x: np.ndarray) -> dict[str, np.ndarray]:
    """(draws, months) scores by name of a linear probe a draw of labels and a month, on (months, N, D); of the pixels
    that the reference observed, the same for all kinds of features."""
    observed = np.isfinite(labelled.pixels.x["fused"]).all(axis=2)  # (months, N)
    found = [[score(labelled, x[m], draw, observed[m]) for m in range(len(x))] for draw in range(len(labelled.draws))]
    return {name: np.array([[s[name] for s in row] for row in found]) for name in ("macro_f1", "weighted_f1")}


def score(labelled: Labelled, x: np.ndarray, draw: int, observed: np.ndarray | None = None) -> dict[str, float]:
    """Scores of a linear probe on (N, D) with one draw of training pixels. Its penalty is chosen on folds of whole
    blocks: random pixels of the same fields would choose it too weak for the fields of the test stripes."""
    observed = np.ones(len(x), dtype=bool) if observed is None else observed
    drawn = observed & labelled.draws[draw]
    train, test = (
        Features(
            x[rows].astype(np.float32),
            labelled.y[rows],
            tuple(labelled.pixels.patch[rows]),
            "multiclass",
            labelled.classes,
        )
        for rows in (drawn, observed & labelled.test)
    )
    return linear_probe(train, test, groups=labelled.pixels.block[drawn]).scores


def summary(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means over draws and months; how much a month's mean and a draw's mean vary."""
    macro = scores["macro_f1"]  # (draws, months)
    return {
        "macro_f1": float(macro.mean()),
        "macro_f1_sd": float(macro.mean(axis=0).std()),
        "draws_sd": float(macro.mean(axis=1).std()),
        "weighted_f1": float(scores["weighted_f1"].mean()),
    }


def probe(state: State, *, pixels: int = 400, draws: int = 3) -> str:
    """The same linear probe, of crop type (``probe``) and of land cover (``land_cover``), on the fused embedding, on
    each sensor's own code and on raw bands.

    Of one date: for each month from April to September the clearest date of each patch. Scores are means over the
    months and over draws of training pixels. Training and test stripes share no pixel, not even of context. ``raw`` is
    the bands of both sensors on the date, ``raw_s2`` the reference's alone, ``sensors`` both sensors' codes side by
    side. ``season`` has crop probes that see all six dates at once, the harder comparison for a representation.

    Args:
        pixels: at most so many training pixels a patch and draw; all labelled pixels of the test stripes are tested.
        draws: of training pixels for crop types; for land cover, to save time, it is one.
    """
    found = features(state, cast(ContextFusion, state.model("pretrained")))
    words = []
    for kind, key, times in (("crop type", "probe", draws), ("land cover", "land_cover", 1)):
        labelled = label(state, found, kind, pixels, times)
        items, metrics = _compare(labelled)
        state.metrics[key] = metrics
        if key == "probe":
            items.append(_season(state, labelled))
        state.sections.append(Section(f"{kind.capitalize()} from one date", "", items))
        scores = ", ".join(f"{k} {v['macro_f1']:.3f}" for k, v in metrics.items() if isinstance(v, dict))
        words.append(f"{kind}: {scores}")
    return "; ".join(words)


def _compare(labelled: Labelled) -> tuple[list[Any], dict[str, Any]]:
    """Table, picture and metrics of every kind of feature under the same probe."""
    features = labelled.pixels.x
    scores = {kind: score_months(labelled, x) for kind, x in features.items()}
    metrics: dict[str, Any] = {}
    for kind, own in scores.items():
        metrics[kind] = summary(own) | {"dimensions": features[kind].shape[2]}
        if kind != "fused":
            metrics[kind]["fused_is_better"] = float((scores["fused"]["macro_f1"] > own["macro_f1"]).mean())
    columns = ["features of one date", "dimensions", "macro F1", "sd over months", "weighted F1", "fused is better"]
    rows = [
        [kind, v["dimensions"], v["macro_f1"], v["macro_f1_sd"], v["weighted_f1"], v.get("fused_is_better", "")]
        for kind, v in metrics.items()
    ]
    by_month = {kind: own["macro_f1"].mean(axis=0).tolist() for kind, own in scores.items()}
    conditions = describe(labelled)
    note = f"{conditions} Last column: share of the {len(labelled.draws) * len(MONTHS)} probes in which fused wins."
    items: list[Any] = [
        Table(columns, rows, note, best=["macro F1", "weighted F1"]),
        embedding_plots.lines(MONTHS, by_month, "macro F1", f"The same by month. {conditions}"),
    ]
    return items, metrics | {"conditions": conditions}


def describe(labelled: Labelled) -> str:
    counts = ", ".join(
        f"{name} {int((labelled.y[labelled.test] == k).sum())}" for k, name in enumerate(labelled.classes)
    )
    drawn, tested = int(labelled.draws[0].sum()), int(labelled.test.sum())
    return (
        f"Linear probe, its penalty chosen on folds of whole blocks of 160 m: {len(labelled.draws)} draws of {drawn} "
        f"training pixels, all {tested} labelled pixels of the other stripes for testing; mean over draws and "
        f"{len(MONTHS)} months, one date each. Test pixels by class: {counts}."
    )


def _season(state: State, labelled: Labelled) -> Table:
    joined = {kind: np.concatenate(list(labelled.pixels.x[kind]), axis=1) for kind in ("fused", "raw")}
    found = {kind: score(labelled, x, 0) for kind, x in joined.items()}
    state.metrics["season"] = found
    rows = [[kind, joined[kind].shape[1], v["macro_f1"], v["weighted_f1"]] for kind, v in found.items()]
    columns = ["features of six dates", "dimensions", "macro F1", "weighted F1"]
    note = "All six dates side by side, first draw; missing values take the training mean."
    return Table(columns, rows, note, best=["macro F1", "weighted F1"])


def _slots(cube: Cube) -> list[int]:
    """For each month of the growing season of the patch's last year the reference's date with the clearest view."""
    series = cube.sensors["s2"]
    dates = series.dates.astype(str)
    share = series.observed_share()
    year = max(date[:4] for date in dates if date[5:7] == MONTHS[-1])
    within = [[t for t, date in enumerate(dates) if date.startswith(f"{year}-{month}")] for month in MONTHS]
    return [max(month, key=lambda t: share[t]) for month in within]


def _raw(cube: Cube, slots: Sequence[int]) -> np.ndarray:
    """(dates, bands, H, W): reflectance on the date and backscatter on the nearest one; NaN where not observed."""
    s2, s1 = cube.sensors["s2"], cube.sensors["s1"]
    nearest = [int(np.abs(s1.dates - s2.dates[t]).argmin()) for t in slots]
    parts = []
    for series, dates in ((s2, slots), (s1, nearest)):
        values, observed = series.read(*cube.whole)
        parts.append(np.where(observed, values, np.nan)[list(dates)])
    return np.concatenate(parts, axis=1)
