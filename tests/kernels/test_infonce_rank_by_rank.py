"""Patch InfoNCE whose ranks pass their tokens on: as exact as in one process, in every dtype and backend."""

from __future__ import annotations

import ctypes
import re
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fusion.kernels import patch_info_nce, use_backend
from fusion.kernels.backends import unavailable
from fusion.kernels.infonce import distributed

from ..ranks import results_of_ranks
from .infonce_cases import CASES, arguments, compare

WORLD = 3
KINDS = [("cpp", torch.float32), ("cpp", torch.bfloat16), ("eager", torch.float32), ("eager", torch.float16)]
RUNS = [(name, *kind) for name, kind in product(CASES, KINDS) if unavailable(kind[0]) is None]


def tiles_of(rank: int, tiles: int) -> slice:
    """Of 9 tiles 5, 2 and 2; of one tile 1, 0 and 0."""
    ends = [0, (tiles + 1) // 2, tiles - tiles // 4, tiles]
    return slice(ends[rank], ends[rank + 1])


def results_of_rank(rank: int, name: str, backend: str, dtype: torch.dtype) -> list[Tensor]:
    """Loss, accuracy and gradients, as ``infonce_cases.results`` has them, of this rank's tiles."""
    tokens, temperature, options = arguments(name, dtype, "cpu", small=True)
    mine = tiles_of(rank, tokens.shape[1])
    weight = torch.tensor(0.5)  # linspace's of one number
    if options.get("reduction") == "none":
        weight = torch.linspace(0.5, 1.5, tokens[..., 0].numel()).reshape(tokens.shape[:3])[:, mine]
    if "valid" in options:
        options["valid"] = options["valid"][:, mine]
    own = tokens[:, mine].detach().requires_grad_()
    temperature.requires_grad_()
    with use_backend(backend):
        loss, accuracy = patch_info_nce(
            own, temperature=temperature, return_accuracy=True, group=dist.group.WORLD, **options
        )
        (loss * weight).sum().backward()
    return [loss.detach(), accuracy, own.grad, temperature.grad]


def joined(name: str, ranks: list[list[Tensor]]) -> list[Tensor]:
    """Those of one process with all tiles."""
    losses, accuracies, gradients, shares = zip(*ranks, strict=True)
    by_row = CASES[name].options.get("reduction") == "none"
    for all_of_them in (accuracies,) if by_row else (accuracies, losses):
        assert all(torch.equal(each.nan_to_num(-7.0), all_of_them[0].nan_to_num(-7.0)) for each in all_of_them)
    return [torch.cat(losses, 1) if by_row else losses[0], accuracies[0], torch.cat(gradients, 1), sum(shares)]


def _rank(rank: int) -> list[list[Tensor]]:
    distributed.GATHERED = 0
    return [results_of_rank(rank, *run) for run in RUNS for _ in range(2)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list[list[Tensor]]]:
    return results_of_ranks(_rank, tmp_path_factory.mktemp("ranks"), WORLD)


@pytest.mark.parametrize(("name", "backend", "dtype"), RUNS, ids=str)
def test_errs_at_most_twice_as_much_as_plain_pytorch(
    ranks: list[list[list[Tensor]]], name: str, backend: str, dtype: torch.dtype
) -> None:
    at = 2 * RUNS.index((name, backend, dtype))
    for results in ranks:
        for first, again in zip(results[at], results[at + 1], strict=True):
            assert torch.equal(first.nan_to_num(-7.0), again.nan_to_num(-7.0)), "other bits the second time"
    compare(name, *arguments(name, dtype, "cpu", small=True), joined(name, [results[at] for results in ranks]))


def _resident(field: str) -> float:
    return int(re.search(field + r":\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def _peak(rank: int, gathered: int) -> float:
    """MiB that loss and gradient of 8 MiB of own tokens take at most."""
    distributed.GATHERED = gathered
    ctypes.CDLL(None).mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD: what is let go of is let go of at once
    small, tokens = (torch.randn(2, 8, 16, dim, requires_grad=True) for dim in (16, 8192))
    patch_info_nce(small, group=dist.group.WORLD).backward()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    patch_info_nce(tokens, group=dist.group.WORLD).backward()
    return _resident("VmHWM") - before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_ranks(tmp_path: Path) -> None:
    """Which it does by 8 MiB a rank and more where tokens are gathered."""
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    three, six = (max(results_of_ranks(_peak, folder, n, 0)) for folder, n in zip(folders, (3, 6), strict=False))
    gathered = min(results_of_ranks(_peak, folders[2], 6, distributed.GATHERED))
    assert six < three + 4
    assert gathered > six + 16
