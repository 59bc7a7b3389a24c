"""Splits that ask whether what was learned in one place holds in another: train on scenes, test on a scene that no
training has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from .dataset import TileDataset

__all__ = ["scenes_of", "squares", "transfers"]

_SIDES = 4  # squares along each side of a scene
_MOST = 12  # scenes of which each is left out once; of more, folds are asked for


def scenes_of(dataset: TileDataset) -> list[str]:
    """Of each tile the scene that it lies in: the file or folder of a described folder, else its block of ground.

    Raises:
        ValueError: the data do not say which tiles belong together.
    """
    if (ground := dataset.ground()) is not None:
        return [name for name, _, _ in ground]
    blocks = dataset.blocks()
    if blocks is None:
        raise ValueError(
            f"transfer: {type(dataset).__name__} of {len(dataset)} tiles does not say which of them lie in one scene; "
            "describe the folder with a {scene} in `files` (docs/data.md), or give splits of your own"
        )
    return [str(block) for block in blocks]


def squares(dataset: TileDataset, sides: int = _SIDES) -> np.ndarray | None:
    """(N,) name of the square of ground that each tile lies in: every scene of a described folder is cut into
    ``sides`` x ``sides`` parts, or fewer where it has fewer tiles. None where the place of tiles is not known."""
    if (ground := dataset.ground()) is None:
        return None
    found = np.empty(len(dataset), dtype=object)
    scene = np.array([name for name, _, _ in ground])
    corner = np.array([(top, left) for _, top, left in ground], dtype=np.float64)  # (N, 2) metres
    for name in np.unique(scene):
        members = np.flatnonzero(scene == name)
        own = corner[members] - corner[members].min(0)
        steps = [np.diff(np.unique(column)) for column in own.T]
        step = min((float(d.min()) for d in steps if len(d)), default=1.0)
        tiles = round(float(own.max()) / step) + 1  # along the longer side
        side = -(-tiles // sides) * step  # whole tiles
        row, column = (own / side + 1e-9).astype(int).T
        found[members] = [f"{name}/{r}-{c}" for r, c in zip(row, column, strict=True)]
    return found.astype(str)


def transfers(
    dataset: TileDataset,
    *,
    by: Literal["scene"] = "scene",
    classes: Literal["all", "common"] = "all",
    least: int = 2,
    folds: int | None = None,
    validation: float = 0.2,
) -> dict[str, dict[str, TileDataset]]:
    """One set of splits for each scene that is left out: of two scenes both directions, of more each against all
    others.

    Args:
        by: what is left out; scenes, see :func:`scenes_of`.
        classes: ``common`` keeps the classes that every scene has at least ``least`` tiles of (of maps: pixels): a
            class that is not there cannot be learned, or not be found.
        folds: leave out so many groups of scenes rather than single ones.
        validation: share of the training tiles for ``val``, in whole squares of ground (:func:`squares`).

    Returns:
        By name, ``a-to-b`` or ``to-b``: ``test``, all tiles of the scene; ``known``, all of the others, and its parts
        ``train`` and ``val``; ``all``. Unlabelled learning on ``train`` or ``known`` sees nothing of the tested scene.

    Raises:
        ValueError: one scene only, no labels, fewer than two common classes, or a setting that cannot be.
    """
    if by != "scene" or classes not in ("all", "common"):
        raise ValueError(f"transfer: by {by!r}, classes {classes!r}; by is 'scene', classes 'all' or 'common'")
    if not 0 <= validation < 1:
        raise ValueError(f"transfer: validation {validation}; give a share of the training tiles from 0 to below 1")
    scene = np.array(scenes_of(dataset))
    names = [str(name) for name in np.unique(scene)]
    if len(names) < 2:
        raise ValueError(f"transfer: all {len(dataset)} tiles lie in one scene, {names[0]}; two or more are wanted")
    if dataset.task is None:
        raise ValueError(f"transfer: the {len(dataset)} tiles have no labels, so nothing can be scored")
    groups = _groups(names, folds)
    kept = dataset if classes == "all" else _common(dataset, scene, names, least)
    own = np.array(scenes_of(kept))
    found = {}
    for number, group in enumerate(groups):
        tested = np.isin(own, group)
        if tested.all() or not tested.any():
            raise ValueError(f"transfer: scene {', '.join(group)} has all of the labelled tiles, or none of them")
        known = kept.subset(np.flatnonzero(~tested))
        parts = {"known": known, "test": kept.subset(np.flatnonzero(tested))} | _held_out(known, validation)
        others = [name for name in names if name not in group]
        label = f"fold-{number + 1}" if folds else group[0]
        found[f"{others[0]}-to-{label}" if len(names) == 2 else f"to-{label}"] = parts | {"all": dataset}
    return found


def _groups(names: Sequence[str], folds: int | None) -> list[list[str]]:
    """The scenes that are left out together."""
    if folds is None:
        if len(names) > _MOST:
            raise ValueError(
                f"transfer: {len(names)} scenes, each to be left out once, are as many trainings; give folds, e.g. "
                "transfer: {by: scene, folds: 5}"
            )
        return [[name] for name in names]
    if not 2 <= folds <= len(names):
        raise ValueError(f"transfer: folds {folds} of {len(names)} scenes; give 2 to {len(names)}")
    return [list(part) for part in np.array_split(np.array(names), folds)]


def _common(dataset: TileDataset, scene: np.ndarray, names: Sequence[str], least: int) -> TileDataset:
    """The data reduced to the classes that every scene has."""
    if dataset.task == "regression":
        raise ValueError("transfer: classes 'common' is for classes; a quantity has none, leave it out")
    labels = dataset.labels()
    counts = []
    for name in names:
        own = labels[torch.from_numpy(np.flatnonzero(scene == name))]
        if dataset.task == "multilabel":
            counts.append((own > 0.5).sum(0).numpy())
        else:
            known = own[(own >= 0) & (own < len(dataset.classes))]
            counts.append(torch.bincount(known.flatten(), minlength=len(dataset.classes)).numpy())
    common = [c for k, c in enumerate(dataset.classes) if min(count[k] for count in counts) >= least]
    if len(common) < (1 if dataset.task == "multilabel" else 2):
        raise ValueError(
            f"transfer: of {', '.join(dataset.classes)} only {', '.join(common) or 'none'} has {least} labels or more "
            f"in each of {', '.join(names)}; give classes: all, or a smaller least"
        )
    return dataset if len(common) == len(dataset.classes) else dataset.with_classes(common)


def _held_out(known: TileDataset, share: float) -> dict[str, TileDataset]:
    """``train`` and ``val``: whole squares of ground, at least one, until ``val`` has its share; ``train`` alone where
    no places are known or a scene is too small."""
    square = squares(known)
    if square is None or share == 0 or len(np.unique(square)) < 2:
        return {"train": known}
    names, size = np.unique(square, return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))  # the same for every seed of an experiment
    before = np.cumsum(size[order]) - size[order]
    chosen = names[order[before < share * len(known)]][: len(names) - 1]
    inside = np.isin(square, chosen)
    return {"train": known.subset(np.flatnonzero(~inside)), "val": known.subset(np.flatnonzero(inside))}
