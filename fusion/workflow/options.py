"""Options of a command that can be refused before any data are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import Augmentation
from ..evaluation.protocol import PROBES
from ..settings import accepted
from ..training import fit, read_header
from ..training.arguments import check_training
from ..training.systems import SYSTEMS

__all__ = ["check_finetuning", "check_probe", "require_default"]

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
            "RUN --data DATA --save linear`"
        )
    if system is not None:
        accepted(system.load("finetuning"), module or {}, "fine-tuning", _OWN)
    check_training(training or {}, fit)
    accepted(Augmentation, augmentation or {}, "augmentation")


def check_probe(
    run: Path, save: str | None, probes: Sequence[str] | None, fraction: float | None, draws: int | None
) -> str:
    """The system of the model of ``run``, after what no data could make right is refused.

    Raises:
        FileNotFoundError, ValueError: no model, one that nothing is saved on top of, an unknown probe, or a fraction or
            a number of draws that cannot be.
    """
    header = read_header(run)
    unknown = [name for name in probes or () if name not in PROBES]
    if unknown:
        raise ValueError(f"probe: no probe {', '.join(map(repr, unknown))}; there are {', '.join(PROBES)}")
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"probe: --fraction {fraction:g} is no share of the labels; give one above 0, at most 1")
    if draws is not None and draws < 1:
        raise ValueError(f"probe: --draws {draws}; labels are drawn once or more")
    if header.system == "context" and not save:
        raise ValueError(
            f"{run} is a context-aware model, whose pixels are probed for a map: add --save linear or --save forest"
        )
    return header.system


def require_default(system: str, options: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuses options, each given and default, that mean nothing for a model of ``system``.

    Raises:
        ValueError: one of them was given.
    """
    given = [f"--{name}" for name, (value, default) in options.items() if value != default]
    if given:
        raise ValueError(f"probe: {', '.join(given)} means nothing for a model of {system}; leave it out")
