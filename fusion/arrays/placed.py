"""A model and where it runs: in this process, or in whichever process it is sent to."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from ..embed.device import choose_device
from ..embed.precision import Chosen, Precision, decided

__all__ = ["Placed"]


@dataclass
class Placed:
    """A model on its device. Sent to another process, weights travel by the processor's memory, and ``"auto"`` is
    decided anew there.

    Attributes:
        encoder: of a registered system.
        head: the fine-tuned module, probe or ensemble around it; None for a bare encoder.
        asked: ``"auto"``, or the device.
        precision: see :func:`fusion.arrays.load`.
        compiled: by ``torch.compile``, when the first tiles come.
        on_cpu: what ``"auto"`` is on processors that calculate in bfloat16, as a trial has it.
    """

    encoder: Any
    head: Any
    asked: str
    precision: Precision = "auto"
    compiled: bool = False
    on_cpu: Chosen = "float32"

    def __post_init__(self) -> None:
        self.device = choose_device(self.asked)
        decided(self.precision, self.device)  # or an error
        for module in (self.encoder, self.head):
            if module is not None:
                module.to(self.device).eval()

    @property
    def chosen(self) -> Chosen:
        """The precision on this process's device."""
        return decided(self.precision, self.device) or self.on_cpu

    def __getstate__(self) -> dict[str, Any]:
        encoder, head = self.encoder, self.head
        if self.device.type != "cpu":
            encoder, head = copy.deepcopy((encoder, head))  # together, for the head holds the encoder
            for module in (encoder, head):
                if module is not None:
                    module.cpu()
        return {
            "encoder": encoder,
            "head": head,
            "asked": self.asked,
            "precision": self.precision,
            "compiled": self.compiled,
            "on_cpu": self.on_cpu,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
