"""``FSQ`` of vector-quantize-pytorch; see :mod:`fusion.compat.vector_quantize_pytorch`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..layers.autocast import without_autocast
from ..layers.constants import Constants

__all__ = ["FSQ"]


class FSQ(Constants):
    """Finite scalar quantization with the interface and the numbers of vector-quantize-pytorch.

    It squashes with ``1 + 1e-3`` and ``atanh`` where the paper has ``1 - 1e-3`` and ``tan``, so about 1 % of its
    codes differ from :func:`fusion.kernels.finite_scalar_quantize`; models trained with it need its numbers.

    Args:
        levels, dim, num_codebooks, ... orthogonal_rotation: as there (``scale`` has no effect there either). The
            table of all codes, ``implicit_codebook``, is built when it is asked for and not kept.

    Raises:
        ValueError: levels below 2; a level of 2, or ``noise_dropout``, without ``preserve_symmetry``; several
            codebooks without ``keep_num_codebooks_dim``.
    """

    _levels: Tensor  # (D,) int32
    _basis: Tensor  # (D,) int64, how many codes one step of a dimension is

    def __init__(
        self,
        levels: Sequence[int],
        dim: int | None = None,
        num_codebooks: int = 1,
        keep_num_codebooks_dim: bool | None = None,
        scale: float | None = None,
        allowed_dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64),
        channel_first: bool = False,
        projection_has_bias: bool = True,
        return_indices: bool = True,
        force_quantization_f32: bool = True,
        preserve_symmetry: bool = False,
        noise_dropout: float = 0.0,
        bound_hard_clamp: bool = False,
        orthogonal_rotation: bool = False,
    ) -> None:
        super().__init__()
        levels = list(levels)
        if min(levels, default=0) < 2 or (2 in levels and not preserve_symmetry):
            raise ValueError(f"FSQ: levels must be at least 3, or 2 with preserve_symmetry=True, got {levels}")
        if keep_num_codebooks_dim is False and num_codebooks > 1:
            raise ValueError("FSQ: several codebooks need keep_num_codebooks_dim=True")
        if noise_dropout > 0 and not preserve_symmetry:
            raise ValueError(f"FSQ: noise_dropout={noise_dropout} needs preserve_symmetry=True")
        width = len(levels) * num_codebooks
        self.levels, self.codebook_dim, self.num_codebooks = levels, len(levels), num_codebooks
        self.effective_codebook_dim, self.codebook_size = width, math.prod(levels)
        self.dim = width if dim is None else dim
        self.keep_num_codebooks_dim = num_codebooks > 1 if keep_num_codebooks_dim is None else keep_num_codebooks_dim
        self.scale, self.allowed_dtypes, self.force_quantization_f32 = scale, allowed_dtypes, force_quantization_f32
        self.channel_first, self.return_indices, self.preserve_symmetry = (
            channel_first,
            return_indices,
            preserve_symmetry,
        )
        self.noise_dropout, self.bound_hard_clamp = noise_dropout, bound_hard_clamp
        self.orthogonal_rotation, self.has_projections = orthogonal_rotation, self.dim != width
        self.project_in: nn.Module = nn.Identity()
        self.project_out: nn.Module = nn.Identity()
        if self.has_projections:
            self.project_in = nn.Linear(self.dim, width, bias=projection_has_bias)
            self.project_out = nn.Linear(width, self.dim, bias=projection_has_bias)
        self.register_index("_levels", lambda: torch.tensor(levels, dtype=torch.int32))
        self.register_index("_basis", lambda: torch.tensor([math.prod(levels[:j]) for j in range(len(levels))]))
        if orthogonal_rotation:
            if len(set(levels)) > 1:
                warnings.warn(f"FSQ: orthogonal_rotation suits equal levels, not {levels}", stacklevel=2)
            rotation = torch.empty(self.codebook_dim, self.codebook_dim)
            nn.init.orthogonal_(rotation)
            self.register_buffer("orthogonal_rot", rotation)

    @property
    def implicit_codebook(self) -> Tensor:
        """All codes as values, (codebook_size, D)."""
        return self._indices_to_codes(torch.arange(self.codebook_size, device=self._levels.device))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N, dim), or (B, dim, ...) for images and ``channel_first`` -> quantized, codes (int32 while they fit).

        A vector that holds a NaN comes back NaN, with code -1.

        Raises:
            ValueError: vectors of another length.
            TypeError: z is no tensor of floating point.
        """
        if not isinstance(z, Tensor) or not z.is_floating_point():
            given = z.dtype if isinstance(z, Tensor) else type(z).__name__
            raise TypeError(f"FSQ: z must be a floating-point tensor, got {given}; convert it to float32")
        moved = z.ndim >= 4 or self.channel_first
        z = z.movedim(1, -1) if moved else z
        if z.shape[-1] != self.dim:
            raise ValueError(f"FSQ: expected vectors of dimension {self.dim}, got {tuple(z.shape)}")
        values: Tensor = self.project_in(z).unflatten(-1, (self.num_codebooks, self.codebook_dim))
        dtype = values.dtype
        if self.orthogonal_rotation:
            values = values @ self.get_buffer("orthogonal_rot").to(dtype)
        with without_autocast(z.device.type) if self.force_quantization_f32 else nullcontext():
            if self.force_quantization_f32 and dtype not in self.allowed_dtypes:
                values = values.float()
            quantized = self.quantize(values)
            codes = None
            if self.return_indices:
                codes = self.codes_to_indices(quantized.detach())
                codes = codes.masked_fill(values.isnan().any(-1), -1)
            quantized = self.maybe_apply_noise(quantized)
            if self.orthogonal_rotation:
                quantized = quantized @ self.get_buffer("orthogonal_rot").to(quantized.dtype).mT
        out = self.project_out(quantized.to(dtype).flatten(-2))
        if codes is not None and not self.keep_num_codebooks_dim:
            codes = codes[..., 0]
        return out.movedim(-1, 1) if moved else out, codes

    def quantize(self, z: Tensor) -> Tensor:
        """(..., D), unbounded, -> the values of the levels in [-1, 1], with rounding as the identity for gradients."""
        bound = self.symmetry_preserving_bound if self.preserve_symmetry else self.bound
        return bound(z, hard_clamp=self.bound_hard_clamp)

    def bound(self, z: Tensor, eps: float = 1e-3, hard_clamp: bool = False) -> Tensor:
        """Levels around 0: ``round(tanh(z + shift) half - offset) / (L // 2)``; a clamp for tanh if asked for."""
        size = self._levels
        half = (size - 1) * (1 + eps) / 2
        offset = torch.where(size % 2 == 0, 0.5, 0.0)
        shift = offset / half if hard_clamp else (offset / half).atanh()
        squashed = (z + shift).clamp(-1, 1) if hard_clamp else (z + shift).tanh()
        bounded = squashed * half - offset
        return _rounded(bounded, bounded.round()) / (size // 2)

    def symmetry_preserving_bound(self, z: Tensor, hard_clamp: bool = False) -> Tensor:
        """Levels from -1 to 1: ``2 / (L - 1) floor((L - 1) (tanh(z) + 1) / 2 + 1/2) - 1`` (arXiv 2411.19842)."""
        steps = self._levels - 1
        squashed = z.clamp(-1, 1) if hard_clamp else z.tanh()
        bracket = steps * (squashed + 1) / 2 + 0.5
        return 2.0 / steps * _rounded(bracket, bracket.floor()) - 1

    def maybe_apply_noise(self, bounded_z: Tensor) -> Tensor:
        """In training, adds uniform noise to a share of ``noise_dropout`` of the values."""
        if not self.training or self.noise_dropout == 0:
            return bounded_z
        noisy = torch.full_like(bounded_z, self.noise_dropout).bernoulli_().bool()
        noise = torch.rand_like(bounded_z) - 0.5
        return torch.where(noisy, bounded_z + noise, bounded_z).clamp(-1, 1)

    def codes_to_indices(self, zhat: Tensor) -> Tensor:
        """Quantized values (..., D) -> codes (...)."""
        half = self._levels // 2
        levels = (zhat + 1) * (self._levels - 1) / 2 if self.preserve_symmetry else zhat * half + half
        index = (levels.nan_to_num().round().long() * self._basis).sum(-1)
        return index.int() if self.codebook_size <= 2**31 else index

    def indices_to_level_indices(self, indices: Tensor) -> Tensor:
        """Codes (...) -> the level of each dimension (..., D).

        Raises:
            ValueError: codes outside 0..codebook_size-1.
        """
        if indices.numel() and not torch.compiler.is_compiling():
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= self.codebook_size:
                raise ValueError(f"FSQ: codes must be in 0..{self.codebook_size - 1}, got {low}..{high}")
        return indices.long()[..., None] // self._basis % self._levels

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes -> (..., dim), channels in front again where ``forward`` took them there."""
        values = self._indices_to_codes(indices)
        if self.orthogonal_rotation:
            values = values @ self.get_buffer("orthogonal_rot").to(values.dtype).mT
        moved = self.channel_first or indices.ndim >= 3 + self.keep_num_codebooks_dim
        values = values.flatten(-2) if self.keep_num_codebooks_dim else values
        if isinstance(self.project_out, nn.Linear):
            values = values.to(self.project_out.weight.dtype)
        out: Tensor = self.project_out(values)
        return out.movedim(-1, 1) if moved else out

    def _indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes (...) -> values (..., D)."""
        digits, half = self.indices_to_level_indices(indices), self._levels // 2
        return digits * (2.0 / (self._levels - 1)) - 1 if self.preserve_symmetry else (digits - half) / half


def _rounded(x: Tensor, whole: Tensor) -> Tensor:
    """``whole``, bit for bit, with the gradient of x."""
    return whole.detach() + (x - x.detach())
