"""Lightly's contrastive loss: ``from fusion.compat.lightly import NTXentLoss``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import patch_info_nce
from ..kernels.modules import has_values
from ..layers.constants import Constants

__all__ = ["MemoryBankModule", "NTXentLoss"]


class NTXentLoss(nn.Module):
    """Stand-in for ``lightly.loss.NTXentLoss`` without the 2B x 2B logits (SimCLR, arXiv 2002.05709, Eq. 1).

    Args:
        temperature: as there. One below 0 is taken, as there, and forms the logits.
        memory_bank_size: number of negatives that are remembered, or (number, D); 0 for none. With a bank the loss is
            MoCo's (arXiv 1911.05722): logits (B, 1 + number), negatives from the bank alone.
        gather_distributed: negatives from all ranks of torch.distributed; batches of all ranks go into the bank. The
            loss is the mean over the rank's own rows, the gradient that of the sum of the losses of all ranks, so
            that DistributedDataParallel's average is the gradient of the joined batch.

    Raises:
        ValueError: a temperature of 0, a negative size, ``gather_distributed`` without torch.distributed.
    """

    def __init__(
        self,
        temperature: float = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        self.memory_bank = MemoryBankModule(memory_bank_size, gather_distributed)
        if abs(temperature) < 1e-8:
            raise ValueError(f"Illegal temperature: abs({temperature}) < 1e-8")
        if gather_distributed and not dist.is_available():
            raise ValueError("NTXentLoss: gather_distributed=True needs a torch that has torch.distributed")
        self.temperature = temperature
        self.gather_distributed = gather_distributed

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Projections of two views of the same images, (B, D) each. ``out1`` goes into the bank if ``out0`` learns."""
        if out0.ndim != 2 or out0.shape != out1.shape:
            raise ValueError(f"NTXentLoss: both views must be (B, D), got {tuple(out0.shape)} and {tuple(out1.shape)}")
        if self.memory_bank.size[0] > 0:
            return self._with_bank(F.normalize(out0, dim=1), F.normalize(out1, dim=1), out0.requires_grad)
        shared = self.gather_distributed and _ranks() > 1
        if self.temperature < 0:
            if shared:
                raise NotImplementedError(
                    f"NTXentLoss: temperature={self.temperature} with gather_distributed is not supported"
                )
            return self._with_logits(out0, out1)
        views = torch.stack([out0, out1])[:, :, None]  # (2, B, 1, D)
        if not shared:
            return cast(Tensor, patch_info_nce(views, temperature=self.temperature, exclude="self"))
        options: dict[str, Any] = {"exclude": "self", "reduction": "none", "group": dist.group.WORLD}
        return cast(Tensor, patch_info_nce(views, temperature=self.temperature, **options)).mean()

    def _with_bank(self, query: Tensor, key: Tensor, update: bool) -> Tensor:
        key, negatives = self.memory_bank(key, update=update)  # negatives (D, K)
        positive = (query * key).sum(1, keepdim=True)
        logits = torch.cat([positive, query @ negatives.to(query)], 1) / self.temperature  # (B, 1+K)
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))

    def _with_logits(self, out0: Tensor, out1: Tensor) -> Tensor:
        z = F.normalize(torch.cat([out0, out1]), dim=1)
        logits = (z @ z.T / self.temperature).fill_diagonal_(-torch.inf)
        return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(out0)))


class MemoryBankModule(Constants):
    """The last vectors seen, as ``lightly.models.modules.MemoryBankModule`` keeps them: the oldest are overwritten.

    A batch that reaches the end of the bank is cut there and the next one begins at its start, as there.

    Args:
        size: number of vectors, or (number, D); 0 for none. Without D it is that of the first batch, with a warning.
        gather_distributed: vectors of all ranks go into it.
        feature_dim_first: whether ``forward`` returns (D, number) or (number, D).
    """

    bank: Tensor  # (K, D), or (K,) before the first batch
    bank_ptr: Tensor  # (1,)

    def __init__(
        self, size: int | Sequence[int] = 65536, gather_distributed: bool = False, feature_dim_first: bool = True
    ) -> None:
        super().__init__()
        self.size = (size,) if isinstance(size, int) else tuple(size)
        if any(extent < 0 for extent in self.size):
            raise ValueError(f"Illegal memory bank size {size}, all entries must be non-negative.")
        self.gather_distributed, self.feature_dim_first = gather_distributed, feature_dim_first
        known = len(self.size) > 1  # else the first batch says how long vectors are
        self.register_constant("bank", lambda: _directions(self.size) if known else torch.empty(self.size))
        self.register_constant("bank_ptr", lambda: torch.zeros(1, dtype=torch.long))
        if isinstance(size, int) and size > 0:
            warnings.warn(  # in the original's words, which scripts filter
                f"Memory bank size 'size={size}' does not specify feature dimension. It is recommended to set the "
                "feature dimension with 'size=(n, dim)' when creating the memory bank. Distributed training might fail "
                "if the feature dimension is not set.",
                UserWarning,
                stacklevel=3,
            )

    def forward(
        self, output: Tensor, labels: Tensor | None = None, update: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """``output`` (B, D) -> itself and a copy of the bank before ``update`` puts it in; None for size 0."""
        if self.size[0] == 0:
            return output, None
        if self.bank.ndim == 1:
            self._start((*self.size, *output.shape[1:]))
        if output.shape[1:] != self.bank.shape[1:]:
            raise ValueError(f"memory bank of vectors {tuple(self.bank.shape[1:])}, got {tuple(output.shape[1:])}")
        bank = self.bank.clone().detach()
        if update:
            self._put(output.detach())
        return output, bank.transpose(0, -1) if self.feature_dim_first else bank

    @torch.no_grad()
    def _start(self, size: tuple[int, ...]) -> None:
        self.bank = _directions(size).type_as(self.bank)
        self.bank_ptr.zero_()

    @torch.no_grad()
    def _put(self, batch: Tensor) -> None:
        if self.gather_distributed and _ranks() > 1:
            parts = [torch.empty_like(batch) for _ in range(_ranks())]
            dist.all_gather(parts, batch.contiguous())
            batch = torch.cat(parts)
        if not has_values(self.bank_ptr):
            return
        start = int(self.bank_ptr)
        part = batch[: self.size[0] - start]
        self.bank[start : start + len(part)] = part.to(self.bank)
        end = start + len(batch)
        self.bank_ptr.fill_(0 if end >= self.size[0] else end)


def _directions(size: tuple[int, ...]) -> Tensor:
    """Random vectors of unit length."""
    return F.normalize(torch.randn(size), dim=-1)


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
