"""New models for given data: statistics from the training tiles, sizes by name, any registered system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import TileDataset, fit_statistics
from ..training import SYSTEMS
from .state import call

__all__ = ["configure", "train"]


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


def train(
    system: str,
    tiles: TileDataset,
    validation: TileDataset | None,
    run: Path,
    size: str,
    model: Mapping[str, Any] | None,
    module: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None,
    seed: int,
) -> Path:
    """Pretrains a new model in the folder ``run``, or goes on with the one there; returns the best checkpoint.

    Args:
        module: arguments of the system's pretraining LightningModule.
        training: arguments of :func:`fusion.training.fit`.
        seed: of the weights, and of the batches unless ``training`` has its own.

    Raises:
        ValueError: an unknown system, size or setting, or what ``fit`` refuses.
    """
    from ..training import fit

    config = configure(system, tiles, size=size, model=model)
    torch.manual_seed(seed)
    lightning = call(SYSTEMS[system].load("pretraining"), module or {}, f"{system} pretraining", config)
    return call(fit, {"seed": seed} | dict(training or {}), "training", lightning, tiles, validation, run)
