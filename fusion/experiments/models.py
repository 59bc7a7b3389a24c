"""New models for given data: statistics from the training tiles, sizes by name, any registered system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import nn

from ..data import TileDataset, fit_statistics
from ..training import SYSTEMS
from .state import call

__all__ = ["configure", "finetuning", "pretraining"]


def configure(system: str, dataset: TileDataset, *, size: str = "tiny", model: Mapping[str, Any] | None = None) -> Any:
    """The configuration of a model for the modalities and the grid of ``dataset``, normalising as its tiles want.

    Args:
        system: e.g. ``"omnisat"``.
        size: a named size of the system, e.g. ``"tiny"``.
        model: fields that differ from it, e.g. ``{"depth": 4}``.

    Raises:
        ValueError: an unknown system, size or field.
    """
    if system not in SYSTEMS:
        raise ValueError(f"no system {system!r}; there are {', '.join(SYSTEMS)}")
    config = SYSTEMS[system].load("config")
    changes = {k: tuple(v) if isinstance(v, list) else v for k, v in (model or {}).items()}
    try:
        return config.preset(size, fit_statistics(dataset), dataset.grid, **changes)
    except TypeError as error:  # a dataclass refuses unknown fields this way
        raise ValueError(f"{system}: {error}; its fields are {', '.join(config.__dataclass_fields__)}") from None


def pretraining(system: str, config: Any, settings: Mapping[str, Any], seed: int) -> LightningModule:
    """A LightningModule that trains a new model without labels; the same weights for the same seed."""
    torch.manual_seed(seed)
    return call(SYSTEMS[system].load("pretraining"), settings, f"{system} pretraining", config)


def finetuning(
    system: str, model: nn.Module, dataset: TileDataset, settings: Mapping[str, Any], seed: int
) -> LightningModule:
    """A LightningModule that trains ``model`` with a head for the labels of ``dataset``.

    Raises:
        ValueError: the data has no labels, or unknown settings.
    """
    labels = dataset.labels()
    if dataset.task == "regression":
        columns = labels.float().reshape(len(labels), -1)
        spread = columns.std(dim=0, correction=0)
        scale = {"target_mean": columns.mean(dim=0).tolist(), "target_std": spread.tolist()}
        settings = scale | dict(settings)
    torch.manual_seed(seed)
    where = f"{system} fine-tuning"
    return call(SYSTEMS[system].load("finetuning"), settings, where, model, dataset.task, dataset.classes)
