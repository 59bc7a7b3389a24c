"""The codebook of :class:`fusion.compat.vector_quantize_pytorch.VectorQuantize`: its state, its search, its updates.

Names of buffers and methods are those of vector-quantize-pytorch, which state dicts and training loops know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.memory import transforming
from ..kernels.modules import has_values
from ..kernels.quantize import code_decode, code_statistics, nearest_code
from ..kernels.quantize.clustering import draw_rows, joint_sum, ranks
from .vector_search import Found, scaled, search_all

__all__ = ["Codebook", "sum_over_ranks"]

Weight = Tensor | Callable[[Tensor, Tensor], Tensor] | None
STATISTICS = ("cluster_size", "embed_avg")
LOW_PRECISION = (torch.float16, torch.bfloat16)


def sum_over_ranks(sync: bool | None, *tensors: Tensor) -> list[Tensor]:
    """The tensors summed over the ranks of the default process group, unless ``sync`` is False."""
    return list(tensors) if sync is False else joint_sum(None, *tensors)


class Codebook(nn.Module):
    """h codebooks of K codes; h is the number of heads that have one of their own.

    The moving averages stay in float32 (or float64) whatever ``.half()`` or ``.bfloat16()`` does to the module:
    counts of vectors do not fit into half precision. ``initted`` holds 0 or 1 as an integer, so that weights and
    buffers of a model can be averaged; a state dict with a bool there is loaded all the same.
    """

    initted: Tensor  # () int64
    cluster_size: Tensor  # (h, K)
    embed_avg: Tensor  # (h, K, D)
    embed: Tensor  # (h, K, D)
    updates: Tensor  # ()

    def __init__(
        self,
        dim: int,
        size: int,
        count: int,
        *,
        kmeans_init: bool,
        kmeans_iters: int,
        cosine: bool,
        decay: float,
        eps: float,
        threshold: float,
        learnable: bool,
        ema_update: bool,
        manual_ema_update: bool,
        sync: bool | None,
        sync_kmeans: bool,
        sample: dict[str, Any],
        bridge: nn.Module | None,
    ) -> None:
        super().__init__()
        embed = torch.zeros(count, size, dim)
        if not kmeans_init:
            nn.init.kaiming_uniform_(embed)
            embed = scaled(embed) if cosine else embed
        self.codebook_size, self.num_codebooks, self.use_cosine_sim = size, count, cosine
        self.kmeans_iters, self.decay, self.eps, self.threshold_ema_dead_code = kmeans_iters, decay, eps, threshold
        self.ema_update, self.manual_ema_update, self.learnable_codebook = ema_update, manual_ema_update, learnable
        self.sync, self.sync_kmeans, self.sample = sync, sync_kmeans, sample
        self.register_buffer("initted", torch.tensor(int(not kmeans_init)))
        self._started = not kmeans_init  # what the buffer said when it could last be read
        self.register_buffer("cluster_size", torch.ones(count, size))
        self.register_buffer("embed_avg", embed.clone())
        if learnable:
            self.embed = nn.Parameter(embed)
        else:
            self.register_buffer("embed", embed)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64), persistent=False)
        self.vq_bridge = bridge

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        *,
        dense: bool,
        topk: int | None = None,
        temperature: float | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> Found:
        """Codes of x (h, B, N, D) float32; ``dense`` also gives minus the distance, or the cosine, to every code.

        ``mask`` (h, B, N) bool: False is padding, which has no part in the k-means start. ``topk``, ``temperature``
        and ``transform`` need ``dense``.
        """
        if not self._has_started() and has_values(x, self.initted):
            self.init_embed_(x, mask)
        embed = self.embed if self.learnable_codebook else self.embed.detach()
        embed = embed.float()
        embed = embed if self.vq_bridge is None else self.vq_bridge(embed)
        rows = x.flatten(1, 2)  # (h, R, D)
        if dense:
            sample = self.sample if temperature is None else {**self.sample, "temperature": temperature}
            return search_all(x, embed, self.use_cosine_sim, topk, sample if self.training else {}, transform)
        metric = "cosine" if self.use_cosine_sim else "l2"
        codes = torch.stack([nearest_code(part, one, metric=metric) for part, one in zip(rows, embed, strict=True)])
        quantized = torch.stack([code_decode(part, one) for part, one in zip(codes, embed, strict=True)])
        return quantized.view_as(x), codes.view(x.shape[:-1]), None

    @torch.no_grad()
    def init_embed_(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Starts the codebook by k-means on the vectors x (h, B, N, D)."""
        if self._has_started():
            return
        embed, counts = zip(*(self._kmeans(rows) for rows in self._usable(x, mask)), strict=True)
        self.cluster_size.copy_(torch.stack(counts))
        self.embed_avg.copy_(torch.stack(embed) * self.cluster_size[..., None])
        self.update_ema()
        self.initted.fill_(1)
        self._started = True

    def _has_started(self) -> bool:
        """By the buffer, which users set too; a compiler, a transform and ``meta`` cannot read it."""
        if not torch.compiler.is_compiling() and not transforming() and has_values(self.initted):
            self._started = bool(self.initted)
        return self._started

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state, prefix, *args)
        self.initted = self.initted.to(torch.int64)  # a bool once, and so it is with load_state_dict(assign=True)
        self._has_started()

    @torch.no_grad()
    def update_ema(self) -> None:
        """Codes from the moving averages."""
        total = self.cluster_size.sum(-1, keepdim=True)
        size = (self.cluster_size + self.eps) / (total + self.codebook_size * self.eps) * total
        embed = self.embed_avg / size[..., None]
        self.embed.data.copy_(scaled(embed) if self.use_cosine_sim else embed)

    @torch.no_grad()
    def update_indices(
        self,
        x: Tensor,
        codes: Tensor,
        mask: Tensor | None = None,
        ema_update_weight: Weight = None,
        accum_ema_update: bool = False,
        ema_update: bool | None = None,
    ) -> None:
        """Moves the averages by vectors x (h, B, N, D) with their codes (h, B, N), and the codes by the averages.

        Args:
            mask: (h, B, N) bool, False is padding. A code of -1 does not count either.
            ema_update_weight: (K,) or (h, K), the share of the step that each code takes; or a function of the
                sums (h, K, D) and counts (h, K) that gives it.
            accum_ema_update: only remember the sums, for the next call without it.
            ema_update: overrides the constructor's.
        """
        ema_update = self.ema_update if ema_update is None else ema_update
        if not ema_update and self.threshold_ema_dead_code <= 0:
            return
        rows = x.detach().float().flatten(1, 2)
        codes = codes.flatten(1) if mask is None else codes.masked_fill(~mask, -1).flatten(1)
        each = [code_statistics(r, c, self.codebook_size) for r, c in zip(rows, codes, strict=True)]
        counts, sums = (torch.stack(part) for part in zip(*each, strict=True))
        counts, sums = sum_over_ranks(self.sync, counts, sums)
        weight = ema_update_weight(sums, counts) if callable(ema_update_weight) else ema_update_weight
        for average, step in ((self.cluster_size, counts), (self.embed_avg, sums)):
            step = step.to(average.dtype)
            if average.grad is not None:  # where the original keeps what is accumulated
                step = step + average.grad
            if accum_ema_update:
                average.grad = step
                continue
            average.grad = None
            average.lerp_(step, self._step(weight, average))
        if accum_ema_update:
            return
        if ema_update and not self.manual_ema_update:
            self.update_ema()
        self.expire_codes_(x, mask)

    update_ema_indices = update_indices

    @torch.no_grad()
    def expire_codes_(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Replaces codes that too few vectors choose by vectors drawn from x (h, B, N, D)."""
        if self.threshold_ema_dead_code <= 0 or not self.training:
            return
        self.updates += 1
        expired = self.cluster_size < self.threshold_ema_dead_code  # (h, K), the same on every rank
        if not has_values(expired) or not expired.any():
            return
        for i, rows in enumerate(self._usable(x, mask)):
            place = expired[i].nonzero()[:, 0]
            if self._shares_samples():
                drawn, usable = draw_rows(rows, len(place), i, self.updates, None)
                place, drawn = place[usable], drawn[usable]
            elif len(rows):
                if len(place) > len(rows):  # a vector for one code only: the other codes wait for the next step
                    place = place[torch.randperm(len(place), device=rows.device)[: len(rows)]].sort().values
                drawn = _sample(rows, len(place))
            else:
                continue
            self.embed.data[i, place] = drawn.to(self.embed.dtype)
            self.cluster_size[i, place] = float(self.threshold_ema_dead_code)
            self.embed_avg[i, place] = drawn.to(self.embed_avg.dtype) * self.threshold_ema_dead_code

    def _shares_samples(self) -> bool:
        return self.sync is not False and self.sync_kmeans and ranks(None)[1] > 1

    def _usable(self, x: Tensor, mask: Tensor | None) -> list[Tensor]:
        """The finite vectors of x (h, B, N, D) that are not padding, (R, D) for each codebook."""
        rows = x.detach().float().flatten(1, 2)
        seen = rows.isfinite().all(-1)
        seen = seen if mask is None else seen & mask.flatten(1)
        return [part[keep] for part, keep in zip(rows, seen, strict=True)]

    def _step(self, weight: Tensor | None, average: Tensor) -> float | Tensor:
        if weight is None:
            return 1 - self.decay
        weight = weight[None] if weight.ndim == 1 else weight
        if weight.shape != self.cluster_size.shape:
            raise ValueError(
                f"VectorQuantize: ema_update_weight must be ({self.codebook_size},) or "
                f"{tuple(self.cluster_size.shape)}, got {tuple(weight.shape)}"
            )
        weight = weight.to(average).expand_as(self.cluster_size)
        return (1 - self.decay) * (weight if average.ndim == 2 else weight[..., None].expand_as(average))

    def _kmeans(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Lloyd's algorithm on rows (R, D): means (K, D) and how many rows each has (K,)."""
        shared = self._shares_samples()
        if shared:
            means, usable = draw_rows(rows, self.codebook_size, 0, self.updates, None)
            means = means.masked_fill(~usable[:, None], 0)
        elif len(rows):
            means = _sample(rows, self.codebook_size)
        else:
            raise ValueError("VectorQuantize: kmeans_init needs a first batch with at least one finite vector, got 0")
        counts = means.new_zeros(self.codebook_size)
        metric = "cosine" if self.use_cosine_sim else "l2"
        for _ in range(self.kmeans_iters):
            codes = nearest_code(rows, means, metric=metric)
            counts, sums = code_statistics(rows, codes, self.codebook_size)
            counts, sums = sum_over_ranks(shared, counts, sums)
            moved = sums / counts.clamp(min=1)[:, None]
            moved = scaled(moved) if self.use_cosine_sim else moved
            means = torch.where((counts == 0)[:, None], means, moved)
        return means, counts

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Codebook:
        before = {name: getattr(self, name) for name in STATISTICS}
        super()._apply(fn, recurse)
        for name, value in before.items():
            now = getattr(self, name)
            if now.dtype in LOW_PRECISION:
                setattr(self, name, value.to(now.device))
        return self


def _sample(rows: Tensor, count: int) -> Tensor:
    """``count`` rows of (R, D), each once if there are enough of them."""
    if len(rows) >= count:
        return rows[torch.randperm(len(rows), device=rows.device)[:count]]
    return rows[torch.randint(0, len(rows), (count,), device=rows.device)]
