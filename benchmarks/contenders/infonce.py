"""Patch InfoNCE against what a user would write otherwise.

``plain``: the loss in PyTorch on the whole N x N matrix, for ``exclude="modality"`` CLIP's two cross entropies;
``compile``: torch.compile of it; ``chunked``: the strongest simple form, blocks of rows recomputed in the backward pass
(torch.utils.checkpoint), so that no N x N matrix lives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fusion.kernels import patch_info_nce

from .common import DEVICE, Step, compiled, ours

__all__ = ["TEMPERATURE", "chunked", "operations", "plain", "step"]

TEMPERATURE = 0.1


def plain(tokens: Tensor) -> Tensor:
    m, b, p, d = tokens.shape
    f = F.normalize(tokens.reshape(-1, d), dim=1)  # (N, D)
    similarity = f @ f.T / TEMPERATURE  # (N, N)
    index = torch.arange(len(f), device=f.device)
    block = index // p
    positives = torch.stack([similarity[index, (index + k * b * p) % len(f)] for k in range(1, m)], 1)
    negatives = similarity.masked_fill(block[:, None] == block, -torch.inf)
    return (negatives.float().logsumexp(1) - positives.float().logsumexp(1)).mean()


def chunked(tokens: Tensor, rows: int = 512) -> Tensor:
    m, b, p, d = tokens.shape
    f = F.normalize(tokens.reshape(-1, d), dim=1)  # (N, D)
    index = torch.arange(len(f), device=f.device)

    def some(f: Tensor, here: Tensor) -> Tensor:
        similarity = f[here] @ f.T / TEMPERATURE  # (rows, N)
        positives = torch.stack(
            [similarity.gather(1, ((here + k * b * p) % len(f))[:, None])[:, 0] for k in range(1, m)], 1
        )
        negatives = similarity.masked_fill((here // p)[:, None] == index // p, -torch.inf)
        return (negatives.float().logsumexp(1) - positives.float().logsumexp(1)).sum()

    return sum(checkpoint(some, f, here, use_reentrant=False) for here in index.split(rows)) / len(f)


def clip(tokens: Tensor) -> Tensor:
    """Two modalities (2, B, 1, D): a cross entropy of each against the other."""
    first, second = F.normalize(tokens.flatten(1, 2), dim=-1)  # (B, D)
    logits = first @ second.T / TEMPERATURE  # (B, B)
    index = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(logits.float(), index) + F.cross_entropy(logits.T.float(), index)) / 2


def _function(contender: str, exclude: str) -> Callable[[Tensor], Tensor]:
    whole = plain if exclude == "tile" else clip
    if contender in ("plain", "compile"):
        return whole if contender == "plain" else compiled(whole)
    if contender == "chunked":
        return chunked
    return functools.partial(patch_info_nce, temperature=TEMPERATURE, exclude=exclude)


def step(contender: str, shape: tuple[int, ...], dtype: torch.dtype, what: str, exclude: str = "tile") -> Step:
    """One forward pass, one backward pass, or both, on tokens (M, B, P, D) whose modalities agree somewhat."""
    torch.manual_seed(0)
    tokens = (torch.randn(shape, device=DEVICE) + torch.randn(shape[1:], device=DEVICE)).to(dtype).requires_grad_()
    function = _function(contender, exclude)
    if what == "forward":
        return ours(contender, torch.no_grad()(lambda: function(tokens)))
    if what == "both":
        return ours(contender, lambda: torch.autograd.grad(function(tokens), tokens))
    value = ours(contender, lambda: function(tokens))()
    return ours(contender, lambda: torch.autograd.grad(value, tokens, retain_graph=True))


def operations(shape: tuple[int, ...], what: str, exclude: str = "tile") -> float:
    """The fewest there are: S is symmetric, so half of it forward; the rows' own gradients backward on a GPU.

    On a CPU the backward pass too takes half of the tiles. ``exclude="modality"`` leaves 1 / M of S out.
    """
    tokens, features = shape[0] * shape[1] * shape[2], shape[3]
    forward, backward = 1, 4 if DEVICE == "cuda" else 3
    needed = 1 - 1 / shape[0] if exclude == "modality" else 1
    return {"forward": forward, "backward": backward, "both": forward + backward}[what] * needed * tokens**2 * features
