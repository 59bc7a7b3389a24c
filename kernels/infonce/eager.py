"""Patch InfoNCE in chunks of rows: plain PyTorch, any device and float dtype, memory O(N)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .inputs import Inputs, statistics_dtype
from .reference import TIE, unit

__all__ = ["backward", "directions", "forward"]

_CHUNK_ELEMENTS = 1 << 20  # entries of one block of rows of the similarity matrix; 4 MiB in float32


def forward(x: Inputs, normalize: bool, accuracy: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Row losses and what the backward pass needs; see registration.py."""
    tokens, modality, block, ring, anchor, temperature, value = x
    f, inverse = directions(tokens, modality, normalize)  # (N, D), (N,)
    scale = 1 / (value if temperature is None else temperature.to(f))
    loss, log_z, log_y = (f.new_empty(x.rows) for _ in range(3))
    hit = torch.empty(x.rows if accuracy else 0, dtype=torch.bool, device=f.device)

    for here, rows in _chunks(len(f), anchor, f.device):
        s = (f[rows] * scale) @ f.T  # (R, N)
        y, best = torch.full_like(s[:, :2], -torch.inf).unbind(1)
        for j, positive in _positives(rows, modality, ring):
            s_j = s.gather(1, j[:, None])[:, 0].masked_fill(~positive, -torch.inf)
            y = torch.logaddexp(y, s_j)
            best = torch.maximum(best, s_j)
            # Positives stay out of the sum over the denominator and join it below: where they outweigh the rest,
            # log Z - log Y would be lost in rounding.
            s.scatter_(1, torch.where(positive, j, rows)[:, None], -torch.inf)
        s.masked_fill_(~_admissible(rows, modality, block), -torch.inf)
        negatives = s.logsumexp(1)
        left_out = best == -torch.inf
        loss[here] = torch.logaddexp(negatives - y, torch.zeros_like(y)).masked_fill(left_out, 0.0)
        log_z[here] = torch.logaddexp(negatives, y).masked_fill(left_out, torch.inf)
        log_y[here] = y.masked_fill(left_out, torch.inf)
        if accuracy:
            rival = s.amax(1)
            margin = TIE * torch.maximum(best.abs(), rival.abs()).nan_to_num(posinf=0.0)
            hit[here] = (best - rival > margin) & ~left_out
    return loss, log_z, log_y, inverse, hit


def backward(
    grad: Tensor, x: Inputs, log_z: Tensor, log_y: Tensor, inverse: Tensor, normalize: bool, needs_temperature: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the anchors' tokens, (R, D), and their share of the gradient of the temperature, ()."""
    tokens, modality, block, ring, anchor, temperature, value = x
    f, _ = directions(tokens, modality, normalize)
    scale = 1 / (value if temperature is None else temperature.to(f))
    d_tokens = tokens.new_empty(x.rows, f.shape[1])
    slope = f.new_zeros(())  # sum over anchors of f . dL/df

    for here, rows in _chunks(len(f), anchor, f.device):
        f_rows = f[rows]  # (R, D)
        s = (f_rows * scale) @ f.T  # (R, N)
        corrections = []
        for j, positive in _positives(rows, modality, ring):
            s_j = s.gather(1, j[:, None])[:, 0]
            w_j = grad[rows] * (s_j - log_y[rows]).exp() + grad[j] * (s_j - log_y[j]).exp()
            # Of a positive in the row's own block w will not hold the part of the denominators.
            of_z = grad[rows] * (s_j - log_z[rows]).exp() + grad[j] * (s_j - log_z[j]).exp()
            w_j = w_j - of_z.masked_fill(block[rows] != block[j], 0.0)
            corrections.append((j[:, None], w_j.masked_fill(~positive, 0.0)[:, None]))
        w = grad[rows, None] * (s - log_z[rows, None]).exp()
        w += grad * s.sub_(log_z).exp_()
        w.masked_fill_(~_admissible(rows, modality, block), 0.0)
        for j, w_j in corrections:
            w.scatter_add_(1, j, -w_j)
        d_f = (w @ f) * scale  # (R, D)
        along = (f_rows * d_f).sum(1, keepdim=True)  # (R, 1)
        slope += along.sum()
        if normalize:
            d_f = (d_f - along * f_rows) * inverse[rows, None]
        d_tokens[here] = d_f.to(tokens.dtype)
    return d_tokens, (-0.5 * scale * slope).to(x.of_temperature)


def directions(tokens: Tensor, modality: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """What the products are formed of, (N, D), zero where not observed, and the inverse norms, (N,).

    The former hold values that the dtype of the tokens can hold, as a tensor core's operands would.
    """
    f = tokens.to(statistics_dtype(tokens.dtype)).masked_fill((modality < 0)[:, None], 0.0)
    if not normalize:
        return f, f.new_ones(len(f))
    f, inverse = unit(f)
    return f.to(tokens.dtype).to(f.dtype), inverse[:, 0]


def _chunks(total: int, anchor: Tensor | None, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the output and the rows they stand for."""
    rows = torch.arange(total, device=device) if anchor is None else anchor.long()
    size = max(1, _CHUNK_ELEMENTS // max(total, 1))
    for start in range(0, len(rows), size):
        here = slice(start, start + size)
        yield here, rows[here]


def _admissible(rows: Tensor, modality: Tensor, block: Tensor) -> Tensor:
    """Which tokens are in the rows' denominators, (R, N); none where the row was not observed."""
    observed = modality >= 0
    return (block[rows, None] != block) & (observed[rows, None] & observed)


def _positives(rows: Tensor, modality: Tensor, ring: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Walks round the rings: a token of the same patch for each row, (R,), and whether it is a positive."""
    kind = modality[rows]
    j = ring[rows].long()
    while (j != rows).any():
        yield j, (modality[j] >= 0) & (modality[j] != kind) & (kind >= 0)
        j = torch.where(j == rows, j, ring[j].long())
