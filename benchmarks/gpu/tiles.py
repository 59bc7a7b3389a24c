"""What the sweep tries: for an entry of an op's tile table the candidates, and a step in which its kernel runs."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from fusion.kernels import memory, patch_info_nce, use_backend
from fusion.kernels._triton.device import Tile, architecture, row, tiles_of
from fusion.kernels.attention.triton import tiles as attention
from fusion.kernels.infonce.triton import tiles as infonce
from fusion.kernels.quantize.triton import tiles as quantize

from ..contenders import attention as attention_steps
from ..contenders import quantize as quantize_steps
from ..contenders.common import DEVICE, Step

__all__ = ["Sweep", "sweeps"]

Table = dict[tuple[Any, ...], Tile]


@dataclass(frozen=True)
class Sweep:
    """One entry of a table, on one kind of inputs. ``key`` is without its architecture."""

    name: str  # of the table
    table: Table
    key: tuple[Any, ...]
    case: str  # the inputs
    kernel: str  # a regular expression: names of the kernels whose time counts
    build: Callable[[], Step]
    candidates: tuple[Tile, ...]

    @property
    def keys(self) -> list[tuple[Any, ...]]:
        """Of this GPU: its own entry, and that of the GPU whose tiles it takes."""
        own = architecture(torch.device(DEVICE, 0))
        return [(a, *self.key) for a in dict.fromkeys((own, tiles_of(own)))]

    def now(self) -> Tile | None:
        """The tile in the table."""
        try:
            return row(self.table, *self.keys[0])
        except KeyError:
            return None

    def tiles(self) -> list[Tile]:
        """The table's, then the candidates."""
        return list(dict.fromkeys([*filter(None, [self.now()]), *self.candidates]))

    @contextlib.contextmanager
    def trying(self, tile: Tile) -> Iterator[None]:
        """``tile`` instead of the table's."""
        kept = dict(self.table)
        try:
            self.table.update(dict.fromkeys(self.keys, tile))
            _forget()
            yield
        finally:
            self.table.clear()
            self.table.update(kept)
            _forget()


def _forget() -> None:
    """What launches have worked out of a tile before, by shape and by tensor."""
    memory._memory.clear()
    for name, module in list(sys.modules.items()):
        if name.startswith("fusion.kernels.") and name.endswith(".triton.plan"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def _tiles(text: str) -> tuple[Tile, ...]:
    """From rows, columns, warps, stages and perhaps depth, a comma between tiles."""
    return tuple(Tile(*map(int, numbers.split())) for numbers in text.split(","))


def sweeps(tiny: bool) -> list[Sweep]:
    """Most important first."""
    made = [list(source(tiny)) for source in (_infonce, _attention, _nearest)]
    return [sweep for own in made for sweep in (own[:1] if tiny else own)]


# ------------------------------------------------------------------------------------------------------ InfoNCE


def _loss(shape: tuple[int, ...], dtype: torch.dtype, accuracy: bool, backward: bool) -> Step:
    torch.manual_seed(0)
    tokens = torch.randn(shape, device=DEVICE).to(dtype).requires_grad_()

    def step() -> None:
        with use_backend("triton"):
            value = patch_info_nce(tokens, return_accuracy=accuracy)
            if backward:
                torch.autograd.grad(value[0] if accuracy else value, tokens)

    return step


_LOSS_TILES = {
    ("half", "halved"): "64 64 4 3, 64 64 4 4, 64 64 8 3, 128 128 4 2, 128 128 4 3, 128 128 8 2, 128 128 8 3",
    (
        "half",
        "backward",
    ): "128 64 8 2, 128 64 8 3, 128 64 4 3, 64 64 4 2, 64 64 4 3, 64 64 8 3, 128 32 8 3, 64 128 8 2, "
    "128 128 8 2, 64 32 4 3, 128 32 4 3, 256 32 8 2",
    ("split", "halved"): "64 64 4 1, 64 64 4 2, 64 64 8 2, 128 128 8 1, 128 128 8 2, 128 128 4 1, 32 32 2 2",
    ("split", "backward"): "128 64 8 1, 128 32 8 1, 128 32 8 2, 64 32 4 2, 64 32 4 3, 64 64 4 1, 64 64 8 1, 64 64 8 2, "
    "128 32 4 2, 32 32 4 3",
    (
        "half",
        "forward",
    ): "256 64 8 3, 256 64 8 2, 128 64 8 3, 128 64 8 4, 128 128 8 2, 128 64 4 3, 128 32 8 3, 64 128 4 3",
    ("split", "forward"): "128 64 8 1, 128 64 8 2, 128 32 8 2, 64 64 4 2, 64 32 4 2, 64 32 4 3, 128 32 4 2",
    ("half", "halved wide"): "128 128 8 3 64, 128 128 8 4 64, 128 128 4 3 64, 128 128 8 4 32, 64 64 4 4 64",
    (
        "half",
        "backward wide",
    ): "128 64 8 2 64, 128 64 8 3 64, 128 64 4 2 64, 64 64 4 3 64, 128 128 8 2 64, 128 64 8 3 32",
    ("split", "halved wide"): "128 128 8 2 64, 128 128 8 3 32, 128 128 8 2 32, 64 64 4 3 64, 128 128 4 2 32",
    ("split", "backward wide"): "128 64 8 1 64, 128 64 8 2 32, 64 64 4 2 32, 64 64 8 2 32, 128 32 8 2 64",
}


def _infonce(tiny: bool) -> Iterator[Sweep]:
    for (kind, name), candidates in _LOSS_TILES.items():
        shape = (3, 2, 5, 16) if tiny else (2, 8192, 1, 768) if "wide" in name else (3, 128, 36, 256)
        dtype = torch.bfloat16 if kind == "half" else torch.float32
        pass_ = name.removesuffix(" wide")
        build = functools.partial(_loss, shape, dtype, pass_ == "forward", pass_ == "backward")
        case = f"{shape} {dtype}"
        yield Sweep("infonce", infonce.TILES, (kind, name), case, f"^{pass_}_kernel", build, _tiles(candidates))


# ---------------------------------------------------------------------------------------------------- attention


def _attend(size: str, dtype: torch.dtype, backward: bool, euclidean: bool) -> Step:
    what = "both" if backward else "forward"
    return attention_steps.step("fusion triton", size, dtype, what, euclidean=euclidean)


_ATTENTION_TILES = {
    "forward": "32 64 2 2, 64 32 2 2, 64 64 4 2, 32 32 1 2, 32 64 1 2, 16 64 1 2, 32 128 2 2, 64 128 4 2, 32 64 2 3",
    "queries": "64 32 2 2, 64 32 4 2, 32 64 2 2, 32 32 1 2, 32 32 2 2, 64 64 4 2, 32 64 1 2, 16 64 1 2, 64 16 2 2",
    "keys": "64 32 2 2, 32 32 1 2, 32 32 2 2, 64 16 1 2, 32 64 2 2, 64 64 4 2, 16 32 1 2, 128 32 2 2, 64 32 1 2",
}


def _attention(tiny: bool) -> Iterator[Sweep]:
    sizes = ("tiny self",) if tiny else ("treesatai self", "pastis self")
    for width, dtype in ((2, torch.bfloat16), (4, torch.float32)):
        for name, candidates in _ATTENTION_TILES.items():
            for size in sizes:
                for euclidean in (True, False):
                    table = attention.EUCLIDEAN_TILES if euclidean else attention.TILES
                    title = "attention, closed form" if euclidean else "attention, looked up"
                    build = functools.partial(_attend, size, dtype, name != "forward", euclidean)
                    what = f"{size} {dtype}", f"^{name}_kernel", build, _tiles(candidates)
                    yield Sweep(title, table, (width, name), *what)


# -------------------------------------------------------------------------------------------------- nearest code


_NEAREST_TILES = _tiles(
    "64 64 4 3, 64 64 4 2, 128 64 8 3, 128 64 4 3, 128 128 8 3, 128 128 4 3, 64 128 4 3, 128 64 8 2, 128 64 4 2, "
    "64 32 4 3, 64 64 2 3, 128 32 4 3"
)


def _nearest(tiny: bool) -> Iterator[Sweep]:
    for dim, shape in ((64, (500_000, 512, 64)), (32, (131_072, 1024, 32))):
        rows, size, _ = (50, 9, 0) if tiny else shape
        for dtype in (torch.bfloat16, torch.float32):
            candidates = tuple(replace(tile, depth=dim) for tile in _NEAREST_TILES)
            build = functools.partial(quantize_steps.look_up, "fusion triton", rows, size, dim, dtype)
            case = f"{rows} x {size} x {dim} {dtype}"
            yield Sweep("nearest", quantize.NEAREST_TILES, (dim,), case, "^nearest_kernel", build, candidates)
