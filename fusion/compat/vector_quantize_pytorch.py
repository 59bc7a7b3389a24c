"""Stand-ins for ``VectorQuantize`` and ``FSQ`` of vector-quantize-pytorch (1.32), on this package's kernels.

Same constructor arguments, return values, attribute and state-dict names, so that an import can be exchanged and a
checkpoint loaded; without the N x K distances and one-hot tensors. Arguments of that library that are not listed in
the docstrings raise ``NotImplementedError`` with their name unless they have their default value. What differs:
restarts and k-means draw other random vectors, and masked or NaN vectors are left out of everything.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.quantize import vector_quantize
from ..kernels.quantize.clustering import draw_rows, joint_statistics, kmeans

__all__ = ["FSQ", "VectorQuantize"]

# Their other arguments and the only value of each that is supported here: the default.
_VECTOR_DEFAULTS = {
    "heads": 1,
    "separate_codebook_per_head": False,
    "sync_kmeans": True,
    "layernorm_after_project_in": False,
    "accept_3d_fmap": False,
    "commitment_use_cross_entropy_loss": False,
    "orthogonal_reg_weight": 0.0,
    "orthogonal_reg_active_codes_only": False,
    "orthogonal_reg_max_codes": None,
    "codebook_diversity_loss_weight": 0.0,
    "codebook_diversity_temperature": 100.0,
    "stochastic_sample_codes": False,
    "sample_codebook_temp": 1.0,
    "straight_through": False,
    "directional_reparam": False,
    "directional_reparam_variance": 0.005,
    "sync_codebook": None,
    "sync_affine_param": False,
    "vq_bridge": None,
    "manual_ema_update": False,
    "in_place_codebook_optimizer": None,
    "manual_in_place_optimizer_update": False,
    "affine_param": False,
    "affine_param_batch_decay": 0.99,
    "affine_param_codebook_decay": 0.9,
    "sync_update_v": 0.0,
    "return_zeros_for_masked_padding": True,
    "route_gradients_to_input": True,
}
_SCALAR_DEFAULTS = {
    "scale": None,
    "allowed_dtypes": (torch.float32, torch.float64),
    "force_quantization_f32": True,
    "noise_dropout": 0.0,
    "bound_hard_clamp": False,
    "orthogonal_rotation": False,
}


def _refuse(owner: type, given: dict[str, Any], defaults: dict[str, Any]) -> None:
    for name, value in given.items():
        if name not in defaults:
            raise TypeError(f"{owner.__name__}: vector-quantize-pytorch has no argument {name!r}")
        if value != defaults[name]:
            supported = ", ".join(n for n in inspect.signature(owner).parameters if n != "others")
            raise NotImplementedError(
                f"{owner.__name__}: {name}={value!r} is not supported here, only {name}={defaults[name]!r}; "
                f"supported arguments: {supported}"
            )


class _Codebook(nn.Module):
    """Buffers by their names."""

    initted: Tensor  # ()
    cluster_size: Tensor  # (1, K)
    embed_avg: Tensor  # (1, K, D)
    embed: Tensor  # (1, K, D)

    def __init__(self, dim: int, size: int, *, learnable: bool, started: bool, cosine: bool) -> None:
        super().__init__()
        embed = torch.empty(1, size, dim)
        nn.init.kaiming_uniform_(embed)
        embed = nn.functional.normalize(embed, dim=-1) if cosine else embed
        self.register_buffer("initted", torch.tensor(started))
        self.register_buffer("cluster_size", torch.ones(1, size))
        self.register_buffer("embed_avg", embed.clone())
        if learnable:
            self.embed = nn.Parameter(embed)
        else:
            self.register_buffer("embed", embed)


class VectorQuantize(nn.Module):
    """Vector quantization with the interface of vector-quantize-pytorch.

    Args:
        dim, codebook_size, codebook_dim, decay, eps, freeze_codebook, kmeans_init, kmeans_iters, use_cosine_sim,
        threshold_ema_dead_code, channel_last, accept_image_fmap, commitment_weight, rotation_trick, ema_update,
        learnable_codebook: as there (``rotation_trick`` is on by default for more than one dimension).
    """

    updates: Tensor  # ()

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        *,
        decay: float = 0.8,
        eps: float = 1e-5,
        freeze_codebook: bool = False,
        kmeans_init: bool = False,
        kmeans_iters: int = 10,
        use_cosine_sim: bool = False,
        threshold_ema_dead_code: float = 0,
        channel_last: bool = True,
        accept_image_fmap: bool = False,
        commitment_weight: float = 1.0,
        rotation_trick: bool | None = None,
        ema_update: bool | None = None,
        learnable_codebook: bool | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        _refuse(VectorQuantize, others, _VECTOR_DEFAULTS)
        learnable = bool(learnable_codebook) if learnable_codebook is not None else ema_update is False
        ema_update = not learnable if ema_update is None else ema_update
        if learnable and (ema_update or use_cosine_sim):
            raise ValueError("VectorQuantize: a learnable codebook excludes ema_update=True and use_cosine_sim=True")
        inner = dim if codebook_dim is None else codebook_dim
        self.dim, self.codebook_size, self.heads = dim, codebook_size, 1
        self.decay, self.eps, self.freeze_codebook, self.kmeans_iters = decay, eps, freeze_codebook, kmeans_iters
        self.use_cosine_sim, self.threshold_ema_dead_code = use_cosine_sim, threshold_ema_dead_code
        self.channel_last, self.accept_image_fmap = channel_last, accept_image_fmap
        self.commitment_weight, self.ema_update, self.learnable_codebook = commitment_weight, ema_update, learnable
        self.rotation_trick = inner > 1 if rotation_trick is None else rotation_trick
        self.project_in = nn.Linear(dim, inner) if inner != dim else nn.Identity()
        self.project_out = nn.Linear(inner, dim) if inner != dim else nn.Identity()
        self._codebook = _Codebook(
            inner, codebook_size, learnable=learnable, started=not kmeans_init, cosine=use_cosine_sim
        )
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def codebook(self) -> Tensor:
        """The codes, (K, D)."""
        return self._codebook.embed[0]

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, freeze_codebook: bool | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D), (B, D), with ``channel_last=False`` (B, D, N), or images (B, D, H, W) -> quantized, codes, loss.

        ``mask`` (B, N) bool: False is padding; its vectors come back zero and its codes -1.
        """
        if self.accept_image_fmap:
            quantized, codes, loss = self._quantize(x.flatten(2).mT, mask, freeze_codebook)
            return quantized.mT.unflatten(2, x.shape[2:]), codes.unflatten(1, x.shape[2:]), loss
        if not self.channel_last and x.ndim > 2:
            quantized, codes, loss = self._quantize(x.mT, mask, freeze_codebook)
            return quantized.mT, codes, loss
        return self._quantize(x, mask, freeze_codebook)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """codes (...) -> (..., D) of the codebook, before ``project_out``."""
        return self.codebook[indices]

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """codes (...) -> (..., dim)."""
        return self.project_out(self.get_codes_from_indices(indices))

    def _quantize(self, x: Tensor, mask: Tensor | None, frozen: bool | None) -> tuple[Tensor, Tensor, Tensor]:
        frozen = self.freeze_codebook if frozen is None else frozen
        inner = self.project_in(x).float()
        inner = nn.functional.normalize(inner, dim=-1) if self.use_cosine_sim else inner
        if mask is not None:
            inner = torch.where(mask[..., None], inner, math.nan)
        if self.training and not bool(self._codebook.initted):
            self._start(inner.detach())
        gradient = "rotation" if self.rotation_trick else "straight-through"
        metric = "cosine" if self.use_cosine_sim else "l2"
        quantized, codes, commitment = vector_quantize(inner, self.codebook, metric=metric, gradient=gradient)
        loss = inner.new_zeros(())
        if self.training:
            if self.learnable_codebook and not frozen:
                commitment = self._mutual_error(inner, codes)
            loss = loss + self.commitment_weight * commitment
            if self.ema_update and not frozen:
                self._update(inner.detach().flatten(0, -2), codes.flatten())
        quantized = self.project_out(quantized.to(x.dtype))
        if mask is not None:
            quantized = torch.where(mask[..., None], quantized, 0)
        return quantized, codes, loss

    def _mutual_error(self, x: Tensor, codes: Tensor) -> Tensor:
        """Mean of ``(x - c)^2`` with gradients to both."""
        seen = x.isfinite().all(-1)
        return nn.functional.mse_loss(nn.functional.embedding(codes[seen], self.codebook), x[seen])

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        metric = "cosine" if self.use_cosine_sim else "l2"
        codebook = kmeans(x.flatten(0, -2), self.codebook_size, metric=metric, iterations=self.kmeans_iters)
        self._codebook.embed.copy_(codebook)
        self._codebook.embed_avg.copy_(codebook)
        self._codebook.initted.fill_(True)

    @torch.no_grad()
    def _update(self, x: Tensor, codes: Tensor) -> None:
        state = self._codebook
        counts, sums = joint_statistics(x, codes, self.codebook_size, None)
        state.cluster_size.lerp_(counts[None], 1 - self.decay)
        state.embed_avg.lerp_(sums[None], 1 - self.decay)
        total = state.cluster_size.sum()
        smoothed = (state.cluster_size + self.eps) / (total + self.codebook_size * self.eps) * total
        embed = state.embed_avg / smoothed[..., None]
        state.embed.copy_(nn.functional.normalize(embed, dim=-1) if self.use_cosine_sim else embed)
        self.updates += 1
        if self.threshold_ema_dead_code > 0:
            drawn, usable = draw_rows(x, self.codebook_size, 0, self.updates, None)
            dead = (state.cluster_size[0] < self.threshold_ema_dead_code) & usable
            state.embed[0].copy_(torch.where(dead[:, None], drawn, state.embed[0]))
            reset = drawn * self.threshold_ema_dead_code
            state.embed_avg[0].copy_(torch.where(dead[:, None], reset, state.embed_avg[0]))
            state.cluster_size[0].masked_fill_(dead, self.threshold_ema_dead_code)


class FSQ(nn.Module):
    """Finite scalar quantization with the interface and the numbers of vector-quantize-pytorch.

    It squashes with ``1 + 1e-3`` and ``atanh`` where the paper has ``1 - 1e-3`` and ``tan``, so about 1 % of its
    codes differ from :func:`fusion.kernels.finite_scalar_quantize`; models trained with it need its numbers.

    Args:
        levels, dim, num_codebooks, keep_num_codebooks_dim, channel_first, projection_has_bias, return_indices,
        preserve_symmetry: as there. No table of all codes is built.
    """

    _levels: Tensor  # (D,) int32

    def __init__(
        self,
        levels: Sequence[int],
        dim: int | None = None,
        num_codebooks: int = 1,
        keep_num_codebooks_dim: bool | None = None,
        *,
        channel_first: bool = False,
        projection_has_bias: bool = True,
        return_indices: bool = True,
        preserve_symmetry: bool = False,
        **others: Any,
    ) -> None:
        super().__init__()
        _refuse(FSQ, others, _SCALAR_DEFAULTS)
        levels = list(levels)
        if min(levels, default=0) < 2 or (2 in levels and not preserve_symmetry):
            raise ValueError(f"FSQ: levels must be at least 3, or 2 with preserve_symmetry=True, got {levels}")
        if keep_num_codebooks_dim is False and num_codebooks > 1:
            raise ValueError("FSQ: several codebooks need keep_num_codebooks_dim=True")
        width = len(levels) * num_codebooks
        self.levels, self.codebook_dim, self.num_codebooks = levels, len(levels), num_codebooks
        self.codebook_size, self.dim = math.prod(levels), width if dim is None else dim
        self.keep_num_codebooks_dim = num_codebooks > 1 if keep_num_codebooks_dim is None else keep_num_codebooks_dim
        self.channel_first, self.return_indices, self.preserve_symmetry = (
            channel_first,
            return_indices,
            preserve_symmetry,
        )
        projects = self.dim != width
        self.project_in = nn.Linear(self.dim, width, bias=projection_has_bias) if projects else nn.Identity()
        self.project_out = nn.Linear(width, self.dim, bias=projection_has_bias) if projects else nn.Identity()
        self.register_buffer("_levels", torch.tensor(levels, dtype=torch.int32), persistent=False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N, D), or (B, D, ...) for images and ``channel_first`` -> quantized, codes (int32 while they fit)."""
        moved = z.ndim >= 4 or self.channel_first
        z = z.movedim(1, -1) if moved else z
        if z.shape[-1] != self.dim:
            raise ValueError(f"FSQ: expected vectors of dimension {self.dim}, got {tuple(z.shape)}")
        values = self.project_in(z).unflatten(-1, (self.num_codebooks, self.codebook_dim))
        wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
        quantized = self._quantize(wide)
        codes = self.codes_to_indices(quantized.detach()) if self.return_indices else None
        out = self.project_out(quantized.to(values.dtype).flatten(-2))
        if codes is not None and not self.keep_num_codebooks_dim:
            codes = codes[..., 0]
        return out.movedim(-1, 1) if moved else out, codes

    def codes_to_indices(self, codes: Tensor) -> Tensor:
        """Quantized values (..., D) -> codes (...)."""
        half = self._levels // 2
        levels = (codes + 1) * (self._levels - 1) / 2 if self.preserve_symmetry else codes * half + half
        place = [math.prod(self.levels[:j]) for j in range(self.codebook_dim)]
        index = (levels.round().long() * torch.tensor(place, device=codes.device)).sum(-1)
        return index.int() if self.codebook_size <= 2**31 else index

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes -> (..., dim), channels in front again where ``forward`` took them there."""
        place = [math.prod(self.levels[:j]) for j in range(self.codebook_dim)]
        digits = indices.long()[..., None] // torch.tensor(place, device=indices.device) % self._levels
        half = self._levels // 2
        values = digits * 2 / (self._levels - 1) - 1 if self.preserve_symmetry else (digits - half) / half
        moved = self.channel_first or indices.ndim >= 3 + self.keep_num_codebooks_dim
        out = self.project_out(values.flatten(-2) if self.keep_num_codebooks_dim else values)
        return out.movedim(-1, 1) if moved else out

    def _quantize(self, z: Tensor) -> Tensor:
        size = self._levels
        if self.preserve_symmetry:
            bracket = (size - 1) * (z.tanh() + 1) / 2 + 0.5
            return 2 / (size - 1) * (bracket + (bracket.floor() - bracket).detach()) - 1
        half = (size - 1) * (1 + 1e-3) / 2
        offset = torch.where(size % 2 == 0, 0.5, 0.0)
        bounded = (z + (offset / half).atanh()).tanh() * half - offset
        return (bounded + (bounded.round() - bounded).detach()) / (size // 2)
