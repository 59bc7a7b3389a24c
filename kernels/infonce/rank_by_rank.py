"""Patch InfoNCE over the joined batch of several processes, which none of them ever holds.

Ranks pass their tokens on, in a circle: each compares its own with those that it holds for the time being, while the
next are on their way. Memory is O(local x D) for any number of ranks. What travels is as much as where all are
gathered, and again for the backward pass, then with four numbers a row.

The operators are those of one process (registration.py): one call for the rank's own tokens, one for those of each
other rank, or M where whole modalities are excluded.

* Forward, own tokens are one block, so that they are left out of each other's denominators, all but the positives,
  which are among them. A row's loss is then log(1 + N / Y), N of the other rank's negatives. N / Y follows from it
  without a difference of near numbers, and log(1 + the sum over ranks) is the loss of the row.
  The kernels in C++ skip tiles of one block; those in Triton, given chosen rows, form them and leave them out, which is
  up to twice the products where ranks have as many tokens each.
* Backward, the gradient of a row is a sum over ranks, given the statistics of all rows. Positives count once, among
  own tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .inputs import Options, statistics_dtype
from .layout import Layout
from .registration import backward_rows, forward_rows

__all__ = ["rows_rank_by_rank"]


class _Setting(NamedTuple):
    layout: Layout  # of own tokens
    options: Options
    modalities: int
    sizes: list[int]  # tokens of each rank
    group: Any


def rows_rank_by_rank(
    tokens: Tensor,
    layout: Layout,
    temperature: Tensor | None,
    options: Options,
    modalities: int,
    sizes: list[int],
    group: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of the local rows (R,), which of them count (R,) and which found their positive (R,) or (0,).

    Tokens (R, D) are whole tiles, in the order of ``dense_order``, as are those of all other ranks.
    """
    setting = _Setting(layout, options, modalities, sizes, group)
    apply: Callable[..., Any] = _Rows.apply  # which torch does not annotate
    loss, counts, hits = apply(tokens.contiguous(), temperature, setting)
    return loss, counts, hits


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, temperature: Tensor | None, setting: _Setting) -> tuple[Tensor, ...]:
        layout, (value, exclude, *flags), _, sizes, group = setting
        held = _passed_on((tokens, layout.modality), sizes, group)
        next(held)  # own tokens, which travel from here on
        with torch.autocast(tokens.device.type, enabled=False):
            loss, _, log_y, inverse, hits = forward_rows(
                *(tokens, *layout, None, temperature, value, *flags, exclude == "place")
            )
            ahead = _ahead(loss)  # (R,) log of negatives over positives
            for others, modality in held:
                for rows, kept in _parts(setting, len(tokens), len(others)):
                    tables = _tables(layout, modality[kept], layout.ring)
                    joined = torch.cat([tokens, others[kept]])
                    # Positives are in their anchor's block: ``place``.
                    loss, _, _, _, found = forward_rows(
                        *(joined, *tables, _range(rows, tokens), temperature, value, *flags, True)
                    )
                    ahead[rows] = torch.logaddexp(ahead[rows], _ahead(loss))
                    if len(hits):  # wanted: ahead of all negatives: of those of each rank
                        hits[rows] &= found
        loss = torch.logaddexp(ahead, torch.zeros_like(ahead))
        log_z = log_y + loss
        ctx.setting = setting
        ctx.save_for_backward(tokens, temperature, log_z, log_y, inverse)
        counts = log_z != torch.inf
        ctx.mark_non_differentiable(counts, hits)
        return loss, counts, hits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, None]:
        setting: _Setting = ctx.setting
        layout, options, sizes, group = setting.layout, setting.options, setting.sizes, setting.group
        tokens, temperature, log_z, log_y, inverse = ctx.saved_tensors
        value, flags = options.value, (options.normalize, ctx.needs_input_grad[1])
        numbers = torch.stack([grad, log_z, log_y, inverse], 1)  # (R, 4)
        held = _passed_on((tokens, layout.modality, numbers), sizes, group)
        next(held)
        of_own, d_temperature = backward_rows(
            *(grad.contiguous(), tokens, *layout, None, temperature, value, log_z, log_y, inverse, *flags)
        )
        d_tokens = of_own.to(statistics_dtype(tokens.dtype))
        alone = torch.arange(len(tokens), device=tokens.device, dtype=torch.int32)  # rings without positives
        for others, modality, theirs in held:
            for rows, kept in _parts(setting, len(tokens), len(others)):
                tables = _tables(layout, modality[kept], alone)
                joined = torch.cat([tokens, others[kept]])
                weight, z, y, norm = torch.cat([numbers, theirs[kept]]).T.contiguous()
                d_rows, d_scale = backward_rows(
                    *(weight, joined, *tables, _range(rows, tokens), temperature, value, z, y, norm, *flags)
                )
                d_tokens[rows] += d_rows
                d_temperature = d_temperature + d_scale
        return d_tokens.to(tokens.dtype), d_temperature if flags[1] else None, None


def _ahead(loss: Tensor) -> Tensor:
    """log(e^loss - 1): how far the negatives are ahead of the positives; -inf where there are none."""
    return loss + torch.log(-torch.expm1(-loss))


def _parts(setting: _Setting, own: int, others: int) -> Iterator[tuple[slice, Tensor | slice]]:
    """Own rows, and those of another rank's tokens that they are compared with.

    Where all of a modality is excluded, that rank's are left out, one modality after the other.
    """
    if not own or not others:
        return
    if setting.options.exclude != "modality":
        yield slice(0, own), slice(0, others)
        return
    mine, theirs = own // setting.modalities, others // setting.modalities
    for m in range(setting.modalities):
        kept = torch.cat([torch.arange(m * theirs), torch.arange((m + 1) * theirs, others)])
        yield slice(m * mine, (m + 1) * mine), kept.to(setting.layout.modality.device, non_blocking=True)


def _tables(own: Layout, modality: Tensor, ring: Tensor) -> Layout:
    """Of own tokens, in one block and with ``ring``, and then of others, which are nobody's positives."""
    count, total = len(own.modality), len(own.modality) + len(modality)
    index = torch.arange(total, device=modality.device, dtype=torch.int32)
    return Layout(torch.cat([own.modality, modality]), (index >= count).int(), torch.cat([ring, index[count:]]))


def _range(rows: slice, tokens: Tensor) -> Tensor:
    return torch.arange(rows.start, rows.stop, device=tokens.device)


def _passed_on(tensors: tuple[Tensor, ...], sizes: list[int], group: Any) -> Iterator[tuple[Tensor, ...]]:
    """The tensors (R, ...) of this rank, of the one before, and so on round the group.

    Those that come next travel while the caller works on what it was given.
    """
    rank, ranks = dist.get_rank(group), len(sizes)
    members: Any = dist.group.WORLD if group is None else group
    following, before = (dist.get_global_rank(members, (rank + by) % ranks) for by in (1, -1))
    held = tensors
    for step in range(1, ranks):
        coming = tuple(x.new_empty(sizes[(rank - step) % ranks], *x.shape[1:]) for x in tensors)
        sent = [dist.P2POp(dist.isend, x, following, group) for x in held if x.numel()]
        received = [dist.P2POp(dist.irecv, x, before, group) for x in coming if x.numel()]
        requests = dist.batch_isend_irecv(sent + received) if sent or received else []
        yield held
        for request in requests:
            request.wait()
        held = coming
    yield held
