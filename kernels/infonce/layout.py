"""Which tokens are positives and which are left out of the denominator, as three small tables.

Every backend reads the same tables, one int32 entry a token; they cost O(N) and serve any mix of tokens:

* ``modality``: equal values are the same modality; -1 marks a token that was not observed.
* ``block``: never decreases; tokens of one block are left out of each other's denominators, unless they are positives.
* ``ring``: the next token of the same patch of the same tile, in a circle. The positives of a token are the
  observed tokens met on the way round that have another modality.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..memory import remember_numbers

EXCLUDE = ("tile", "self", "modality", "place")


class Layout(NamedTuple):
    modality: Tensor  # (N,) int32
    block: Tensor  # (N,) int32
    ring: Tensor  # (N,) int32


def dense_order(x: Tensor, exclude: str) -> Tensor:
    """x (M, B, P, ...) in the order in which blocks are contiguous, (N, ...).

    Token (m, b, p) is row (m B + b) P + p; where whole tiles are blocks, row (b M + m) P + p.
    """
    return (x.transpose(0, 1) if exclude == "place" else x).flatten(0, 2)


def dense_layout(shape: tuple[int, int, int], exclude: str, valid: Tensor | None, device: torch.device) -> Layout:
    """Tables of tokens (M, B, P) in the order of :func:`dense_order`, in which valid (N,) is too."""
    modalities, tiles, patches = shape  # of a torch.Size
    shape = modalities, tiles, patches
    key = "patch_info_nce", shape, exclude
    modality, block, ring = remember_numbers(key, device, lambda: _dense_tables(shape, exclude, device))
    return Layout(modality if valid is None else modality.masked_fill(~valid, -1), block, ring)


def _dense_tables(shape: tuple[int, int, int], exclude: str, device: torch.device) -> Layout:
    modalities, tiles, patches = shape
    index = torch.arange(modalities * tiles * patches, device=device, dtype=torch.int32)  # (N,)
    if exclude == "place":
        size = max(modalities * patches, 1)
        start = index // size * size
        ring = start + (index - start + patches) % size
        return Layout(index // max(patches, 1) % max(modalities, 1), index // size, ring)
    modality = index // max(tiles * patches, 1)
    if exclude == "tile":
        block = index // max(patches, 1)
    else:
        block = index if exclude == "self" else modality
    ring = (index + tiles * patches) % max(len(index), 1)
    return Layout(modality, block.clone(), ring)


def ragged_layout(
    modality: Tensor, tile: Tensor, patch: Tensor, exclude: str, valid: Tensor | None
) -> tuple[Tensor, Layout]:
    """The order in which blocks are contiguous, (N,) int64, and the tables of the tokens in that order."""
    by_tile = tile.argsort(stable=True)
    order = by_tile if exclude == "place" else by_tile[modality[by_tile].argsort(stable=True)]
    modality, tile, patch = modality[order], tile[order], patch[order]

    kind = _numbers(modality) if exclude == "place" else _runs(modality)
    if exclude == "tile":
        block = _runs(modality, tile)
    elif exclude == "place":
        block = _runs(tile)
    elif exclude == "modality":
        block = kind
    else:
        block = torch.arange(len(order), device=order.device, dtype=torch.int32)

    by_patch = patch.argsort(stable=True)
    by_site = by_patch[tile[by_patch].argsort(stable=True)]
    site = _runs(tile[by_site], patch[by_site])  # (N,) never decreases
    following = by_site.roll(-1)
    first = by_site[torch.searchsorted(site, site)]
    closes = site != site.roll(-1)  # the last token of its site points back at the first
    closes[-1:] = True
    ring = torch.empty_like(by_site).scatter(0, by_site, torch.where(closes, first, following))

    if valid is not None:
        kind = kind.masked_fill(~valid[order], -1)
    return order, Layout(kind, block, ring.int())


def _numbers(label: Tensor) -> Tensor:
    """Number of each element's value among the values in ascending order, (N,) int32: 1, 0, 1, 2 for 7, 4, 7, 9."""
    order = label.argsort(stable=True)
    return torch.empty_like(order, dtype=torch.int32).scatter(0, order, _runs(label[order]))


def _runs(*labels: Tensor) -> Tensor:
    """Number of the run each element is in, (N,) int32: 0, 0, 1, 1, 1, 2 for labels 7, 7, 4, 4, 4, 9."""
    begins = torch.zeros_like(labels[0], dtype=torch.bool)
    for label in labels:
        begins[1:] |= label[1:] != label[:-1]
    return begins.cumsum(0, dtype=torch.int32)
