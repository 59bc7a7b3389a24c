"""A codebook that learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..arguments import working_dtype
from ..modules import has_values, keeping_precision
from .checks import check_float
from .clustering import draw_rows, joint_statistics, kmeans
from .op import GRADIENTS, METRICS, code_decode, nearest_code, vector_quantize
from .quantizer import Quantizer

__all__ = ["VectorQuantizer", "code_usage"]

LEARNING = ("ema", "gradient")
SMOOTHING = 1e-5  # of the moving counts, so that a code nobody chooses keeps a finite mean


def code_usage(codes: Tensor, size: int) -> tuple[float, float]:
    """Share of the ``size`` codes that occur in ``codes`` (any shape), and their perplexity ``exp(entropy)``."""
    counts = torch.bincount(codes[codes >= 0].reshape(-1), minlength=size).cpu().double()
    return float((counts > 0).double().mean()), perplexity(counts)


def perplexity(counts: Tensor) -> float:
    """``exp`` of the entropy of relative frequencies ``counts`` (K,): how many codes are in effect used."""
    counts = counts.detach().cpu().double()
    share = counts / counts.sum().clamp_min(1e-300)
    return float(torch.exp(torch.special.entr(share).sum()))


class VectorQuantizer(Quantizer):
    """Vector quantization with a codebook that learns: moving averages or gradients, k-means start, restarts.

    Args:
        dim: D, size of a vector.
        codes: K, number of codes.
        metric: ``"l2"``, or ``"cosine"``: vectors and codes are scaled to unit length first.
        learning: ``"ema"``: codes are moving averages of the vectors that chose them (van den Oord et al. 2017,
            appendix A.1). ``"gradient"``: the codebook is a parameter and ``loss`` pulls it to the vectors.
        gradient: what the encoder receives, see :func:`vector_quantize`.
        decay: of the moving averages, a step.
        commitment: weight of the commitment term in ``loss``.
        restart_below: a code chosen by fewer vectors than this a step (a moving average over all ranks) is replaced
            by a vector drawn from the batch. 0 never restarts.
        seed: of the k-means start and the restarts.
        group: process group whose ranks share the codebook; default: all, when torch.distributed is initialised.

    Buffers: ``codebook`` (K, D) (a parameter for ``"gradient"``), ``counts`` (K,) and ``sums`` (K, D) moving
    averages, ``updates`` and ``started``: all in the state dict, so a resumed run continues exactly. All are floats, so
    that weights can be averaged with buffers (``AveragedModel(use_buffers=True)``). The moving averages stay float32
    when the module is cast to a narrower dtype, in which they would stand still.

    The first training batch starts the codebook by k-means (10 iterations on at most 256 vectors a code); call
    :meth:`start` yourself to choose the vectors. Under DDP every rank must take part in every training step; a rank
    may have fewer vectors, or none.
    """

    codebook: Tensor  # (K, D)
    counts: Tensor  # (K,)
    sums: Tensor  # (K, D)
    updates: Tensor  # () float, how many steps
    started: Tensor  # () float, 0 before there is a codebook

    def __init__(
        self,
        dim: int,
        codes: int,
        *,
        metric: str = "l2",
        learning: str = "ema",
        gradient: str = "straight-through",
        decay: float = 0.99,
        commitment: float = 0.25,
        restart_below: float = 0.0,
        seed: int = 0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        for argument, value, choices in (
            ("metric", metric, METRICS),
            ("learning", learning, LEARNING),
            ("gradient", gradient, GRADIENTS),
        ):
            if value not in choices:
                raise ValueError(f"VectorQuantizer: {argument}={value!r} is not one of {', '.join(choices)}")
        if dim < 1 or codes < 1:
            raise ValueError(f"VectorQuantizer: dim and codes must be at least 1, got dim={dim}, codes={codes}")
        if not 0 <= decay < 1:
            raise ValueError(f"VectorQuantizer: decay must be in [0, 1), got {decay}")
        self.dim, self.codebook_size = dim, codes
        self.bits = math.log2(codes)
        self.metric, self.learning, self.gradient = metric, learning, gradient
        self.decay, self.commitment, self.restart_below = decay, commitment, restart_below
        self.seed, self.group = seed, group
        codebook = torch.zeros(codes, dim)
        if learning == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", torch.zeros(codes, dim))
        self.register_buffer("updates", torch.zeros(()))
        self.register_buffer("started", torch.zeros(()))
        self._started = False  # mirrors the buffer, which a GPU could only tell by waiting

    def extra_repr(self) -> str:
        return f"dim={self.dim}, codes={self.codebook_size}, metric={self.metric}, learning={self.learning}"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> quantized (..., D), codes (...), loss (): missing vectors as in :func:`vector_quantize`."""
        check_float("VectorQuantizer", x=x)
        if self.training and not self._has_started() and has_values(x, self.codebook):
            self.start(x)
        dtype, x = x.dtype, self._unit(x)
        quantized, codes, commitment = vector_quantize(
            x, self._unit(self.codebook), metric=self.metric, gradient=self.gradient
        )
        loss = self.commitment * commitment
        if self.learning == "gradient":
            loss = loss + self._codebook_loss(x.detach(), codes)
        if self.training:
            self._update(x.detach().reshape(-1, self.dim), codes.reshape(-1))
        return quantized.to(dtype), codes, loss

    def encode(self, x: Tensor) -> Tensor:
        """(..., D) -> codes (...)."""
        return nearest_code(x, self.codebook, metric=self.metric)

    def decode(self, codes: Tensor) -> Tensor:
        """codes (...) in -1..K-1 -> (..., D), NaN for -1."""
        return code_decode(codes, self._unit(self.codebook))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Sets the codebook by k-means on ``x`` (..., D) (of all ranks). Does nothing if no rank has a finite row."""
        rows = self._unit(x.detach()).reshape(-1, self.dim)
        codebook = kmeans(rows, self.codebook_size, metric=self.metric, seed=self.seed, group=self.group)
        if not bool(codebook.any()):
            return
        self.codebook.copy_(codebook)
        self.sums.copy_(codebook)
        self.counts.fill_(1)
        self.started.fill_(1)
        self._started = True

    def usage(self) -> float:
        """Share of codes that at least ``max(restart_below, 0.01)`` vectors a step choose, by moving average."""
        return float((self.counts >= max(self.restart_below, 0.01)).cpu().double().mean())

    def perplexity(self) -> float:
        """Number of codes in effect used, ``exp`` of the entropy of the moving counts."""
        return perplexity(self.counts)

    def _unit(self, x: Tensor) -> Tensor:
        """Scaled to unit length, in float32 at least, for the cosine metric."""
        return nn.functional.normalize(x.to(working_dtype(x)), dim=-1) if self.metric == "cosine" else x

    def _codebook_loss(self, x: Tensor, codes: Tensor) -> Tensor:
        """Mean of ``(sg(x) - c)^2`` over finite vectors and D."""
        finite = x.isfinite().all(-1)
        error = nn.functional.embedding(codes.clamp_min(0), self._unit(self.codebook)) - x
        error = torch.where(finite[..., None], error, 0)
        return error.square().sum() / (finite.sum() * self.dim).clamp_min(1)

    def _has_started(self) -> bool:
        """Asks the buffer as long as it says no: a broadcast, or an average of modules, fills it from outside."""
        if not self._started and has_values(self.started):
            self._started = bool(self.started)
        return self._started

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        kept = self.counts, self.sums, self.updates, self.started
        super()._apply(keeping_precision(fn, *kept), recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state, prefix, *args)
        for name in (
            "updates",
            "started",
        ):  # integers and bools once, and so they are with load_state_dict(assign=True)
            setattr(self, name, getattr(self, name).to(self.counts.dtype))
        self._started = False
        self._has_started()

    @torch.no_grad()
    def _update(self, x: Tensor, codes: Tensor) -> None:
        """One step of the moving averages over the rows (N, D) of all ranks, then restarts."""
        counts, sums = joint_statistics(x, codes, self.codebook_size, self.group)
        self.updates += 1
        self.counts.lerp_(counts.to(self.counts.dtype), 1 - self.decay)
        if self.learning == "ema":
            self.sums.lerp_(sums.to(self.sums.dtype), 1 - self.decay)
            total = self.counts.sum()
            smoothed = (self.counts + SMOOTHING) / (total + self.codebook_size * SMOOTHING) * total
            self.codebook.copy_(self._unit(self.sums / smoothed[:, None]))
        if self.restart_below > 0:
            step = self.updates.long()
            drawn, usable = draw_rows(x.to(self.sums.dtype), self.codebook_size, self.seed, step, self.group)
            dead = (self.counts < self.restart_below) & usable
            self.codebook.copy_(torch.where(dead[:, None], drawn, self.codebook))
            self.sums.copy_(torch.where(dead[:, None], drawn * self.restart_below, self.sums))
            self.counts.masked_fill_(dead, self.restart_below)
