"""Series from plain files: a CSV with a series a row, or an array (time, variable) in an NPZ."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .files import reading
from .given import numbers
from .opening import open_npz
from .units import LARGEST

__all__ = ["read_series"]

MISSING = -9999.0


def read_series(files: Sequence[str | Path], variable: str | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Series (B, C, T) float32 of all files, shorter ones padded with NaN, and the names of the C variables.

      * ``.csv``: a header, then a row for each series: its name, then its values; an empty field is a missing value.
        One variable, named by the file. Infinite values and -9999, the mark of many data bases for a missing one, are
    refused.
      * ``.npz``: array ``variable`` (time, C), one series a file; names from ``<variable>_vars`` where it exists.

      Raises:
          ValueError: a missing or damaged file or one of another kind, a value that is no number, rows or arrays that
            do not fit; the file is named.
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
    with reading(path), open(path, newline="", encoding="utf-8-sig") as file:
        header, *rows = [*csv.reader(file)] or [[]]
    if not header:
        raise ValueError(f"{path} has no header")
    if len(header) < 2:
        raise ValueError(f"{path}: its header {header[0][:40]!r} is a single field; fields are separated by commas")
    series = []
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"{path}, line {number}: {len(row)} fields, the header has {len(header)}")
        try:
            values = np.array([[float(v) if v.strip() not in ("", "NA", "nan") else np.nan for v in row[1:]]])
            _refuse_marks(values)
            series.append(values)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not series:
        raise ValueError(f"{path} has no series below its header")
    return series, (path.stem,)


def _npz(path: Path, variable: str | None) -> tuple[list[np.ndarray], tuple[str, ...]]:
    with reading(path):
        if not zipfile.is_zipfile(path):  # np.load would take it for a pickle
            path.stat()
            raise OSError("it is no NPZ file")
        try:
            arrays = open_npz(path)
        except ValueError as error:
            raise OSError(str(error)) from error
    with reading(path), arrays:
        if variable is None or variable not in arrays:
            raise ValueError(f"{path} has {', '.join(arrays)}; say which with --variable")
        values = numbers(arrays[variable], f"{path}: {variable}")
        if values.ndim != 2:
            raise ValueError(f"{path}: {variable} must be (time, variable), not {values.shape}")
        try:
            _refuse_marks(values)
        except ValueError as error:
            raise ValueError(f"{path}: {variable}: {error}") from None
        listed = f"{variable}_vars"
        named = arrays[listed].astype(str).tolist() if listed in arrays else range(values.shape[1])
    return [values.T.astype(np.float64)], tuple(map(str, named))


def _refuse_marks(values: np.ndarray) -> None:
    """What stands for a missing value and would be taken for a measured one."""
    wrong = (values == MISSING) | (np.abs(values) >= LARGEST)  # infinite ones too
    if wrong.any():
        raise ValueError(f"{values[wrong][0]:g} is no measured value; leave the field empty (NaN) where one is missing")
