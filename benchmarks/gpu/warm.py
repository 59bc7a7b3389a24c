"""Compiles beforehand, in several processes and while tests run, what timing would wait for.

torch.compile's and Triton's caches keep it. Whatever fails here fails again, and is recorded, where it is timed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from .cases import LATE, jobs
from .child import Child
from .earlier import long_before

WORKERS = 6
SHARE = 0.1  # of the GPU's memory for each: tests need the rest


def _compile(key: str) -> str:
    torch.cuda.set_per_process_memory_fraction(SHARE)
    with contextlib.suppress(Exception):
        job = next(job for job in jobs(False) if job.key == key)
        job.build()()
    return key


def main() -> None:
    child = Child.of_command_line()
    every = (job for job in jobs(False) if not long_before(job))
    wanted = (job for job in every if job.op != "training_step")  # that one takes the memory of many
    keys = [job.key for job in wanted if job.contender in LATE or job.contender.startswith("fusion")]
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_compile, key) for key in keys]):
            child.rows.add(compiled=done.result())


if __name__ == "__main__":
    main()
