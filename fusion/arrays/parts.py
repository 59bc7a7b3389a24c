"""Parts of a result as tasks of Dask, on whatever scheduler the user has."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..embed.damage import listed
from .given import Given
from .jobs import Job
from .tiles import Part

__all__ = ["computed", "edges", "lazily_computed"]


def computed(job: Job, given: Mapping[str, Given], block: int | None) -> np.ndarray:
    """(*leading, rows, columns) of arrays that are not of Dask, part by part where ``block`` (rows, columns) says so.

    Warns of what cannot be read.
    """
    damaged = dict[str, str]()
    if block is None:
        whole = Part(slice(0, job.shape[0]), slice(0, job.shape[1]))
        out = job.compute(job.needs(given, whole), whole, damaged)
    else:
        out = np.empty((*job.leading, *job.shape), dtype=np.float32)
        for rows in edges(job.shape[0], block):
            for columns in edges(job.shape[1], block):
                part = Part(rows, columns)
                out[..., rows, columns] = job.compute(job.needs(given, part), part, damaged)
    _warn(damaged)
    return out


def lazily_computed(job: Job, given: Mapping[str, Given], block: int) -> Any:
    """The same as an array of Dask: a task for each part, which depends on the chunks that it needs and no others.

    A part overlaps its neighbours by what the model needs. Sensors of several resolutions have no chunks in common, so
    that :func:`dask.array.map_overlap` cannot be had.
    """
    import dask
    from dask import array

    sent = dask.delayed(job, traverse=False)
    run = dask.delayed(_compute, pure=True)
    rows_of = []
    for rows in edges(job.shape[0], block):
        row = []
        for columns in edges(job.shape[1], block):
            part = Part(rows, columns)
            needed = job.needs(given, part)
            bare = {name: replace(one, dataset=None) for name, one in needed.items()}  # type: ignore[arg-type]
            task = run(sent, {name: one.dataset for name, one in needed.items()}, bare, part)
            row.append(array.from_delayed(task, (*job.leading, *part.shape), dtype=np.float32))
        rows_of.append(row)
    return array.block(rows_of)


def _compute(job: Job, datasets: Mapping[str, Any], bare: Mapping[str, Given], part: Part) -> np.ndarray:
    damaged = dict[str, str]()
    found = job.compute({name: replace(one, dataset=datasets[name]) for name, one in bare.items()}, part, damaged)
    _warn(damaged)
    return found


def _warn(damaged: Mapping[str, str]) -> None:
    if damaged:
        warnings.warn(listed(damaged, "tiles or parts of the result").strip(), stacklevel=5)


def edges(length: int, block: int) -> list[slice]:
    """Parts of ``block`` along one side; the last one may be shorter."""
    return [slice(first, min(first + block, length)) for first in range(0, length, block)]
