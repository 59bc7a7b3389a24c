"""The comparisons that a paper reports: each modality alone and all together, pretrained against its controls, few
labels and many, over several draws of the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from fusion.data import TileDataset
from fusion.data import fraction as draw_labels
from fusion.settings import renamed
from fusion.training.systems import config_of

from .alignment import Align, Alignment, aligned, by_place
from .baselines import forest_probe, random_encoder, raw_statistics
from .features import Features
from .metrics import Spread
from .pools import Pool, chosen_pool, extract_each
from .probes import ProbeResult, knn_probe, linear_probe
from .raw_forest import RawTiles

__all__ = ["PROBES", "Row", "combinations", "compare", "evaluate", "probe", "summarise"]

PROBES: dict[str, Callable[..., ProbeResult]] = {
    "linear": linear_probe,
    "knn": lambda train, test, seed: knn_probe(train, test),
    "forest": forest_probe,
}


@dataclass(frozen=True)
class Row:
    """One probe of one kind of features with one draw of labels.

    Attributes:
        features: where they come from, e.g. ``"pretrained"``, ``"random"``, ``"raw"``.
        modalities: those that were given.
        fraction, seed: of the labels, and of their draw.
    """

    features: str
    modalities: tuple[str, ...]
    fraction: float
    seed: int
    result: ProbeResult

    @property
    def method(self) -> str:
        return self.result.method

    @property
    def share(self) -> float:
        """The former name of ``fraction``."""
        return self.fraction


@renamed(shares="fractions")
def evaluate(
    model: nn.Module,
    train: TileDataset,
    test: TileDataset,
    *,
    modalities: Sequence[Sequence[str]] | None = None,
    probes: Sequence[str] = ("linear", "knn"),
    fractions: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    name: str = "pretrained",
    align: Align = "none",
    **extraction: Any,
) -> list[Row]:
    """Probes a frozen model with every modality alone and all together, as OmniSat's tables do.

    Args:
        modalities: combinations to try instead.
        probes: of ``PROBES``.
        fractions, seeds: fractions of the training labels, each drawn (stratified) once per seed.
        align: whether features of other places are made comparable, see :func:`fusion.evaluation.alignment.aligned`.
        extraction: goes to :func:`~fusion.evaluation.extract`, e.g. ``pool``, ``batch_size``, ``device``. With
            ``pool="auto"`` each draw takes the pool that held-out blocks of its own labels prefer.

    Raises:
        ValueError: data that do not fit the model, or labels that allow no probe; the message says why.
    """
    ground = aligned(train, test, align)
    settings: dict[str, Any] = {"probes": probes, "fractions": fractions, "seeds": seeds, "name": name}
    rows = []
    for names in modalities or combinations(model, train):
        rows += _of_encoder(model, ground, names, settings, **extraction)
    return _noted(rows, ground)


@renamed(shares="fractions")
def compare(
    model: nn.Module,
    train: TileDataset,
    test: TileDataset,
    *,
    probes: Sequence[str] = ("linear",),
    fractions: Sequence[float] = (0.1,),
    seeds: Sequence[int] = (0,),
    forest: bool = True,
    control: bool = False,
    align: Align = "none",
    **extraction: Any,
) -> list[Row]:
    """The pretrained encoder, the same with random weights (one per seed), and raw band statistics, under one protocol.

    ``forest`` adds a random forest on the raw statistics, ``control`` the strongest of several simple methods on raw
    values (method ``"best"``, :func:`fusion.evaluation.raw_forest.raw_best`). Every row uses the same draws of labels.
    ``align`` as in :func:`evaluate`, of raw values as of features.
    """
    names = combinations(model, train)[-1]
    every, test = (split.with_modalities(names) for split in (train, test))
    ground = aligned(every, test, align)
    train = ground.train
    shared: dict[str, Any] = {"probes": probes, "fractions": fractions, "seeds": seeds}
    rows = _of_encoder(model, ground, names, shared | {"name": "pretrained"}, **extraction)
    for seed in seeds:
        fresh = random_encoder(model, every, seed)
        rows += _of_encoder(fresh, ground, names, shared | {"seeds": [seed], "name": "random"}, **extraction)
    drawn = _drawn(train, fractions, seeds)
    some = drawn if ground.places is None else np.arange(len(train))  # a place is standardised over all of its tiles
    read = replace(ground, train=train.subset(some))
    values = RawTiles.of(read) if control else None
    known, unseen = (values.known, values.unseen) if values else _raw_features(read)
    methods = [*probes, "forest"] if forest and "forest" not in probes else list(probes)
    own = shared | {"probes": methods, "name": "raw", "modalities": tuple(names)}
    rows += probe(known.subset(np.searchsorted(some, drawn)), unseen, train, rows=drawn, **own)
    for fraction in fractions:
        for seed in seeds if fraction < 1 else list(seeds)[:1]:
            if values is None:
                continue
            labelled = np.searchsorted(some, np.asarray(draw_labels(train, fraction, seed)))
            rows.append(Row("raw", tuple(names), fraction, seed, values.best(labelled, seed=seed)))
    return _noted(rows, ground)


@renamed(shares="fractions")
def probe(
    train: Features | Mapping[Pool, Features],
    test: Features | Mapping[Pool, Features],
    labelled: TileDataset,
    *,
    rows: Sequence[int] | np.ndarray | None = None,
    probes: Sequence[str] = ("linear",),
    fractions: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    name: str = "pretrained",
    modalities: tuple[str, ...] = (),
) -> list[Row]:
    """Every probe with every fraction of the labels.

    Args:
        train, test: features of the tiles to learn from and to score on; or several by pool, of which each draw of
            labels takes the one that its own held-out blocks prefer (:func:`fusion.evaluation.pools.chosen_pool`);
            ``setting["pool"]`` of its results names it.
        labelled: the training tiles, whose labels are drawn from.
        rows: which of them ``train`` are the features of (ascending); all by default.

    Raises:
        ValueError: an unknown probe, or features of other tiles.
    """
    unknown = [p for p in probes if p not in PROBES]
    if unknown:
        raise ValueError(f"probe: {', '.join(unknown)} unknown; there are {', '.join(PROBES)}")
    covered = np.arange(len(labelled)) if rows is None else np.asarray(rows)
    pools, tests = _by_pool(train), _by_pool(test)
    if any(len(features) != len(covered) for features in pools.values()):
        count = len(next(iter(pools.values())))
        raise ValueError(f"probe: features of {count} tiles, labels of {len(covered)}; they must be the same")
    found = []
    for fraction in fractions:
        for seed in seeds if fraction < 1 else list(seeds)[:1]:  # all labels can be drawn in one way only
            chosen = np.asarray(draw_labels(labelled, fraction, seed))
            if not np.isin(chosen, covered).all():
                raise ValueError(
                    f"probe: fraction {fraction}, seed {seed} draws tiles without features; extract them too"
                )
            drawn = np.searchsorted(covered, chosen)
            each = {pool: features.subset(drawn) for pool, features in pools.items()}
            pool = chosen_pool(each, seed)
            for method in probes:
                result = PROBES[method](each[pool], tests[pool], seed=seed)
                if isinstance(train, Mapping):
                    result = replace(result, setting=result.setting | {"pool": pool})
                found.append(Row(name, modalities, fraction, seed, result))
    return found


def _of_encoder(
    model: nn.Module, ground: Alignment, names: Sequence[str], settings: Mapping[str, Any], **extraction: Any
) -> list[Row]:
    """Probes of a model's features, standardised by place over all tiles; without places only tiles that a draw of
    labels contains are encoded."""
    drawn = _drawn(ground.train, settings["fractions"], settings["seeds"])
    some = drawn if ground.places is None else np.arange(len(ground.train))
    known, unseen = (
        {pool: by_place(features, places) for pool, features in extract_each(model, tiles, names, **extraction).items()}
        for tiles, places in ((ground.train.subset(some), ground.places), (ground.test, ground.test_places))
    )
    rows = np.searchsorted(some, drawn)
    train = {pool: features.subset(rows) for pool, features in known.items()}
    return probe(train, unseen, ground.train, rows=drawn, modalities=tuple(names), **settings)


def _raw_features(ground: Alignment) -> tuple[Features, Features]:
    known = by_place(raw_statistics(ground.train), ground.places)
    return known, by_place(raw_statistics(ground.test), ground.test_places)


def _noted(rows: Sequence[Row], ground: Alignment) -> list[Row]:
    """The rows with a note of what was done to make places comparable."""
    told = str(ground)
    if not told:
        return list(rows)
    return [
        row if told in row.result.notes else replace(row, result=replace(row.result, notes=(*row.result.notes, told)))
        for row in rows
    ]


def _by_pool(given: Features | Mapping[Pool, Features]) -> Mapping[Pool, Features]:
    return given if isinstance(given, Mapping) else {"mean": given}


def _drawn(train: TileDataset, fractions: Sequence[float], seeds: Sequence[int]) -> np.ndarray:
    """Tiles that any draw contains (ascending): the others need not be encoded at all."""
    draws = [draw_labels(train, fraction, seed) for fraction in fractions for seed in seeds]
    return np.unique(np.concatenate(draws))


def combinations(model: nn.Module, dataset: TileDataset) -> list[list[str]]:
    """Every modality that both know alone, then all of them together (once, if there is only one).

    Raises:
        ValueError: they share none.
    """
    known = {m.name for m in config_of(model).modalities}
    names = [m.name for m in dataset.modalities if m.name in known]
    if not names:
        ours = ", ".join(m.name for m in dataset.modalities)
        raise ValueError(f"the model knows {', '.join(sorted(known))}, the data have {ours}: nothing in common")
    return [[name] for name in names] + ([names] if len(names) > 1 else [])


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry per features, modalities, method and fraction: the scores as :class:`Spread` over seeds, and notes."""
    groups: dict[tuple[str, tuple[str, ...], str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.features, row.modalities, row.method, row.fraction), []).append(row)
    return [
        {
            "features": features,
            "modalities": modalities,
            "method": method,
            "fraction": fraction,
            "share": fraction,  # its former name
            "labelled": int(np.mean([row.result.labelled for row in members])),
            "scores": {
                metric: Spread.of([row.result.scores[metric] for row in members]) for metric in members[0].result.scores
            },
            "notes": tuple(dict.fromkeys(note for row in members for note in row.result.notes)),
        }
        for (features, modalities, method, fraction), members in groups.items()
    ]
