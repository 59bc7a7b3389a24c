"""Patch InfoNCE over several processes: time, memory and what travels, by their number.

    python benchmarks/ranks.py [--ranks 2 4 8] [--save]

Every rank has the tokens of 16 tiles (3 sensors, 36 patches, 256 features, float32, 1.7 MiB) and one thread; forward
and backward pass, the median of five. Memory is a rank's largest resident memory beyond its tokens. Bytes are what the
loopback device carried, over the ranks: what each sent. Contenders:

* gathered: every rank holds all tokens, as the op does up to ``GATHERED`` bytes;
* rank by rank: tokens are passed on, as it does beyond;
* one after the other: the same, but nothing is computed while tokens travel;
* plain: ``all_gather`` with a gradient and the formula with local rows, as training scripts have it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.harness import keep, status  # noqa: E402
from fusion.kernels import patch_info_nce  # noqa: E402
from fusion.kernels.infonce import distributed, rank_by_rank  # noqa: E402

SHAPE = 3, 16, 36, 256
TEMPERATURE = 0.1
CONTENDERS = "gathered", "rank by rank", "one after the other", "plain"
RUNS = 5
_MMAP_THRESHOLD = -3  # of mallopt


def plain(tokens: Tensor) -> Tensor:
    """Eq. 3 with the rows of local tokens (M, B, P, D); tiles are numbered through all ranks."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    modalities, tiles, patches, _ = tokens.shape
    f = F.normalize(tokens, dim=-1)
    joined = torch.cat(all_gather(f), 1)  # (M, R B, P, D)
    similar = torch.einsum("mbpd,ncqd->mbpncq", f, joined) / TEMPERATURE
    tile = torch.arange(tiles) + rank * tiles
    modality = torch.arange(modalities)
    same_tile = tile[:, None] == torch.arange(ranks * tiles)  # (B, R B)
    same_modality = modality[:, None] == modality  # (M, M)
    here = same_tile[None, :, None, None, :, None]
    excluded = here & same_modality[:, None, None, :, None, None]
    positive = here & ~same_modality[:, None, None, :, None, None] & torch.eye(patches, dtype=bool)[:, None, None]
    rows = modalities * tiles * patches
    z = similar.masked_fill(excluded, -torch.inf).reshape(rows, -1).logsumexp(1)
    y = similar.masked_fill(~positive, -torch.inf).reshape(rows, -1).logsumexp(1)
    return (z - y).sum() / (rows * ranks)  # this rank's share of the mean


def one_after_the_other(*args: Any) -> Iterator[tuple[Tensor, ...]]:
    """Tokens as they are passed on, the next of which are here before the caller gets any."""
    held = list(_passed_on(*args))
    yield from held


_passed_on = rank_by_rank._passed_on


def step(contender: str, tokens: Tensor) -> Tensor:
    """Forward and backward pass; the rank's share of the loss."""
    if contender == "plain":
        loss = plain(tokens)
    else:
        distributed.GATHERED = 1 << 60 if contender == "gathered" else 0
        rank_by_rank._passed_on = one_after_the_other if contender == "one after the other" else _passed_on
        loss = patch_info_nce(tokens, temperature=TEMPERATURE, group=dist.group.WORLD) / dist.get_world_size()
    loss.backward()
    return loss.detach()


def carried() -> int:
    """Bytes that the loopback device has sent."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def measured(rank: int, ranks: int, contender: str, folder: str) -> None:
    """Writes a rank's numbers into ``folder``."""
    warnings.filterwarnings("ignore", r"torch\.distributed\.nn\.functional\.all_gather")  # scripts have it
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 20)  # what is let go of is let go of at once
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    torch.manual_seed(rank)
    tokens = torch.randn(*SHAPE, requires_grad=True)
    step(contender, torch.randn(2, 2, 4, 8, requires_grad=True))  # compiles, connects
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    loss = step(contender, tokens)
    peak = (status("VmHWM") - before) / (1 << 20)
    dist.all_reduce(loss)
    dist.barrier()
    sent = carried()
    seconds = []
    for _ in range(RUNS):
        dist.barrier()
        start = time.perf_counter()
        step(contender, tokens)
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    sent = (carried() - sent) / RUNS / ranks
    row = {"loss": loss.item(), "MiB": peak, "seconds": statistics.median(seconds), "MiB sent": sent / (1 << 20)}
    Path(folder, f"{rank}.json").write_text(json.dumps(row))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    rows = []
    for ranks in options.ranks:
        for contender in CONTENDERS:
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(measured, (ranks, contender, folder), nprocs=ranks)
                of_ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
            row = {name: max(each[name] for each in of_ranks) for name in of_ranks[0]}
            rows.append({"ranks": ranks, "contender": contender} | row)
            print(
                ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in rows[-1].items()), flush=True
            )
    if options.save:
        print(keep("ranks", shape=SHAPE, threads=1, rows=rows))


if __name__ == "__main__":
    main()
