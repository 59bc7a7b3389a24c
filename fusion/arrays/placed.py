"""A model and where it runs: in this process, or in whichever process it is sent to."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Placed", "choose_device"]


@dataclass
class Placed:
    """A model on its device. Sent to another process, weights travel by the processor's memory, and ``"auto"`` is
    decided anew there.

    Attributes:
        encoder: of a registered system.
        head: the fine-tuned module, probe or ensemble around it; None for a bare encoder.
        asked: ``"auto"``, or the device.
    """

    encoder: Any
    head: Any
    asked: str

    def __post_init__(self) -> None:
        self.device = choose_device(self.asked)
        for module in (self.encoder, self.head):
            if module is not None:
                module.to(self.device).eval()

    def __getstate__(self) -> dict[str, Any]:
        encoder, head = self.encoder, self.head
        if self.device.type != "cpu":
            encoder, head = copy.deepcopy((encoder, head))  # together, for the head holds the encoder
            for module in (encoder, head):
                if module is not None:
                    module.cpu()
        return {"encoder": encoder, "head": head, "asked": self.asked}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def choose_device(asked: str) -> torch.device:
    """``"auto"``: a GPU if there is one, else the CPU. Of several GPUs, workers of Dask that see all of them take one
    each, by their numbers."""
    if asked != "auto":
        return torch.device(asked)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", _worker() % torch.cuda.device_count())


def _worker() -> int:
    """The number of this worker of Dask; 0 where this process is none, or has a name that is no number."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return 0
    try:
        return int(distributed.get_worker().name)
    except (ValueError, TypeError):  # no worker, or one of another name
        return 0
