"""Labelled pixel series of Canada: weather from satellite series, and crop types from the joint representation."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data import ArrayTiles, Modality, TileDataset
from ...data import fraction as draw_labels
from ...evaluation import Features, Picture, ProbeResult, Row, Section, Table, per_class, probe, score
from ...evaluation.generation import compare, pictures
from ...evaluation.model_profiles import inputs
from ...evaluation.profile_scores import score_table
from ...settings import renamed
from ...token_fusion.generate import require_token_fusion
from ...token_fusion.heads import Tuning, representation
from ...token_fusion.heads import classify as tune
from ...token_fusion.in_memory import Recipe, learn, tokenize
from ...token_fusion.pooling import Pooled
from ...training.systems import reinitialised
from ...workflow import figures, scores
from ...workflow.kept import keep, keep_profiles
from ...workflow.state import State

__all__ = ["classify", "generate", "open_series"]

_NODATA = 65535
_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
_MONTH = 30  # days from one monthly value to the next, on a calendar of equal months
_SPLITS = ("train", "val", "test")


def open_series(source: str | Path, *, least: int = 50) -> tuple[dict[str, TileDataset], str]:
    """``series.npz`` and ``labels.csv`` of the folder ``source``, as tiles of one pixel.

    Parts: ``train``, ``val``, ``test``, all pixels without labels, and ``labelled_train``, ... the pixels of the crop
    types that have a name and at least ``least`` training pixels, with labels. Splits are the data's own, by cells of
    100 km, which are also the blocks of intervals. Months stand at days 0, 30, 60, ...

    Raises:
        ValueError: one of the files is missing.
    """
    folder = Path(source)
    missing = [name for name in ("series.npz", "labels.csv") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: no {' and no '.join(missing)}; --data is the folder that holds them")
    with open(folder / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with np.load(folder / "series.npz") as arrays:
        raw = arrays["x"]  # (N, 18, 13)
    x = np.where(raw == _NODATA, np.nan, raw.astype(np.float32))
    with np.errstate(divide="ignore"):
        decibel = 20 * np.log10(x[..., 9:11]) - 83
    values = {
        "s2": x[..., :9],
        "s1": np.where(np.isfinite(decibel), decibel, np.nan),
        "temperature": x[..., 11:12] / 100 - 273.15,
        "precipitation": x[..., 12:13] / 100,
    }
    modalities = [
        Modality("s2", "series", _BANDS, 10.0, 1, "reflectance x 10000"),
        Modality("s1", "series", ("VV", "VH"), 10.0, 1, "dB"),
        Modality("temperature", "series", ("mean",), 10.0, 1, "degC"),
        Modality("precipitation", "series", ("sum",), 10.0, 1, "mm"),
    ]
    days = dict.fromkeys(values, _MONTH * np.arange(x.shape[1]))
    split = np.array([row["split"] for row in rows])
    crop = np.array([row["croptype_name"] for row in rows])
    known = np.array([row["croptype"] != "0" and bool(row["croptype_name"]) for row in rows])
    frequent, counts = np.unique(crop[known & (split == "train")], return_counts=True)
    classes = tuple(str(name) for name in frequent[np.argsort(-counts, kind="stable")][: int((counts >= least).sum())])
    labels = np.array([classes.index(name) if name in classes else -1 for name in crop])
    names = [row["sample_id"] for row in rows]
    cells = np.array([row["h3_l3_cell"] for row in rows])
    splits = {name: np.flatnonzero(split == name).tolist() for name in _SPLITS}
    every = ArrayTiles(modalities, values, days, names=names, splits=splits, blocks=cells)
    having = np.flatnonzero(labels >= 0)
    labelled = ArrayTiles(
        modalities,
        {name: array[having] for name, array in values.items()},
        days,
        names=[names[i] for i in having],
        task="multiclass",
        classes=classes,
        labels=torch.from_numpy(labels[having]),
        blocks=cells[having],
        splits={name: np.flatnonzero(split[having] == name).tolist() for name in _SPLITS},
    )
    parts = {name: every.split(name) for name in _SPLITS}
    parts |= {f"labelled_{name}": labelled.split(name) for name in _SPLITS}
    sizes = ", ".join(f"{len(parts[name])} ({len(parts[f'labelled_{name}'])} labelled) {name}" for name in _SPLITS)
    return parts | {"all": every}, f"{len(every)} pixels: {sizes}; {len(classes)} crop types"


@renamed(given="conditioning")
def generate(
    state: State,
    *,
    key: str = "generation",
    model: str = "pretrained",
    target: str = "temperature",
    conditioning: Sequence[str] = ("s2", "s1"),
    samples: int = 8,
    how: Mapping[str, Any] | None = None,
    others: Mapping[str, Mapping[str, Any]] | None = None,
    unit: str = "degC",
) -> str:
    """``target`` of the test pixels from ``conditioning``; scores go to ``<key>.<method>.rmse`` and so on.

    Args:
        how: arguments of :func:`fusion.token_fusion.generate.generate`.
        others: further models by name, as arguments of :class:`~fusion.token_fusion.in_memory.Recipe`, e.g. with other
            tokenizers; they train on the same pixels.
        unit: of the target, for the report.
    """
    train, test = state.split("train"), state.split("test")
    main = compare(
        require_token_fusion(state.model(model)),
        train,
        test,
        target,
        conditioning,
        samples=samples,
        seed=state.seed,
        how=how,
    )
    for name, settings in (others or {}).items():
        other = learn(train, Recipe.of(settings), state.seed)
        found = compare(
            other, train, test, target, conditioning, samples=samples, seed=state.seed, how=how, baselines=False
        )
        main.guesses[f"model_{name}"] = found.guesses["model"]
    rows = main.scores()
    what = (
        f"{target} of {len(test)} test pixels from {' and '.join(conditioning)}; {len(train)} training pixels, "
        f"none in the same cell of 100 km; seed {state.seed}."
    )
    state.metrics[key] = rows | {"conditions": what}
    keep_profiles(state, key, main.truth, main.guesses, test.blocks())
    items: list[Picture | Table] = [score_table(rows, what, unit), *pictures(main, target, unit, what, test.names)]
    state.sections.append(Section(f"{target.capitalize()} from {' and '.join(conditioning)}", "", items))
    return "RMSE " + ", ".join(f"{name} {row['rmse']:.2f}" for name, row in rows.items())


@renamed(shares="fractions")
def classify(
    state: State,
    *,
    key: str = "classification",
    model: str = "pretrained",
    fractions: Sequence[float] = (0.05, 1.0),
    draws: int = 3,
    pooled: Pooled = "months",
    tuning: Mapping[str, Any] | None = None,
) -> str:
    """Crop types of the test pixels, with few and with all labels.

    Scores go to ``<key>.labels_<percent>.<row>.macro_f1``. Rows: ``joint``, the pretrained model fine-tuned, and
    ``scratch``, the same without pretraining; ``joint_probe``, a linear classifier
    (:func:`fusion.evaluation.linear_probe`) on the frozen pretrained model, and ``random_probe``, on one with random
    weights; ``raw`` and ``raw_forest``, a linear classifier and a random forest on every value of every month.
    Intervals are over cells of the test pixels.

    Args:
        pooled: what probes see of the frozen model, see :class:`~fusion.token_fusion.pooling.TokenFeatures`.
        draws: of the labels, for fractions below one; all labels are used once.
        tuning: fields of :class:`fusion.token_fusion.heads.Tuning`.
    """
    trained = require_token_fusion(state.model(model))
    known, unseen = state.split("labelled_train"), state.split("labelled_test")
    names = tuple(m.name for m in trained.config.modalities)
    seeds = [state.seed + k for k in range(draws)]
    shared: dict[str, Any] = {"fractions": fractions, "seeds": seeds, "modalities": names}
    torch.manual_seed(state.seed)
    fresh = require_token_fusion(reinitialised(trained).eval())
    kinds = {"joint": trained, "random": fresh}
    tokens = [tokenize(trained, part) for part in (known, unseen)]
    rows: list[Row] = []
    for name, network in kinds.items():
        seen, new = (
            _features(representation(network, t, pooled), p) for t, p in zip(tokens, (known, unseen), strict=True)
        )
        rows += probe(seen, new, known, name=name, **shared)
    seen, new = (_features(inputs(trained, part, names), part) for part in (known, unseen))
    rows += probe(seen, new, known, probes=["linear", "forest"], name="raw", **shared)
    labels, wanted = known.labels().numpy(), unseen.labels().numpy()
    for fraction in fractions:
        for seed in seeds if fraction < 1 else seeds[:1]:  # all labels can be drawn in one way only
            how = Tuning(seed=seed, **(tuning or {}))
            few = draw_labels(known, fraction, seed)
            for name, network in (("pretrained", trained), ("scratch", fresh)):
                labelled = tokens[0].rows(torch.tensor(few))
                tuned = tune(network, labelled, labels[few], len(known.classes), how)
                guess = tuned.predict(tokens[1])
                found = score("multiclass", wanted, guess), per_class("multiclass", wanted, guess, known.classes)
                rows.append(Row(name, names, fraction, seed, ProbeResult("finetune", *found, wanted, guess, len(few))))
    state.metrics[key], items = {}, []
    for fraction in fractions:
        named = _rows([row for row in rows if row.fraction == fraction])
        ends = scores.intervals(named, unseen, state.seed)
        conditions = scores.conditions(state, named["joint"], draws, "labelled_train", "labelled_test", ends)
        entry = scores.as_metrics(named, ends) | {"conditions": conditions}
        group = f"labels_{fraction:.0%}".rstrip("%")
        state.metrics[key][group] = entry
        keep(state, f"{key}.{group}", named, unseen)
        items += [
            scores.table(named, conditions, ends),
            *figures.per_class({"joint": named["joint"]}, unseen, conditions),
        ]
    state.sections.append(Section("Crop types with few and with all labels", "", items))
    few_rows = _rows([row for row in rows if row.fraction == min(fractions)])
    return f"{min(fractions):.0%} of the labels, {scores.summary(few_rows, 'macro_f1')}"


def _rows(rows: Sequence[Row]) -> scores.Named:
    names = {
        ("pretrained", "finetune"): "joint",
        ("scratch", "finetune"): "scratch",
        ("joint", "linear"): "joint_probe",
        ("random", "linear"): "random_probe",
        ("raw", "linear"): "raw",
        ("raw", "forest"): "raw_forest",
    }
    named: scores.Named = {}
    for row in rows:
        named.setdefault(names[row.features, row.method], []).append(row)
    return {name: named[name] for name in sorted(named, key=list(names.values()).index)}


def _features(x: np.ndarray, part: TileDataset) -> Features:
    """NaN where missing."""
    return Features(x.astype(np.float32), part.labels().numpy(), tuple(part.names), part.task, part.classes)
