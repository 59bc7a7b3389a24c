"""What is kept of a group of scores beside its numbers: the sums over test samples that they were made of, so that the
runs of several seeds can be judged together afterwards.

``sums.npz`` lies beside ``metrics.json``; of each row it has an array (draws of labels, blocks of ground, classes, 3).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data import TileDataset
from ..evaluation.seed_intervals import Sums
from ..training.files import write_atomically
from .scores import Named, interval_blocks, sums_of
from .state import State

__all__ = ["Kept", "KeptRow", "keep", "read_kept", "write_kept"]

_FILE = "sums.npz"


@dataclass(frozen=True)
class KeptRow:
    """One row: its sums, and what it must share with a control: the modalities and the fraction of the labels."""

    sums: Sums
    modalities: tuple[str, ...]
    fraction: float


@dataclass(frozen=True)
class Kept:
    """A group of scores.

    Attributes:
        task: of the data.
        known: whether blocks of ground are known; else each tile is one.
        rows: by name.
    """

    task: str
    known: bool
    rows: Mapping[str, KeptRow]


def keep(state: State, key: str, named: Named, tiles: TileDataset) -> None:
    """Keeps the sums of all rows of the group ``key``; rows that are there already stay.

    Args:
        named: the rows, scored on ``tiles``.
    """
    blocks, task = interval_blocks(tiles), str(tiles.task)
    names, number = np.unique(np.array(tiles.names) if blocks is None else blocks, return_inverse=True)
    rows = {}
    for name, draws in named.items():
        sums = []
        for row in draws:
            samples = sums_of(row, task, len(tiles.classes))
            total = np.zeros((len(names), *samples.shape[1:]))
            np.add.at(total, number.ravel(), samples)
            sums.append(total)
        rows[name] = KeptRow(Sums(np.stack(sums), names.astype(str)), draws[0].modalities, draws[0].fraction)
    before = state.kept[key].rows if key in state.kept else {}
    state.kept[key] = Kept(task, blocks is not None, {**before, **rows})


def write_kept(kept: Mapping[str, Kept], folder: Path) -> None:
    """Writes ``sums.npz``; nothing where nothing was kept."""
    if not kept:
        return
    arrays: dict[str, np.ndarray] = {}
    told: dict[str, Any] = {}
    for key, group in kept.items():
        told[key] = {"task": group.task, "known": group.known, "rows": {}}
        for name, row in group.rows.items():
            number = len(arrays) // 2
            whole = group.task != "regression"  # counts
            arrays[f"sums{number}"] = row.sums.sums.astype(np.int64) if whole else row.sums.sums
            arrays[f"blocks{number}"] = row.sums.blocks
            told[key]["rows"][name] = {
                "number": number,
                "modalities": list(row.modalities),
                "fraction": row.fraction,
            }
    file = io.BytesIO()
    np.savez_compressed(file, told=np.array(json.dumps(told)), **arrays)  # type: ignore[arg-type]
    write_atomically(folder / _FILE, file.getvalue())


def read_kept(folder: Path) -> dict[str, Kept]:
    """What :func:`write_kept` wrote; empty where there is no such file."""
    path = folder / _FILE
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        told = json.loads(str(file["told"]))
        return {
            key: Kept(
                group["task"],
                group["known"],
                {
                    name: KeptRow(
                        Sums(file[f"sums{row['number']}"].astype(np.float64), file[f"blocks{row['number']}"]),
                        tuple(row["modalities"]),
                        row["fraction"],
                    )
                    for name, row in group["rows"].items()
                },
            )
            for key, group in told.items()
        }
