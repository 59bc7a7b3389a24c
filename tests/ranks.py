"""Several gloo processes on one machine, for tests of what is shared between them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _run(rank: int, function: Callable, folder: str, world: int, arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.save(function(rank, *arguments), Path(folder) / f"{rank}.pt")
    # A graph that still refers to the group keeps gloo's threads beyond `destroy_process_group`, and a process that
    # ends with them running is aborted now and then: let go of all of it, on every rank, first.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def results_of_ranks(function: Callable, folder: Path, world: int, *arguments: object) -> list:
    """What ``function(rank, *arguments)`` returns in each of ``world`` processes, which form the default group."""
    mp.spawn(_run, (function, str(folder), world, arguments), nprocs=world)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]
