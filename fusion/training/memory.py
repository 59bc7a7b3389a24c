"""How much memory training will take, measured on a few tiles before the first step."""

from __future__ import annotations

import copy
import logging
import warnings
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from fusion.data import TileBatch, TileDataset, collate
from fusion.kernels import machine

from .files import readable_size
from .live import OutOfRoom, peak_bytes

if TYPE_CHECKING:
    from lightning import LightningModule

__all__ = ["MemoryEstimate", "available_memory", "estimate_memory", "unlogged"]


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device; activations grow with the batch, the rest does not.

    ``state`` is weights, gradients and two Adam moments, and averaged weights if there are any. ``fixed`` and
    ``per_tile`` are the tiles themselves, what the forward pass keeps for the backward pass, and what that needs on top
    at its peak.
    """

    state: int
    fixed: int
    per_tile: int
    batch_size: int
    available: int

    @property
    def total(self) -> int:
        return self.state + self.fixed + self.per_tile * self.batch_size

    @property
    def largest_batch(self) -> int:
        """Tiles that fit into nine tenths of what is available; 0 if not even one does."""
        return max(0, int((0.9 * self.available - self.state - self.fixed) // max(1, self.per_tile)))

    def __str__(self) -> str:
        return (
            f"{readable_size(self.total)} of {readable_size(self.available)} for batches of {self.batch_size} "
            f"({readable_size(self.per_tile)} a tile, {readable_size(self.state)} for weights, gradients and optimizer)"
        )


def estimate_memory(
    module: LightningModule,
    dataset: TileDataset,
    batch_size: int,
    *,
    precision: str = "32-true",
    device: torch.device | str = "cpu",
    limit: float | None = None,
) -> MemoryEstimate:
    """Measures two small training steps of a copy of ``module`` on the CPU, and extends the line to ``batch_size``.

    The slope between two and four tiles (if the data set has them) separates what grows with the batch from what
    does not; both include the peak of the backward pass. Large tiles are measured one and two at a time, or one alone,
    and a step that outgrows the memory is left off. Nothing of ``module`` changes: neither weights, normalisation
    statistics nor the global random state. Dropout masks are a byte an element on a GPU and more on a CPU, so a GPU
    needs somewhat less.

    Args:
        device: where training will run; asked only for its free memory.
        limit: GiB of it that may be used, if less than what is free.

    Returns:
        The estimate. Where not even one tile could be measured it is what that tile had taken when it was left off,
        more than is available.

    Raises:
        ValueError: the data set is empty (as the data set itself says); one tile is too large to be measured in the
            memory of this machine, and training would run on another device.
    """
    available = available_memory(device)
    if limit is not None:
        available = min(available, int(limit * 2**30))
    on_cpu = torch.device(device).type == "cpu"
    room = available if on_cpu else available_memory("cpu")
    with torch.random.fork_rng(devices=[]), unlogged():
        probe = copy.deepcopy(module).cpu().train()
        probe.trainer = None
        peaks = _peaks(probe, dataset, precision, room)
    if 0 in peaks and not on_cpu:
        raise ValueError(
            f"estimate_memory: a step of one tile takes more than the {readable_size(room)} that are free on the CPU, "
            "where it is measured; memory='ignore' trains without an estimate"
        )
    (few, low), (many, high) = min(peaks.items()), max(peaks.items())
    per_tile = max(1, (high - low) // (many - few) if many > few else low // max(few, 1))
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    fixed = max(0, low - per_tile * few - trained) if few else 0  # gradients of weights are in `state`
    copies = 3 if getattr(module, "average", None) is None else 4  # gradients, two moments, averaged weights
    return MemoryEstimate(weights + copies * trained, fixed, per_tile, batch_size, available)


def available_memory(device: torch.device | str = "cpu") -> int:
    """Free bytes: of the GPU, or of the machine within the limit of its container (cgroup)."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return machine.available_memory()


def _peaks(module: LightningModule, dataset: TileDataset, precision: str, room: int) -> dict[int, int]:
    """Peak bytes of a step of two tiles and of another number of them, as far as ``room`` goes.

    Where one tile already exceeds it, what that had taken when it was left off, as of 0 tiles.
    """
    names = [m.name for m in dataset.modalities]
    tiles = [dataset[i] for i in range(min(4, len(dataset)))]

    def measure(count: int) -> int:
        return _step_bytes(module, collate(tiles[:count], names), precision, room)

    peaks: dict[int, int] = {}
    if len(tiles) > 1:
        with suppress(OutOfRoom):
            peaks[2] = measure(2)
    if len(tiles) < 3 and peaks:
        return peaks
    if peaks and peaks[2] * len(tiles) < 2 * room:
        with suppress(OutOfRoom):
            return peaks | {len(tiles): measure(len(tiles))}
    try:
        return peaks | {1: measure(1)}
    except OutOfRoom as reached:
        return {0: reached.bytes}


def _step_bytes(module: LightningModule, batch: TileBatch, precision: str, room: int) -> int:
    """Peak bytes of one training step beyond weights: the batch, activations, gradients."""
    autocast = torch.autocast("cpu", torch.bfloat16) if "mixed" in precision else nullcontext()

    def step() -> None:
        with autocast:
            output = module.training_step(batch, 0)
        loss = cast(Tensor, output["loss"] if isinstance(output, dict) else output)
        del output
        if loss.requires_grad:  # a loss of nothing is refused in words when training begins
            loss.backward()

    try:
        return peak_bytes(step, batch, room, [*module.parameters(), *module.buffers()])
    finally:
        for parameter in module.parameters():
            parameter.grad = None


class unlogged:
    """``self.log`` outside a trainer warns; here that is expected."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.disable(logging.NOTSET)
        self._warnings.__exit__(kind, error, trace)
