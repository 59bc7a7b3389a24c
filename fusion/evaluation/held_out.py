"""Which labelled tiles choose the best epoch where no validation split does: whole blocks of ground."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from fusion.data import TileDataset
from fusion.data import fraction as draw_labels
from fusion.data.fraction import strata_of

__all__ = ["enough_to_choose_by", "hold_out"]

_FOLDS = 5  # one of them is held out
_FEWEST = 100  # held-out tiles that can tell one epoch from another


def enough_to_choose_by(chosen: TileDataset) -> bool:
    """Whether a fifth of the labels can tell which epoch is best; labels that are maps always can.

    Of 107 labelled pixels, 21 held out, their loss took an epoch of macro F1 0.26 and 0.39 where the last one, of a
    schedule that had come to its end, had 0.50 and 0.53 (docs/omnisat.md, "Fine-tuning").
    """
    return chosen.dense or len(chosen) >= _FOLDS * _FEWEST


def hold_out(chosen: TileDataset, seed: int) -> tuple[TileDataset, TileDataset, str]:
    """Tiles to train on, about a fifth to choose the best epoch by, and a note where these are no whole blocks.

    Tiles of one block are alike: held out beside each other they would find an epoch good that has learned its training
    tiles by heart. Of five parts, blocks dealt so that the classes are spread as evenly as that allows (scikit-learn's
    StratifiedGroupKFold), that one is held out which leaves most classes to train on and is nearest to a fifth.

    Raises:
        ValueError: fewer than four tiles.
    """
    if len(chosen) < 4:
        raise ValueError(
            f"finetune: {len(chosen)} labelled tiles are too few to hold a fifth of them out for choosing the best "
            "epoch; draw a larger fraction, or give validation="
        )
    blocks = chosen.blocks()
    found = 0 if blocks is None else len(np.unique(blocks))
    if blocks is not None and found >= _FOLDS:
        held = _blocks_of(chosen, blocks, seed)
        return chosen.subset(np.flatnonzero(~held)), chosen.subset(np.flatnonzero(held)), ""
    fitted = draw_labels(chosen, 0.8, seed)
    rest = sorted(set(range(len(chosen))) - set(fitted))
    if not rest:  # every class had a single tile, and stratification kept them all
        fitted, rest = fitted[:-1], fitted[-1:]
    known = f"only {found} blocks of ground are known" if found else "no blocks of ground are known"
    note = f"the best epoch was chosen by {len(rest)} random tiles, neighbours of training tiles perhaps: {known}"
    return chosen.subset(fitted), chosen.subset(rest), note


def _blocks_of(chosen: TileDataset, blocks: np.ndarray, seed: int) -> np.ndarray:
    """(N,) bool: the tiles that are held out."""
    strata = strata_of(chosen)
    presence = _presence(chosen, strata)  # (N, K)
    if np.unique(strata, return_counts=True)[1].max() < _FOLDS:  # too few of each to be spread
        strata = np.zeros(len(chosen), dtype=int)
    deal = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    best, least = np.zeros(len(chosen), dtype=bool), (np.inf, np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a class has fewer tiles than there are parts
        parts = [part for _, part in deal.split(strata, strata, blocks)]
    for part in parts:
        held = np.zeros(len(chosen), dtype=bool)
        held[part] = True
        if not held.any() or held.all():
            continue
        lost = int((presence.any(0) & ~presence[~held].any(0)).sum())
        cost = (lost, abs(held.mean() - 1 / _FOLDS))
        if cost < least:
            best, least = held, cost
    return best


def _presence(chosen: TileDataset, strata: np.ndarray) -> np.ndarray:
    """(N, K) bool: which tile has which class, or is of which stratum of a quantity or a map."""
    if chosen.task == "multilabel":
        return np.asarray(chosen.labels().numpy() > 0.5)
    return np.asarray(strata[:, None] == np.unique(strata))
