"""Compiles beforehand, in several processes and while tests run, what timing would wait for.

torch.compile's and Triton's caches keep it. Whatever fails here fails again, and is recorded, where it is timed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed

from .cases import LATE, jobs
from .child import Child

WORKERS = 6


def _compile(key: str) -> str:
    with contextlib.suppress(Exception):
        job = next(job for job in jobs(False) if job.key == key)
        job.build()()
    return key


def main() -> None:
    child = Child.of_command_line()
    keys = [job.key for job in jobs(False) if job.contender in LATE or job.contender.startswith("fusion")]
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_compile, key) for key in keys]):
            child.rows.add(compiled=done.result())


if __name__ == "__main__":
    main()
