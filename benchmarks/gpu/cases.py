"""What is timed, most important first: every (case, contender) is one job."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..contenders import attention, infonce, omnisat, quantize
from ..contenders.common import Step, installed

__all__ = ["Job", "jobs"]

BF16, FP32 = torch.bfloat16, torch.float32
LARGEST_MATRIX = 20 << 30  # bytes of an N x K or N x N matrix beyond which a peer that holds it is left out
LATE = ("compile", "flex")  # compiled for seconds: after everything else of the same rank


@dataclass(frozen=True)
class Job:
    """One contender of one case. ``operations`` and ``moved`` (bytes) are the least the case needs."""

    op: str
    case: dict[str, Any]
    contender: str
    rank: float  # lower: earlier
    build: Callable[[], Step]
    operations: float = 0.0
    moved: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.op} {sorted(self.case.items())} {self.contender}"


def jobs(tiny: bool) -> list[Job]:
    """All, in the order in which they should run."""
    made = [job for source in (_infonce, _attention, _quantize, _omnisat) for job in source(tiny)]
    return sorted(made, key=lambda job: job.rank + 0.5 * (job.contender in LATE))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _width(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits // 8


# Shape (M, B, P, D), what is excluded, rank.
LOSSES = [
    ((3, 128, 36, 256), "tile", 0),
    ((3, 256, 36, 256), "tile", 2),
    ((2, 512, 1, 768), "modality", 3),
    ((2, 2048, 1, 512), "modality", 3),
    ((2, 8192, 1, 768), "modality", 3),
    ((3, 4, 1024, 256), "tile", 4),
    ((2, 64, 100, 256), "tile", 5),
    *(((2, batch, 1, dim), "modality", 6) for batch in (512, 1024, 2048, 4096, 8192) for dim in (512, 768)),
]


def _infonce(tiny: bool) -> Iterator[Job]:
    losses = [((3, 2, 5, 16), "tile", 0), ((2, 9, 1, 16), "modality", 2)] if tiny else dict.fromkeys(LOSSES)
    seen = set()
    for shape, exclude, rank in losses:
        if (shape, exclude) in seen:
            continue
        seen.add((shape, exclude))
        tokens = shape[0] * shape[1] * shape[2]
        for dtype in (BF16, FP32):
            for what in ("both", "forward", "backward"):
                peers = {"both": ("plain", "compile"), "forward": ("plain",), "backward": ()}[what]
                if exclude == "tile" and what == "both":
                    peers = (*peers, "chunked")
                if 4 * tokens**2 * 4 > LARGEST_MATRIX:
                    peers = tuple(p for p in peers if p == "chunked")
                case = {"shape": list(shape), "exclude": exclude, "dtype": _name(dtype), "pass": what}
                for contender in ("fusion", *peers):
                    yield Job(
                        "patch_info_nce",
                        case,
                        contender,
                        rank + (0 if what == "both" else 0.4),
                        functools.partial(infonce.step, contender, shape, dtype, what, exclude),
                        infonce.operations(shape, what, exclude),
                        tokens * shape[3] * _width(dtype),
                    )


# Size, dtype, masked, dropout, rank.
ATTENTIONS = [
    ("treesatai self", BF16, False, 0.0, 0),
    ("pastis self", BF16, False, 0.0, 0),
    ("pastis cross", BF16, False, 0.0, 2),
    ("treesatai cross", BF16, False, 0.0, 2),
    ("treesatai self", FP32, False, 0.0, 2),
    ("pastis self", FP32, False, 0.0, 3),
    ("treesatai self", BF16, True, 0.2, 3),
    ("pastis self", BF16, True, 0.2, 4),
    ("flair self", BF16, False, 0.0, 4),
    ("flair self", FP32, False, 0.0, 5),
    ("treesatai self", BF16, True, 0.0, 5),
    ("treesatai cross", BF16, True, 0.2, 5),
    ("pastis cross", FP32, False, 0.0, 6),
    ("treesatai cross", FP32, False, 0.0, 6),
]


def _attention(tiny: bool) -> Iterator[Job]:
    tiny_cases = [("tiny self", BF16, False, 0.0, 0), ("tiny cross", FP32, True, 0.2, 2)]
    for size, dtype, masked, dropout, rank in tiny_cases if tiny else ATTENTIONS:
        batch, queries, keys = attention.lengths(size)
        shape = [batch, attention.heads(size), queries, keys, attention.DIM]
        for what in ("both", "forward", "backward"):
            peers = [p for p in attention.PEERS if not (masked and p in ("flex", "sdpa without bias"))]
            if what != "both":
                peers = [p for p in peers if p == "sdpa without bias" or (p == "sdpa with mask" and what == "forward")]
            options = {"masked": masked, "dropout": dropout}
            case = {"size": size, "shape": shape, **options, "dtype": _name(dtype)}
            for contender in ("fusion", *peers):
                yield Job(
                    "relative_attention",
                    case | {"pass": what},
                    contender,
                    rank + (0 if what == "both" else 0.4),
                    functools.partial(attention.step, contender, size, dtype, what, **options),
                    attention.operations(size, what),
                    batch * attention.heads(size) * attention.DIM * _width(dtype) * _lengths_moved(what, queries, keys),
                )


def _lengths_moved(what: str, queries: int, keys: int) -> int:
    """Tokens read and written: forward q, k, v, o; backward those, the gradient, and three gradients."""
    forward, backward = 2 * queries + 2 * keys, 4 * queries + 4 * keys
    return {"forward": forward, "backward": backward, "both": forward + backward}[what]


# N, K, D, dtype, rank.
LOOK_UPS = [
    (500_000, 512, 64, BF16, 0),
    (500_000, 512, 64, FP32, 0),
    (131_072, 8192, 64, BF16, 2),
    (131_072, 8192, 64, FP32, 3),
    (131_072, 1024, 32, BF16, 3),
    (131_072, 1024, 32, FP32, 3),
    (1_000_000, 16_384, 32, BF16, 4),
    (1_000_000, 16_384, 32, FP32, 5),
]


def _quantize(tiny: bool) -> Iterator[Job]:
    for rows, size, dim, dtype, rank in [(50, 9, 8, FP32, 0)] if tiny else LOOK_UPS:
        peers = ("plain", "addmm", "compile", "tiled", *installed("vqp"))
        if rows * size * 4 > LARGEST_MATRIX:
            peers = ("addmm", "tiled")
        case = {"what": "look-up", "N": rows, "K": size, "D": dim, "dtype": _name(dtype)}
        work = {"operations": 2 * rows * size * dim, "moved": rows * (dim * _width(dtype) + 8)}
        for contender in ("fusion", *peers):
            build = functools.partial(quantize.look_up, contender, rows, size, dim, dtype)
            yield Job("quantize", case, contender, rank, build, **work)
    native = () if tiny else ("fusion cuda",)
    count = 1000 if tiny else 100_000_000
    for uniform in (True, False):
        case = {"what": f"{'equal' if uniform else 'unequal'} bins", "values": count, "bins": 256, "dtype": "float32"}
        for contender in ("fusion", *native, "bucketize", "copy"):
            build = functools.partial(quantize.bins, contender, count, uniform)
            yield Job("quantize", case, contender, 1, build, moved=12 * count)
    for contender in ("fusion", *native, "plain"):
        case = {"what": "decode", "values": count, "bins": 256, "dtype": "float32"}
        yield Job(
            "quantize", case, contender, 3, functools.partial(quantize.decode, contender, count), moved=12 * count
        )
    count = 50 if tiny else 10_000_000
    for contender in ("fusion", *native, "plain", "compile", *installed("vqp")):
        case = {"what": "finite scalars", "N": count, "levels": list(quantize.LEVELS), "dtype": "float32"}
        build = functools.partial(quantize.scalars, contender, count)
        yield Job("quantize", case, contender, 3, build, moved=count * (5 * 8 + 8))
    shape = (50, 9, 8) if tiny else (131_072, 1024, 32)
    names = dict(zip("NKD", shape, strict=True)) | {"dtype": "float32"}
    for contender in ("fusion", *native, "plain"):
        build = functools.partial(quantize.statistics, contender, *shape)
        moved = shape[0] * (4 * shape[2] + 8)
        yield Job("quantize", {"what": "statistics", **names}, contender, 3, build, moved=moved)
    for contender in ("fusion", "plain", "compile", *installed("vqp")):
        build = functools.partial(quantize.training, contender, *shape)
        yield Job("quantize", {"what": "training step", **names}, contender, 2, build)


def _omnisat(tiny: bool) -> Iterator[Job]:
    sizes = [("tiny", 2, 1)] if tiny else [("treesatai", 128, 1), ("pastis-hd", 4, 2.5)]
    for data, tiles, rank in sizes:
        dates = 3 if tiny else omnisat.DATES
        for dtype in (BF16, FP32):
            for which in ("fusion", "plain"):
                case = {"data": data, "tiles": tiles, "dates": dates, "part": "whole step", "dtype": _name(dtype)}
                build = functools.partial(omnisat.step, which, data, tiles, "whole step", dtype, dates)
                yield Job("training_step", case, which, rank, build)
