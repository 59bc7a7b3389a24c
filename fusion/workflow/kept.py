"""What is kept of a group of scores beside its numbers: the sums over test samples that they were made of, so that the
runs of several seeds can be judged together afterwards.

``sums.npz`` lies beside ``metrics.json``; of each row it has an array (draws of labels, blocks of ground, classes, 3).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data import TileDataset
from ..evaluation.intervals import added_by_block, sample_sums
from ..evaluation.seed_intervals import Sums
from ..training.files import write_atomically
from .scores import Named, interval_blocks, sums_of
from .state import State

__all__ = ["Kept", "KeptRow", "keep", "keep_profiles", "keep_sums", "read_kept", "write_kept"]

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
    """Keeps the sums of all rows of the group ``key`` (``a.b``: the group ``b`` in ``a``); rows that are there already
    stay.

    Args:
        named: the rows, scored on ``tiles``.
    """
    blocks, task = interval_blocks(tiles), str(tiles.task)
    known = np.array(tiles.names) if blocks is None else blocks
    rows = {
        name: KeptRow(
            _by_block([sums_of(row, task, len(tiles.classes)) for row in draws], known),
            draws[0].modalities,
            draws[0].fraction,
        )
        for name, draws in named.items()
    }
    before = state.kept[key].rows if key in state.kept else {}
    state.kept[key] = Kept(task, blocks is not None, {**before, **rows})


def keep_sums(
    state: State,
    key: str,
    task: str,
    sums: Mapping[str, np.ndarray],
    blocks: np.ndarray,
    kinds: Mapping[str, str] | None = None,
) -> None:
    """Keeps the sums of rows that were scored by other means than tiles with labels.

    Args:
        key: of the group; ``a.b`` is the group ``b`` in the group ``a``.
        sums: by row, (N, K, 3) or (N, T, 5), see :func:`fusion.evaluation.intervals.sample_sums`.
        blocks: (N,) of ground.
        kinds: by row; a row is compared with the controls of its kind. By default all are of one.
    """
    rows = {n: KeptRow(_by_block([own], blocks), ((kinds or {}).get(n, ""),), 1.0) for n, own in sums.items()}
    state.kept[key] = Kept(task, True, rows)


def keep_profiles(
    state: State, key: str, truth: np.ndarray, guesses: Mapping[str, np.ndarray], blocks: np.ndarray | None = None
) -> None:
    """Keeps the sums of series of N places that were predicted by several methods; each observed value is a sample.

    Args:
        truth: (N, C, T), NaN where not observed; ``guesses``: likewise, by method.
        blocks: (N,) of ground; None: each place is one.
    """
    seen = np.isfinite(truth)
    of_place = np.arange(len(truth)) if blocks is None else blocks
    sums = {name: sample_sums("regression", truth[seen], guess[seen], 1) for name, guess in guesses.items()}
    keep_sums(state, key, "regression", sums, of_place[np.nonzero(seen)[0]])


def _by_block(draws: Sequence[np.ndarray], blocks: np.ndarray) -> Sums:
    """Of sums (N, ...) of N samples in each draw of labels."""
    names, number = np.unique(blocks, return_inverse=True)
    return Sums(np.stack([added_by_block(own, number.ravel(), len(names)) for own in draws]), names.astype(str))


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
