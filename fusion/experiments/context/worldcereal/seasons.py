"""Crops from embeddings of the whole year, on stripes between labelled ones and on a patch without any label."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ....context import ContextFusion
from ....data import Cube
from ....embed.dense import BlockEncoder
from ....embed.periods import mean_by_part, part_of_year, raw_periods
from ....evaluation import Section, Table
from ....evaluation.alignment import standardised_by_place
from ....evaluation.controls import Described, strongest
from ....evaluation.intervals import sample_sums, score_intervals
from ....evaluation.penalties import linear_model
from ....evaluation.regressors import prepared
from ....workflow.kept import keep_sums
from ....workflow.state import State
from .data import STRIPES, stripes

__all__ = ["Ground", "Split", "probes", "seasons", "split_by_patch", "split_by_stripe"]

_BLOCKS = 4  # along a side of a patch: squares of 160 m


@dataclass(frozen=True)
class Ground:
    """Some pixels of all patches, labelled or not.

    Attributes:
        x: (N, D) by kind of feature, parts of the year side by side; NaN where one was not observed.
        y: (N,) class, -1 where there is none.
        patch: (N,) name; ``row``, ``column``: (N,) in it.
        parcel: (N,) number of the patch of equal labels that touch each other, -1 where there is none.
        side: pixels along a side of a patch.
    """

    x: dict[str, np.ndarray]
    y: np.ndarray
    patch: np.ndarray
    row: np.ndarray
    column: np.ndarray
    parcel: np.ndarray
    side: int

    @property
    def block(self) -> np.ndarray:
        """(N,) name of the square of 160 m."""
        size = self.side // _BLOCKS
        places = zip(self.patch, self.row // size, self.column // size, strict=True)
        return np.array([f"{p} {r} {c}" for p, r, c in places])


@dataclass(frozen=True)
class Split:
    """Rows to learn from and rows to score, and what the split is called."""

    name: str
    train: np.ndarray
    test: np.ndarray


def split_by_stripe(ground: Ground, margin: int, most: int, seed: int) -> Split:
    """Labelled pixels of the training stripes, at most ``most`` a patch, and all of the test stripes."""
    inside, held_out = (part[0] for part in stripes((1, ground.side), margin))
    known, rng = ground.y >= 0, np.random.default_rng(seed)
    own = [rng.permutation(np.flatnonzero(known & inside[ground.column] & (ground.patch == p)))[:most]
           for p in np.unique(ground.patch)]  # fmt: skip
    return Split("stripes", np.sort(np.concatenate(own)), np.flatnonzero(known & held_out[ground.column]))


def split_by_patch(ground: Ground, most: int, seed: int) -> Iterator[Split]:
    """Each patch once for testing, at most ``most`` pixels of each of the others for training; of classes that both
    have, since nothing can be learned of the others."""
    names, rng = np.unique(ground.patch), np.random.default_rng(seed)
    for held_out in names:
        test = (ground.patch == held_out) & (ground.y >= 0)
        train = (ground.patch != held_out) & (ground.y >= 0)
        common = np.intersect1d(ground.y[test], ground.y[train])
        test, train = (part & np.isin(ground.y, common) for part in (test, train))
        own = [rng.permutation(np.flatnonzero(train & (ground.patch == p)))[:most] for p in names if p != held_out]
        yield Split(str(held_out), np.sort(np.concatenate(own)), np.flatnonzero(test))


def seasons(
    state: State, *, periods: int = 6, dates: int = 4, pixels: int = 2400, labelled: int = 400, elsewhere_of: int = 1000
) -> str:
    """Probes on the mean embedding of a pixel in each part of the year: ``season`` on the test stripes, ``elsewhere``
    on each patch in turn, learned from the two others.

    Rows are a linear classifier (:func:`fusion.evaluation.linear_probe`) on the fused embedding (``fused``) and on the
    mean bands (``raw``), and ``raw_best``, the strongest of several simple methods on these. ``_place`` has features
    standardised patch by patch, ``_parcels`` the most frequent class of a parcel, for which the label map must know the
    parcels.

    Args:
        periods: equal parts of the calendar year.
        dates: clearest ones of each part that are embedded; the bands are means of all dates.
        pixels: of a patch, drawn whether labelled or not.
        labelled: of a patch's training stripes that are learned from; ``elsewhere_of``: of a training patch.
    """
    model = cast(ContextFusion, state.model("pretrained"))
    ground, classes = _ground(state, model, periods, dates, pixels)
    near = split_by_stripe(ground, model.config.reference.window // 2, labelled, state.seed)
    found = {"season": {"stripes": _rows(ground, near, classes, state.seed)}}
    found["elsewhere"] = {s.name: _rows(ground, s, classes, state.seed)
                          for s in split_by_patch(ground, elsewhere_of, state.seed)}  # fmt: skip
    season = {name: row["sums"] for name, row in found["season"]["stripes"].items()}
    kinds = {n: n.removeprefix("fused").removeprefix("raw_best").removeprefix("raw") for n in season}
    keep_sums(state, "season", "multiclass", season, ground.block[near.test], kinds)
    words = []
    for key, parts in found.items():
        names = list(next(iter(parts.values())))
        mean = {n: float(np.mean([part[n]["macro_f1"] for part in parts.values()])) for n in names}
        rows = [[n, mean[n], *(part[n]["told"] for part in parts.values())] for n in names]
        note = (
            f"Mean embeddings (of {dates} dates) and bands (of all) in {periods} parts of the year; one seed of "
            "pretraining, without labels, on stripes of all patches. In parentheses 95 % intervals by blocks of 160 m."
        )
        scored = {n: {"macro_f1": mean[n]} | {p: parts[p][n]["told"] for p in parts} for n in names}
        state.metrics[key] = scored | {"conditions": note}
        table = Table(["features", "macro F1", *parts], rows, note, best=["macro F1"])
        title = "Crops from the season" if key == "season" else "Crops on a patch without labels"
        state.sections.append(Section(title, "", [table]))
        words.append(f"{key}: " + ", ".join(f"{n} {v:.3f}" for n, v in mean.items()))
    return "; ".join(words)


def probes(ground: Ground, split: Split, kind: str, seed: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """By probe, what gives the classes of the test rows from features (N, D) of all rows."""
    y, groups = ground.y[split.train], ground.block[split.train]

    def linear(x: np.ndarray) -> np.ndarray:
        model = prepared(linear_model("multiclass", y, seed, groups))
        return np.asarray(model.fit(x[split.train], y).predict(x[split.test]))

    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {kind: linear}
    if kind == "raw":

        def best(x: np.ndarray) -> np.ndarray:
            described = {f"{x.shape[1]} means": Described(x)}
            one = strongest({k: d.rows(split.train) for k, d in described.items()}, "multiclass", y, groups=groups,
                            seed=seed)  # fmt: skip
            return one.predict({k: d.rows(split.test) for k, d in described.items()})

        found["raw_best"] = best
    return found


def _rows(ground: Ground, split: Split, classes: int, seed: int) -> dict[str, dict[str, Any]]:
    target, blocks = ground.y[split.test], ground.block[split.test]
    guessed: dict[str, np.ndarray] = {}
    for kind in ("fused", "raw"):
        x = ground.x[kind].astype(np.float64)
        for name, probe in probes(ground, split, kind, seed).items():
            guessed[name] = probe(x)
            guessed[f"{name}_place"] = probe(np.nan_to_num(standardised_by_place(x, ground.patch)))
    for name in list(guessed):
        guessed[f"{name}_parcels"] = _voted(guessed[name], ground.parcel[split.test])
    found = {}
    for name, guess in guessed.items():
        sums = sample_sums("multiclass", target, guess, classes)  # (n, K, 3)
        one = score_intervals("multiclass", sums, blocks).scores["macro_f1"]
        found[name] = {"macro_f1": one.value, "told": str(one), "sums": sums}
    return found


def _voted(guess: np.ndarray, parcel: np.ndarray) -> np.ndarray:
    """(n,) the most frequent guess of each row's parcel."""
    number = np.unique(parcel, return_inverse=True)[1]
    votes = np.zeros((number.max() + 1, guess.max() + 1))
    np.add.at(votes, (number, guess), 1)
    return np.asarray(votes.argmax(axis=1)[number])


def _ground(state: State, model: ContextFusion, periods: int, dates: int, pixels: int) -> tuple[Ground, int]:
    maps, classes = state.data["labels"]["crop type"]
    parts: list[tuple[np.ndarray, ...]] = []
    before = 0
    for cube in state.data["all"]:
        drawn = np.random.default_rng(state.seed).permutation(int(np.prod(cube.shape)))[:pixels]
        row, column = np.unravel_index(np.sort(drawn), cube.shape)
        chosen = np.zeros(cube.shape, dtype=bool)
        chosen[row, column] = True
        encoder = BlockEncoder(model, cube, dates=_clearest(cube, periods, dates), pixels=chosen)
        fused = mean_by_part(encoder(*cube.whole), part_of_year(encoder.dates, periods), periods)[:, row, column].T
        rows, columns = cube.whole
        raw = raw_periods(model, cube, rows, columns, periods)[:, row, column].T
        parcels = _parcels(maps[cube.name])
        numbers = np.where(parcels > 0, parcels + before, -1)
        before += int(parcels.max())
        names = np.full(len(row), cube.name)
        part = fused, raw, maps[cube.name][row, column], names, row, column, numbers[row, column]
        seen = ~np.isnan(fused).all(axis=1)
        parts.append(tuple(values[seen] for values in part))
    fused, raw, y, patch, row, column, parcel = (np.concatenate(values) for values in zip(*parts, strict=True))
    side = state.data["all"][0].shape[1] // STRIPES * STRIPES
    return Ground({"fused": fused, "raw": raw}, y, patch, row, column, parcel, side), len(classes)


def _parcels(labels: np.ndarray) -> np.ndarray:
    """(H, W) number from 1 of the connected pixels of one class, 0 where there is none."""
    from scipy.ndimage import label

    found = np.zeros(labels.shape, dtype=np.int64)
    for kind in np.unique(labels[labels >= 0]):
        own = label(labels == kind)[0]
        found += np.where(own > 0, own + found.max(), 0)
    return found


def _clearest(cube: Cube, periods: int, most: int) -> np.ndarray:
    """The reference's ``most`` dates with the clearest view in each part of the year, in the order of time."""
    series = cube.sensors["s2"]
    part, share = part_of_year(series.dates, periods), series.observed_share()
    own = [np.flatnonzero(part == p) for p in np.unique(part)]
    return np.sort(np.concatenate([rows[np.argsort(-share[rows], kind="stable")[:most]] for rows in own]))
