"""From an encoder and labels to a module that predicts: an estimator on frozen embeddings; no network is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import nn

from fusion.data import TileDataset
from fusion.training.probed import Probed

from .estimators import Fitted, Kind, fit_estimator
from .patches import MOST, patch_features
from .pools import AnyPool, chosen_pool, extract_each

__all__ = ["make_probe"]


def make_probe(
    kind: Kind,
    model: nn.Module,
    train: TileDataset,
    *,
    pool: AnyPool = "mean",
    seed: int = 0,
    most: int = MOST,
) -> tuple[Probed, Fitted]:
    """Fits an estimator to the labels of ``train``: of its tiles, or where labels are maps of patches.

    Args:
        kind: ``"linear"`` (as :func:`fusion.evaluation.linear_probe`, its penalty chosen on folds of whole blocks of
            ground where the data know any) or ``"forest"``.
        pool: what stands for a tile, see :func:`fusion.evaluation.extract`; ``"auto"`` is what held-out blocks of
            ``train`` prefer.
        seed: of folds, trees, and the sample of patches.
        most: patches that are learned from.

    Raises:
        ValueError: another kind, ``pool`` for patches, data that do not fit the model, or labels that tell nothing.
    """
    names = [m.name for m in train.modalities]
    settings: dict[str, Any] = {
        "task": train.task,
        "classes": train.classes,
        "estimator": kind,
        "modalities": names,
        "ignore_index": train.ignore_index,
    }
    if train.dense:
        if pool not in ("mean", "auto"):
            raise ValueError(
                f"probe: pool {pool!r} is of tiles, and these labels are maps, which are learned by patch: leave it out"
            )
        features, groups = patch_features(model, train, most=most, seed=seed)
        fitted = fit_estimator(kind, features, seed=seed, groups=groups, of="patch")
        settings |= {"features": "patch", "label_shape": train.label_shape}
    else:
        each = extract_each(model, train, names, pool=pool)
        chosen = chosen_pool(each, seed)
        fitted = fit_estimator(kind, each[chosen], seed=seed)
        fitted = replace(fitted, setting=fitted.setting | {"pool": chosen})
        settings |= {"features": "tile", "pool": chosen}
    module = Probed(model, sizes=fitted.estimator.sizes(), **settings)
    cast(nn.Module, module.estimator).load_state_dict(fitted.estimator.state_dict())
    return module, fitted
