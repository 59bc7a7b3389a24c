"""Series from plain files: a CSV with a series a row, or an array (time, variable) in an NPZ."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["read_series"]


def read_series(files: Sequence[str | Path], variable: str | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Series (B, C, T) float32 of all files, shorter ones padded with NaN, and the names of the C variables.

    * ``.csv``: a header, then a row for each series: its name, then its values; an empty field is a missing value.
      One variable, named by the file.
    * ``.npz``: array ``variable`` (time, C), one series a file; names from ``<variable>_vars`` where it exists.

    Raises:
        ValueError: another kind of file, a value that is no number, rows or arrays that do not fit; the file is named.
        FileNotFoundError: no such file.
    """
    if not files:
        raise ValueError("read_series: no file given")
    series, names = [], None
    for path in map(Path, files):
        if path.suffix == ".csv":
            found, own = _csv(path)
        elif path.suffix == ".npz":
            found, own = _npz(path, variable)
        else:
            raise ValueError(f"{path}: series are read from .csv (a series a row) or .npz (time, variable)")
        if names is not None and len(own) != len(names):
            raise ValueError(f"{path} has {len(own)} variables, {files[0]} has {len(names)}")
        names = names or own
        series += found
    length = max(s.shape[1] for s in series)
    padded = [np.pad(s, ((0, 0), (0, length - s.shape[1])), constant_values=np.nan) for s in series]
    return np.stack(padded).astype(np.float32), names  # type: ignore[return-value]


def _csv(path: Path) -> tuple[list[np.ndarray], tuple[str, ...]]:
    with open(path, newline="") as file:
        header, *rows = [*csv.reader(file)] or [[]]
    if not header:
        raise ValueError(f"{path} has no header")
    series = []
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"{path}, line {number}: {len(row)} fields, the header has {len(header)}")
        try:
            series.append(np.array([[float(v) if v not in ("", "NA", "nan") else np.nan for v in row[1:]]]))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not series:
        raise ValueError(f"{path} has no series below its header")
    return series, (path.stem,)


def _npz(path: Path, variable: str | None) -> tuple[list[np.ndarray], tuple[str, ...]]:
    with np.load(path) as arrays:
        if variable is None or variable not in arrays:
            raise ValueError(f"{path} has {', '.join(arrays)}; say which with --variable")
        values = arrays[variable]
        if values.ndim != 2:
            raise ValueError(f"{path}: {variable} must be (time, variable), not {values.shape}")
        listed = f"{variable}_vars"
        named = arrays[listed].astype(str).tolist() if listed in arrays else range(values.shape[1])
    return [values.T.astype(np.float64)], tuple(map(str, named))
