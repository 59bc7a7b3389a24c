"""Options of a command that can be refused before any data are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data import Augmentation
from ..settings import accepted
from ..training import fit, read_header
from ..training.arguments import check_training
from ..training.systems import SYSTEMS

__all__ = ["check_finetuning"]

# What fine-tuning gives to the module itself, from the model, the labels and other options.
_OWN = ("model", "task", "classes", "freeze", "lr", "target_mean", "target_std", "label_shape", "ignore_index")


def check_finetuning(
    run: Path,
    module: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None,
    augmentation: Mapping[str, Any] | None,
) -> None:
    """Refuses what fine-tuning the model of ``run`` would refuse whatever the data are.

    Raises:
        FileNotFoundError, ValueError: no model, one of a system without fine-tuning, or an unknown setting.
    """
    header = read_header(run)
    system = SYSTEMS.get(header.system)
    if system is not None and not system.finetuning:
        raise ValueError(
            f"{run} is a model of {header.system}, which is not fine-tuned: its embeddings are probed, `fusion probe "
            "RUN --data DATA --save`"
        )
    if system is not None:
        accepted(system.load("finetuning"), module or {}, "fine-tuning", _OWN)
    check_training(training or {}, fit)
    accepted(Augmentation, augmentation or {}, "augmentation")
