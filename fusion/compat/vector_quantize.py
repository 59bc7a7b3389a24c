"""``VectorQuantize`` of vector-quantize-pytorch; see :mod:`fusion.compat.vector_quantize_pytorch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..kernels.memory import transforming
from ..kernels.quantize.clustering import ranks
from ..layers.autocast import without_autocast
from .codebook import Weight
from .vector_base import QuantizerBase
from .vector_layout import join_heads, mask_of, split_heads
from .vector_losses import LossBreakdown, cross_entropy, diversity, orthogonality, towards
from .vector_search import Found

__all__ = ["VectorQuantize"]


class VectorQuantize(QuantizerBase):
    """Vector quantization with the interface and the numbers of vector-quantize-pytorch.

    Distances to all codes are formed only where an argument asks for them: ``stochastic_sample_codes``,
    ``straight_through``, ``commitment_use_cross_entropy_loss``, ``codebook_diversity_loss_weight``; in ``forward``
    ``topk``, ``indices`` and ``codebook_transform_fn``. Otherwise memory is O(N + K).

    Args:
        dim, codebook_size, codebook_dim, heads, ... route_gradients_to_input: as there. ``affine_param`` and what
            belongs to it is not supported. With ``sync_codebook`` None or True the ranks of torch.distributed share
            the codebook, once it is initialised.

    Raises:
        NotImplementedError: an argument that is not supported, by its name.
        ValueError: arguments that exclude each other.
    """

    def forward(
        self,
        x: Tensor,
        indices: Tensor | None = None,
        mask: Tensor | None = None,
        lens: Tensor | None = None,
        topk: int | None = None,
        sample_codebook_temp: float | None = None,
        freeze_codebook: bool | None = None,
        return_loss_breakdown: bool = False,
        codebook_transform_fn: Callable[..., Tensor] | None = None,
        ema_update_weight: Weight = None,
        accum_ema_update: bool = False,
        ema_update: bool | None = None,
    ) -> tuple[Any, ...]:
        """x -> quantized in x's layout, codes, loss (); with ``return_loss_breakdown`` also a :class:`LossBreakdown`.

        Args:
            x: (B, N, dim), (B, dim), with ``channel_last=False`` (B, dim, N), images (B, dim, H, W) or volumes
                (B, dim, depth, H, W). A vector that holds a NaN comes back NaN with code -1, makes the loss NaN, and
                leaves the codebook as it is.
            indices: codes; the call then returns (quantized, cross-entropy at them), quantized before ``project_out``:
                (B, N, D), (heads, B, N, D), or (1, B heads, N, D) where heads share a codebook.
            mask, lens: (B, N) bool, False for padding; or lengths (B,). Padding comes back zero (or as it was, with
                ``return_zeros_for_masked_padding=False``) with code -1. Without projection the commitment loss then
                compares with x itself, also for cosines, as there.
            topk: the k nearest codes; quantized and codes get a dimension of k, the loss one value a code, and the
                codebook does not learn; :meth:`update_indices` does that with the codes finally chosen.
            codebook_transform_fn: gives each vector codes of its own, (h, K, D) -> (h, B, N, K, D).
            ema_update_weight, accum_ema_update: as in :meth:`Codebook.update_indices`.
            sample_codebook_temp, freeze_codebook, ema_update: override the constructor's.

        Returns:
            Codes are int64 (B, N), in the shape of the places of x, with a last dimension of heads if there are
            several. The loss has a value in training, with ``topk`` always.

        Raises:
            ValueError, TypeError: shapes, or a mask, that do not fit; ``topk`` with what it excludes.
        """
        topk = None if topk is None else self._check_topk(topk)
        frozen = self.freeze_codebook if freeze_codebook is None else freeze_codebook
        layout = self._layout(x)
        original = layout.vectors(x)  # (B, N, dim)
        mask = mask_of(mask, lens, layout, *original.shape[:2])
        vectors = self._project(original)  # (h, B', N, D)
        seen = None if mask is None else self._mask_of_heads(mask, vectors)
        by_score = indices is not None or topk is not None or codebook_transform_fn is not None or self._samples
        by_score |= self.training and self.has_commitment_loss and self.commitment_use_cross_entropy_loss
        by_score |= self.training and self.codebook_diversity_loss_weight > 0

        def search() -> Found:
            with without_autocast(x.device.type):
                found = self._codebook(
                    vectors.float(),
                    seen,
                    dense=by_score,
                    topk=topk,
                    temperature=sample_codebook_temp,
                    transform=codebook_transform_fn,
                )
            return found[0].to(vectors.dtype), *found[1:]

        quantized, codes, score = search()
        learns = self.training and not frozen
        if learns and topk is None:
            self._codebook.update_indices(vectors, codes, seen, ema_update_weight, accum_ema_update, ema_update)
        zero = vectors.new_zeros(())
        in_place = zero
        if learns and self.in_place_codebook_optimizer is not None:
            in_place = self._optimize_in_place(quantized, vectors, seen)
            quantized, codes, score = search()

        target = vectors if topk is None else vectors[..., None, :].expand_as(quantized)
        chosen = quantized if self.learnable_codebook and not frozen else quantized.detach()
        if self.training and x.requires_grad and self.route_gradients_to_input:
            quantized = towards(target, quantized, self._gradient, self.directional_reparam_variance)
        if self.training and self.sync_update_v > 0:
            quantized = quantized + self.sync_update_v * (quantized - quantized.detach())
        if indices is not None and score is not None:
            quantized = quantized[0] if self.heads == 1 else quantized
            return quantized.to(x.dtype), cross_entropy(score, layout.flat(indices), self.heads)

        if self.training and topk is None and mask is not None and self.heads == 1 and not self.has_projections:
            target = original[None].to(vectors.dtype)
        codes = join_heads(codes, self.heads)  # (B, N, [k or heads])
        if mask is not None:
            codes = codes.masked_fill(~mask.view(*mask.shape, *(1,) * (codes.ndim - 2)), -1)
        loss, (commitment, spread, angle) = self._losses(chosen, target, seen, codes, score, topk)
        quantized = join_heads(quantized, self.heads)
        quantized = quantized.flatten(-2) if self.heads > 1 else quantized
        quantized = self.project_out(quantized.to(x.dtype))  # (B, N, [k,] dim)
        if mask is not None:
            kept = mask.view(*mask.shape, *(1,) * (quantized.ndim - 2))
            padding = torch.zeros_like(original) if self.return_zeros_for_masked_padding else original
            padding = padding.view(*padding.shape[:2], *(1,) * (quantized.ndim - 3), padding.shape[-1])
            quantized = torch.where(kept, quantized, padding)
        result = layout.restore(quantized), layout.codes(codes), layout.codes(loss) if loss.ndim > 1 else loss
        return (*result, LossBreakdown(commitment, spread, angle, in_place)) if return_loss_breakdown else result

    def update_indices(self, x: Tensor, indices: Tensor, mask: Tensor | None = None) -> None:
        """One step of the codebook for vectors x and the codes chosen for them, both as in :meth:`forward`."""
        layout = self._layout(x)
        original = layout.vectors(x)
        vectors = self._project(original)
        mask = mask_of(mask, None, layout, *original.shape[:2])
        codes = split_heads(layout.flat(indices), self.heads, self.separate_codebook_per_head)
        codes = codes if self.heads == 1 else codes[..., 0]
        seen = None if mask is None else self._mask_of_heads(mask, vectors)
        self._codebook.update_indices(vectors, codes, seen)

    update_ema_indices = update_indices

    def expire_codes_(self, x: Tensor) -> None:
        """Replaces the codes that too few vectors choose by vectors of x (in training)."""
        self._codebook.expire_codes_(self._project(self._layout(x).vectors(x)))

    def update_in_place_optimizer(self) -> None:
        """A step of ``in_place_codebook_optimizer``, with the gradient averaged over ranks."""
        optimizer = self.in_place_codebook_optimizer
        if optimizer is None:
            return
        world = 1 if self._codebook.sync is False else ranks(None)[1]
        for parameter in self._codebook.parameters():
            if world > 1 and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world
        optimizer.step()
        optimizer.zero_grad()

    def _check_topk(self, topk: int) -> int:
        excluded = {
            f"heads={self.heads}": self.heads > 1,
            "commitment_use_cross_entropy_loss": self.training and self.commitment_use_cross_entropy_loss,
            "in_place_codebook_optimizer": self.training and self.in_place_codebook_optimizer is not None,
        }
        for name in (name for name, there in excluded.items() if there):
            raise ValueError(f"VectorQuantize: topk={topk} excludes {name}")
        if topk < 1:
            raise ValueError(f"VectorQuantize: topk must be at least 1, got {topk}")
        return min(int(topk), self.codebook_size)

    def _optimize_in_place(self, quantized: Tensor, vectors: Tensor, seen: Tensor | None) -> Tensor:
        loss = _error(quantized, vectors.detach(), seen)
        loss.backward()
        if not self.manual_in_place_optimizer_update:
            self.update_in_place_optimizer()
        return loss

    def _losses(
        self,
        chosen: Tensor,
        target: Tensor,
        seen: Tensor | None,
        codes: Tensor,
        score: Tensor | None,
        topk: int | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The weighted loss, () or (B, N, k), and its terms: commitment, diversity, orthogonality."""
        zero = target.new_zeros(())
        loss, commitment, spread, angle = zero, zero, zero, zero
        if self.training:
            loss = zero.clone() if transforming() else zero.clone().requires_grad_()
        if self.training and score is not None and self.codebook_diversity_loss_weight > 0:
            spread = diversity(score, self.codebook_diversity_temperature)
            loss = loss + self.codebook_diversity_loss_weight * spread
        if topk is not None and (self.has_commitment_loss or not self.training):
            commitment = F.mse_loss(chosen, target, reduction="none").mean(-1)  # (1, B, N, k)
            commitment = commitment if seen is None else torch.where(seen[..., None], commitment, 0)
            commitment = commitment[0]
        elif (
            self.training and self.has_commitment_loss and self.commitment_use_cross_entropy_loss and score is not None
        ):
            commitment = cross_entropy(score, codes, self.heads)
        elif self.training and self.has_commitment_loss:
            commitment = _error(chosen, target, seen)
        loss = loss + (self.commitment_weight if self.has_commitment_loss else 1) * commitment
        if self.training and self.orthogonal_reg_weight > 0:
            angle = orthogonality(self._regularized(codes))
            loss = loss + self.orthogonal_reg_weight * angle
        return loss, (commitment, spread, angle)

    def _regularized(self, codes: Tensor) -> Tensor:
        """The codes (h, k, D) that the orthogonal term holds apart."""
        embed = self._codebook.embed
        if self.orthogonal_reg_active_codes_only:
            if len(embed) > 1:
                raise ValueError(
                    "VectorQuantize: orthogonal_reg_active_codes_only excludes separate_codebook_per_head=True"
                )
            embed = embed[:, codes[codes >= 0].unique()]
        limit = self.orthogonal_reg_max_codes
        if limit is not None and embed.shape[1] > limit:
            embed = embed[:, torch.randperm(embed.shape[1], device=embed.device)[:limit]]
        return embed


def _error(quantized: Tensor, target: Tensor, seen: Tensor | None) -> Tensor:
    """Mean squared error of (h, B, N, D) over what is not padding."""
    return F.mse_loss(quantized, target) if seen is None else F.mse_loss(quantized[seen], target[seen])
