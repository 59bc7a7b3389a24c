"""Which arguments training takes: of ``fit`` and, behind it, of Lightning's trainer."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["check_counts", "check_finite", "check_training"]

_LEAST = {"epochs": 1, "batch_size": 1, "patience": 0, "workers": 0, "seed": 0}
_OPTIONAL = "patience", "workers"

# What fit gives to the trainer itself, and what to use instead.
_OWN = {
    "logger": "a run writes metrics.csv and tensorboard/ in its folder",
    "callbacks": "write a training script of your own with fusion.training.loading",
    "plugins": "write a training script of your own with fusion.training.loading",
    "max_epochs": "give epochs",
    "enable_checkpointing": "fit keeps best, last and the state to go on from",
    "enable_progress_bar": "give progress",
    "enable_model_summary": "`fusion report` shows the model",
    "num_sanity_val_steps": "a resumed run would draw other random numbers",
    "use_distributed_sampler": "fit shares the tiles itself",
}


def check_counts(**given: Any) -> None:
    """Refuses counts of ``fit`` that are none.

    Raises:
        ValueError: what is no whole number, or too small a one.
    """
    for name, value in given.items():
        if value is None and name in _OPTIONAL:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < _LEAST[name]:
            raise ValueError(f"training: {name} is {value!r}; a whole number of at least {_LEAST[name]} is wanted")


def check_finite(settings: Mapping[str, Any], where: str) -> None:
    """
    Raises:
        ValueError: one of the settings is NaN or infinite.
    """
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where}: {name} is {value}; give a finite number")


def check_training(training: Mapping[str, Any], fit: Callable[..., Any]) -> None:
    """Refuses settings that neither ``fit`` nor ``lightning.Trainer`` takes; it can be asked before there are data.

    Raises:
        ValueError: an unknown setting, or one of the trainer's that ``fit`` gives itself.
    """
    from lightning import Trainer

    owned = [name for name in training if name in _OWN]
    if owned:
        raise ValueError(f"training: {owned[0]} is not to be given: {_OWN[owned[0]]}")
    own = [n for n, p in inspect.signature(fit).parameters.items() if p.kind is p.KEYWORD_ONLY]
    known = {*own, *inspect.signature(Trainer.__init__).parameters} - {"self"}
    unknown = [name for name in training if name not in known]
    if unknown:
        raise ValueError(
            f"training: unknown setting {', '.join(unknown)}; it has {', '.join(own)}, and what lightning.Trainer "
            "takes (precision, devices, accelerator, gradient_clip_val, ...)"
        )
