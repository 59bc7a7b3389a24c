"""What labels a data set has, and whether they can be learned."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .dataset import TileDataset
from .doubtful_values import undeclared_nodata
from .spacing import evenly_spaced
from .units import readable

__all__ = ["check_labels", "describe_labels"]

_PIXELS_READ = 100_000  # of some maps
LABELS_READ = 500  # of those that stay in files; more would take longer than the tiles


def describe_labels(dataset: TileDataset) -> tuple[str, list[str]]:
    """Task, classes and splits as one line of a report, and what should be known about them.

    Raises:
        ValueError: a file of labels that cannot be read.
    """
    if dataset.task is None:
        return "none", []
    warnings = []
    members = {name: _members(dataset, name) for name in dataset.splits}
    for first, second in [("train", "val"), ("train", "test"), ("val", "test")]:
        shared = members.get(first, set()) & members.get(second, set())
        if shared:
            warnings.append(f"splits {first} and {second} share {len(shared)} tiles, e.g. {sorted(shared)[0]}")
    text, seen = f"{dataset.task}, ", dataset
    if dataset.labels_in_files and len(dataset) > LABELS_READ:
        seen = dataset.subset(evenly_spaced(len(dataset), LABELS_READ))
        text += f"of {len(seen)} evenly spaced tiles: "
    if dataset.task == "regression":
        targets, low, high = _targets(seen)  # (T, n)
        unknown = int((~np.isfinite(targets)).any(axis=0).sum())
        if low > high:
            warnings.append("no label at all: every value is NaN or infinite")
        elif unknown and not dataset.dense:
            warnings.append(
                f"{unknown} of {len(seen)} tiles have no label (NaN or infinite): leave them out of every split"
            )
        text += f"{', '.join(dataset.classes)} {readable(low)}..{readable(high)}"
        warnings += undeclared_nodata(targets, "labels", dataset.classes)
    else:
        counts = _counts(seen)
        if dataset.task == "multiclass" and not dataset.dense and sum(counts.values()) < len(seen):
            unknown = len(seen) - sum(counts.values())
            warnings.append(f"{unknown} of {len(seen)} tiles have no label: leave them out of every split")
        text += ", ".join(f"{name} {count}" for name, count in counts.items())
        missing = [name for name, count in counts.items() if not count]
        if missing:
            where = "" if seen is dataset else f" in {len(seen)} of {len(dataset)} tiles"
            warnings.append(f"no example of {', '.join(missing)}{where}: scores of these classes mean nothing")
    sizes = ", ".join(f"{name} {len(tiles)}" for name, tiles in members.items())
    return text + (f"; splits: {sizes}" if sizes else ""), warnings


def _targets(dataset: TileDataset) -> tuple[np.ndarray, float, float]:
    """(T, n) float64 of every tile, or of some pixels of every map; and the range of all that is known."""
    kept, low, high = [], np.inf, -np.inf
    for part in _parts(dataset):
        known = part[part.isfinite()]
        if len(known):
            low, high = min(low, float(known.min())), max(high, float(known.max()))
        columns = part.reshape(-1, 1) if dataset.dense else part.reshape(len(part), -1)
        step = max(1, len(columns) // _PIXELS_READ) if dataset.dense else 1
        kept.append(columns[::step].double().numpy())
    return np.concatenate(kept).T, low, high


def _parts(dataset: TileDataset) -> Iterator[Tensor]:
    """The labels, some tiles at a time where they are in files: maps of many tiles are too large for memory."""
    size = 32 if dataset.labels_in_files else len(dataset)
    for begin in range(0, len(dataset), size):
        yield dataset.subset(range(begin, min(begin + size, len(dataset)))).labels()


def _members(dataset: TileDataset, split: str) -> set[str]:
    try:
        return set(dataset.split(split).names)
    except ValueError:
        return set()


def _counts(dataset: TileDataset) -> dict[str, int]:
    """Tiles (of a map: pixels) by class."""
    counts = torch.zeros(len(dataset.classes), dtype=torch.int64)
    for labels in _parts(dataset):
        if dataset.task == "multilabel":
            counts += (labels > 0.5).sum(dim=0)
        else:
            flat = labels.flatten()
            counts += torch.bincount(flat[(flat >= 0) & (flat != dataset.ignore_index)], minlength=len(counts))
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


def check_labels(dataset: TileDataset) -> None:
    """
    Raises:
        ValueError: a class without any example, a target without variation, or no labels at all. The message says how
            to go on.
    """
    if dataset.task == "regression":
        flat = dataset.labels().reshape(len(dataset), -1)
        constant = [n for n, c in zip(dataset.classes, flat.T, strict=False) if (c == c[0]).all()]
        if constant:
            raise ValueError(f"target {', '.join(constant)} is the same in all {len(dataset)} tiles: nothing to learn")
        return
    counts = _counts(dataset)
    missing = [name for name, count in counts.items() if not count]
    present = [name for name, count in counts.items() if count]
    if missing:
        raise ValueError(
            f"no label of {', '.join(missing)} in {len(dataset)} tiles, so it cannot be learned. Take more labels, or "
            f"go on without: dataset.with_classes({present})"
        )
    if len(present) < 2 and dataset.task == "multiclass":
        raise ValueError(f"all {len(dataset)} tiles are {present[0]!r}: two classes at least are needed")
