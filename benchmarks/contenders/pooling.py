"""Pooling of dates, and encoding with it, against what a user would write otherwise; every date is valid, which the
peers need.

``layers``: torch's group norm on (B*P, D, L), linear scores, softmax and a weighted sum, as in the original OmniSat and
U-TAE; ``plain``: the same by channels last, in a dozen operations; ``compile``: torch.compile of it. Encoding with
OmniSat: ``layers``: one after the other; ``compile``: torch.compile of these.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.data import Modality, TileBatch
from fusion.kernels import pool_dates
from fusion.kernels.pooling import eager
from fusion.omnisat import OmniSat, OmniSatConfig

from .common import DEVICE, Step, compiled

__all__ = ["ENCODERS", "PEERS", "SIZES", "encoding", "operations", "step"]

# tiles, patches, dates, channels, heads (and groups): batches of maps of OmniSat tiny and small, and the paper's width
SIZES = {
    "tiny": (56, 36, 12, 64, 4),
    "small": (56, 36, 12, 128, 8),
    "paper": (16, 36, 50, 256, 16),
}
PEERS = ("layers", "plain", "compile")
ENCODERS = ("tiny", "small")
S2 = Modality("s2", "series", ("B02", "B03", "B04", "B08"), 10.0, 1, "reflectance x 10000", (1700.0,) * 4, (900.0,) * 4)
_SWITCHES = "fusion.layers.merged.may_merge", "fusion.omnisat.series.may_merge"


@dataclass
class Inputs:
    values: Tensor  # (B, P, L, D)
    bias: Tensor  # (D,)
    weight: Tensor  # (D,)
    shift: Tensor  # (D,)
    query: Tensor  # (H, D)
    offset: Tensor  # (B, L, H)
    positions: Tensor  # (B, L, D / H)


def operations(size: str) -> float:
    """Of the scores, the norm and the sum."""
    tiles, patches, dates, dim, heads = SIZES[size]
    return 2.0 * tiles * patches * dates * dim * (heads + 4)


@functools.cache
def _inputs(size: str, dtype: torch.dtype) -> Inputs:
    tiles, patches, dates, dim, heads = SIZES[size]
    torch.manual_seed(0)
    shapes = (dim,), (dim,), (dim,), (heads, dim), (tiles, dates, heads), (tiles, dates, dim // heads)
    values = torch.randn(tiles, patches, dates, dim, device=DEVICE, dtype=dtype)
    return Inputs(values, *(torch.randn(shape, device=DEVICE) for shape in shapes))


def _fused(x: Inputs) -> tuple[Tensor, Tensor]:
    groups = x.query.shape[0]
    norm = x.weight, x.shift
    return pool_dates(x.values, x.query, x.offset, x.positions, bias=x.bias, norm=norm, groups=groups)


def _plain(x: Inputs) -> tuple[Tensor, Tensor]:
    groups = x.query.shape[0]
    rest = (x.query, x.offset, x.positions)
    return eager.pool_dates(x.values, x.bias, None, x.weight, x.shift, groups, 1e-5, *rest)


def _layers(x: Inputs) -> tuple[Tensor, Tensor]:
    heads = x.query.shape[0]
    values = F.relu(x.values.float() + x.bias)
    rows = values.flatten(0, 1).mT.contiguous()  # (B*P, D, L)
    normal = F.group_norm(rows, heads, x.weight, x.shift).mT.reshape(values.shape)
    attention = (F.linear(normal, x.query) + x.offset[:, None]).softmax(2)  # (B, P, L, H)
    moved = normal.unflatten(-1, (heads, -1)) + x.positions[:, None, :, None]  # (B, P, L, H, D/H)
    return (attention.unsqueeze(-1) * moved).sum(2).flatten(2), attention


RUN: dict[str, Callable[[Inputs], tuple[Tensor, Tensor]]] = {
    "fusion": _fused,
    "layers": _layers,
    "plain": _plain,
    "compile": compiled(_plain),
}


def step(name: str, size: str, dtype: torch.dtype) -> Step:
    x = _inputs(size, dtype)

    def run() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return RUN[name](x)

    return run


def encoding(name: str, size: str, dtype: torch.dtype) -> Step:
    """A batch of 56 tiles of 6 x 6 patches and 12 dates of four bands, as maps have them."""
    torch.manual_seed(0)
    model = OmniSat(OmniSatConfig.preset(size, [S2], (6, 6))).eval().to(DEVICE)
    values = 1700 + 900 * torch.randn(56, 12, 4, 6, 6, device=DEVICE)
    days = torch.arange(0, 180, 15, device=DEVICE).expand(56, -1)
    batch = TileBatch({"s2": values}, {"s2": days}, {"s2": torch.ones_like(days, dtype=torch.bool)})
    forward = compiled(model) if name == "compile" else model

    def run() -> Tensor:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == torch.bfloat16))
            for switch in _SWITCHES if name == "layers" else ():
                stack.enter_context(mock.patch(switch, return_value=False))
            return forward(batch).patches

    return run
