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
from .months import clearest, names, season

__all__ = [
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


@dataclass(frozen=True)
class Pixels:
    """The pixels of all stripes and what is known of each from one date a month.

    Attributes:
        x: (months, N, D) by kind of feature, NaN where not observed.
        test: (N,) bool, those of test stripes.
        patch: (N,) name; ``place``: (N,) position in the patch.
        block: (N,) which square of 160 m the pixel lies in.
        months: names, by position in the growing season.
    """

    x: dict[str, np.ndarray]
    test: np.ndarray
    patch: np.ndarray
    place: np.ndarray
    block: np.ndarray
    months: tuple[str, ...]


@dataclass(frozen=True)
class Labelled:
    """What a probe may know of the pixels.

    Attributes:
        y: (N,) class, -1 where there is none.
        draws: (draws, N) bool, training pixels whose labels are used.
        test: (N,) bool, labelled pixels of test stripes.
        usable: positions of the months on which two classes were seen in every draw and among the tested pixels.
    """

    pixels: Pixels
    y: np.ndarray
    draws: np.ndarray
    test: np.ndarray
    classes: tuple[str, ...]
    usable: tuple[int, ...]

    @property
    def months(self) -> tuple[str, ...]:
        """Names of the usable ones."""
        return tuple(self.pixels.months[m] for m in self.usable)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the others."""
        return tuple(name for m, name in enumerate(self.pixels.months) if m not in self.usable)


def features(state: State, model: ContextFusion, months: Sequence[str] | None = None) -> Pixels:
    """Codes and raw bands of the pixels of all stripes, on the clearest date of every month; NaN where there is none.

    Args:
        months: ``"01"`` to ``"12"``; by default those of each patch's growing season.
    """
    parts: dict[str, list[np.ndarray]] = {"fused": [], "s2": [], "s1": [], "raw": []}
    test, patch, place, block = [], [], [], []
    for cube in state.data["all"]:
        training, held_out = stripes(cube.shape, model.config.reference.window // 2)
        used = training | held_out
        series = cube.sensors["s2"]
        slots = clearest(series.dates, series.observed_share(), tuple(months or season(cube)))
        there = [k for k, date in enumerate(slots) if date is not None]
        dates = [date for date in slots if date is not None]
        codes = BlockEncoder(model, cube, dates=np.array(dates, dtype=np.int64), pixels=used).codes(*cube.whole)
        codes["raw"] = _raw(cube, dates, model)
        for kind, values in parts.items():
            size = codes[kind].shape[1] if kind in codes else model.sensor(kind).config.bottleneck
            of_months = np.full((len(slots), int(used.sum()), size), np.nan, np.float32)  # (months, n, D)
            if kind in codes:
                of_months[there] = codes[kind][:, :, used].transpose(0, 2, 1)
            values.append(of_months)
        test.append(held_out[used])
        place.append(np.flatnonzero(used))
        row, column = np.nonzero(used)
        side = cube.shape[1] // STRIPES
        block += [f"{cube.name} {r} {c}" for r, c in zip(row // side, column // side, strict=True)]
        patch += [cube.name] * int(used.sum())
    x = {kind: np.concatenate(values, axis=1) for kind, values in parts.items()}
    x["sensors"] = np.concatenate([x["s2"], x["s1"]], axis=2)
    x["raw_s2"] = x["raw"][:, :, : state.data["all"][0].sensors["s2"].modality.channels]
    called = names(state.data["all"], months)
    return Pixels(x, np.concatenate(test), np.array(patch), np.concatenate(place), np.array(block), called)


def label(state: State, pixels: Pixels, kind: str, most: int, draws: int) -> Labelled:
    """Gives the pixels labels of a kind; a draw has at most ``most`` training pixels a patch.

    Raises:
        ValueError: no month shows two classes both to train and to test on.
    """
    maps, classes = state.data["labels"][kind]
    y, chosen = np.full(len(pixels.place), -1), np.zeros((draws, len(pixels.place)), dtype=bool)
    generators = [np.random.default_rng((state.seed, k)) for k in range(draws)]  # more draws change none of the first
    for name, labels in maps.items():
        own = np.flatnonzero(pixels.patch == name)
        y[own] = labels.ravel()[pixels.place[own]]
        known = own[(y[own] >= 0) & ~pixels.test[own]]
        for draw, rng in zip(chosen, generators, strict=True):
            draw[rng.permutation(known)[:most]] = True
    test = pixels.test & (y >= 0)
    observed = np.isfinite(pixels.x["fused"]).all(axis=2)  # (months, N)
    usable = [m for m, seen in enumerate(observed) if all(len(set(y[seen & part])) > 1 for part in (test, *chosen))]
    if not usable:
        raise ValueError(
            f"crops: {kind}: no month of {', '.join(pixels.months)} has clear dates with two classes both in the "
            "training and in the test stripes; give months: to the step, or patches with more labels"
        )
    return Labelled(pixels, y, chosen, test, classes, tuple(usable))


def score_months(labelled: Labelled, x: np.ndarray) -> dict[str, np.ndarray]:
    """(draws, usable months) scores by name of a linear probe a draw of labels and a month, on (months, N, D); of the
    pixels that the reference observed, the same for all kinds of features."""
    observed = np.isfinite(labelled.pixels.x["fused"]).all(axis=2)  # (months, N)
    months, draws = labelled.usable, range(len(labelled.draws))
    found = [[score(labelled, x[m], draw, observed[m]) for m in months] for draw in draws]
    return {name: np.array([[s[name] for s in row] for row in found]) for name in ("macro_f1", "weighted_f1")}


def score(labelled: Labelled, x: np.ndarray, draw: int, observed: np.ndarray | None = None) -> dict[str, float]:
    """Scores of a linear probe on (N, D) with one draw of training pixels. Its penalty is chosen on folds of whole
    blocks: random pixels of the same fields would choose it too weak for the fields of the test stripes."""
    observed = np.ones(len(x), dtype=bool) if observed is None else observed
    drawn = observed & labelled.draws[draw]
    x = _filled(x, drawn)
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


def _filled(x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Pixels of which a kind of feature (N, D) knows nothing, such as a patch without the sensor, take the mean of the
    training pixels ``drawn`` (N,); single gaps are the probe's affair."""
    lacking = ~np.isfinite(x).any(axis=1)
    if not lacking.any():
        return x
    known = x[drawn & ~lacking]
    mean = np.nan_to_num(np.nanmean(known, axis=0)) if len(known) else np.zeros(x.shape[1], x.dtype)
    return np.where(lacking[:, None], mean, x)


def summary(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means over draws and months; how much a month's mean and a draw's mean vary."""
    macro = scores["macro_f1"]  # (draws, months)
    return {
        "macro_f1": float(macro.mean()),
        "macro_f1_sd": float(macro.mean(axis=0).std()),
        "draws_sd": float(macro.mean(axis=1).std()),
        "weighted_f1": float(scores["weighted_f1"].mean()),
    }


def probe(state: State, *, pixels: int = 400, draws: int = 3, months: Sequence[str] | None = None) -> str:
    """The same linear probe, of crop type (``probe``) and of land cover (``land_cover``), on the fused embedding, on
    each sensor's own code and on raw bands.

    Of one date: for each month of the growing season (April to September, in the south October to March) the clearest
    date of each patch; months without two classes are left out and named. Scores are means over the months and over
    draws of training pixels. Training and test stripes share no pixel, not even of context. ``raw`` is
    the bands of both sensors on the date, ``raw_s2`` the reference's alone, ``sensors`` both sensors' codes side by
    side. ``season`` has crop probes that see all dates at once, the harder comparison for a representation.

    Args:
        pixels: at most so many training pixels a patch and draw; all labelled pixels of the test stripes are tested.
        draws: of training pixels for crop types; for land cover, to save time, it is one.
        months: ``"01"`` to ``"12"`` in the order of the season; by default where each patch lies says them.
    """
    found = features(state, cast(ContextFusion, state.model("pretrained")), months)
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
    probes = len(labelled.draws) * len(labelled.usable)
    note = f"{conditions} Last column: share of the {probes} probes in which fused wins."
    items: list[Any] = [
        Table(columns, rows, note, best=["macro F1", "weighted F1"]),
        embedding_plots.lines(labelled.months, by_month, "macro F1", f"The same by month. {conditions}"),
    ]
    return items, metrics | {"conditions": conditions}


def describe(labelled: Labelled) -> str:
    counts = ", ".join(
        f"{name} {int((labelled.y[labelled.test] == k).sum())}" for k, name in enumerate(labelled.classes)
    )
    left = f" Left out for want of clear dates or a second class: {', '.join(labelled.left_out)}."
    drawn, tested = int(labelled.draws[0].sum()), int(labelled.test.sum())
    return (
        f"Linear probe, its penalty chosen on folds of whole blocks of 160 m: {len(labelled.draws)} draws of {drawn} "
        f"training pixels, all {tested} labelled pixels of the other stripes for testing; mean over draws and "
        f"{len(labelled.usable)} months ({', '.join(labelled.months)}), one date each. Test pixels by class: {counts}."
    ) + (left if labelled.left_out else "")


def _season(state: State, labelled: Labelled) -> Table:
    months = list(labelled.usable)
    joined = {kind: np.concatenate(list(labelled.pixels.x[kind][months]), axis=1) for kind in ("fused", "raw")}
    found = {kind: score(labelled, x, 0) for kind, x in joined.items()}
    state.metrics["season"] = found
    rows = [[kind, joined[kind].shape[1], v["macro_f1"], v["weighted_f1"]] for kind, v in found.items()]
    columns = [f"features of {len(months)} dates", "dimensions", "macro F1", "weighted F1"]
    note = "All dates side by side, first draw; missing values take the training mean."
    return Table(columns, rows, note, best=["macro F1", "weighted F1"])


def _raw(cube: Cube, slots: Sequence[int], model: ContextFusion) -> np.ndarray:
    """(dates, bands, H, W): reflectance on the date and backscatter on the nearest one; NaN where not observed."""
    s2, s1 = cube.sensors["s2"], cube.sensors.get("s1")
    values, observed = s2.read(*cube.whole)
    parts = [np.where(observed, values, np.nan)[list(slots)]]
    if s1 is None:
        bands = model.sensor("s1").config.modality.channels
        parts.append(np.full((len(slots), bands, *cube.shape), np.nan, np.float32))
    else:
        nearest = [int(np.abs(s1.dates - s2.dates[t]).argmin()) for t in slots]
        values, observed = s1.read(*cube.whole)
        parts.append(np.where(observed, values, np.nan)[nearest])
    return np.concatenate(parts, axis=1)
