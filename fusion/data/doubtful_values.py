"""Values that can hardly be measured ones: nodata that nobody declared, bands that are constant or twice the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .modality import Modality
from .units import HUGE

__all__ = ["doubtful_values", "undeclared_nodata"]

# What files put where nothing was measured. NetCDF's fill values, the largest float32, the ends of whole numbers.
_MARKS = (-9999.0, -999.0, -99999.0, -32768.0, 32767.0, 65535.0, -2147483648.0, 1e20, -1e20)
_SHARE = 1e-4  # of a known mark
_UNKNOWN_SHARE = 0.01  # of any other value that stands far apart and is always the same
_NO_ZERO = ("reflectance x 10000", "reflectance", "dB", "linear", "K")  # all bands at once are never exactly 0
_ZERO_SHARE, _BLACK_SHARE = 0.005, 0.02  # of such pixels, and of black ones in an 8 bit picture
_LEVELS = 16  # different values; of fewer, which may be codes of classes, any may stand apart
_COMPARED = 5000  # values of every pair of bands
_ENOUGH = 100  # values, to call a band constant


def doubtful_values(values: np.ndarray, modality: Modality) -> list[str]:
    """What should be known of the values of a modality, in sentences.

    Args:
        values: (C, n) of some pixels and dates of all tiles, NaN where not observed.
    """
    left = values.astype(np.float64)  # (C, n)
    told = undeclared_nodata(left, modality.name, modality.bands)
    return told + _zeros(left, modality) + _constant(left, modality) + _same(left, modality)


def undeclared_nodata(values: np.ndarray, name: str, bands: Sequence[str]) -> list[str]:
    """A sentence for every value that looks like an undeclared nodata value; of ``values`` (C, n) it becomes NaN."""
    marks: dict[float, list[tuple[str, float]]] = {}
    for band, row in zip(bands, values, strict=True):
        for mark, share in _marks(row):
            marks.setdefault(mark, []).append((band, share))
            row[row == mark] = np.nan
    return [_undeclared(name, mark, found) for mark, found in marks.items()]


def _undeclared(name: str, mark: float, found: list[tuple[str, float]]) -> str:
    bands, share = ", ".join(band for band, _ in found[:4]), max(share for _, share in found)
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return (
        f"{name}: {_percent(share)} of the values of {bands}{more} are exactly {mark:.9g}, far from all "
        f"others: an undeclared nodata value, or saturation; say nodata: {mark:.9g} (in Python: NaN)"
    )


def _marks(row: np.ndarray) -> list[tuple[float, float]]:
    """Values (and their shares) that stand apart from the rest of a band and are always the same."""
    found: list[tuple[float, float]] = []
    row = row[np.isfinite(row)]
    count = len(row)
    for _ in range(4):
        ends = () if not len(row) else (float(row.min()), float(row.max()))
        mark = next((end for end in ends if _stands_apart(row, end, count)), None)
        if mark is None:
            break
        found.append((mark, float((row == mark).sum() / count)))
        row = row[row != mark]
    return found


def _stands_apart(row: np.ndarray, value: float, count: int) -> bool:
    if abs(value) >= HUGE:
        return True
    same = row == value
    if same.sum() / count < (_SHARE if value in _MARKS else _UNKNOWN_SHARE) or same.all():
        return False  # or a constant band, told as such
    rest = row[~same]
    low, high = np.percentile(rest, [1, 99])
    gap, spread = (rest.min() - value if value < rest.min() else value - rest.max()), high - low
    if value in _MARKS:
        return bool(gap > 0.1 * spread)
    return bool(value != 0 and gap > 3 * spread > 0 and len(np.unique(rest)) >= _LEVELS)


def _zeros(values: np.ndarray, modality: Modality) -> list[str]:
    picture = modality.unit == "8 bit" and modality.channels > 2
    if not picture and modality.unit not in _NO_ZERO:
        return []
    seen = np.isfinite(values).all(axis=0)
    zero = (values[:, seen] == 0).all(axis=0)
    share = float(zero.mean()) if zero.size else 0.0
    if not (_BLACK_SHARE if picture else _ZERO_SHARE) <= share < 1:
        return []
    return [
        f"{modality.name}: {_percent(share)} of the pixels are exactly 0 in every band, which {modality.unit} hardly "
        "is: an undeclared nodata value; say nodata: 0 (in Python: NaN)"
    ]


def _constant(values: np.ndarray, modality: Modality) -> list[str]:
    if np.isfinite(values).sum(axis=1).min() < _ENOUGH:
        return []
    low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
    constant = [f"{band} ({a:.6g})" for band, a, b in zip(modality.bands, low, high, strict=True) if a == b]
    if not constant:
        return []
    return [f"{modality.name}: the same value everywhere in {', '.join(constant)}: nothing can be learned from it"]


def _same(values: np.ndarray, modality: Modality) -> list[str]:
    """Pairs of bands that are equal wherever both were observed."""
    told = []
    values = values[:, :: max(1, values.shape[1] // _COMPARED)]
    for first in range(modality.channels):
        for second in range(first + 1, modality.channels):
            both = np.isfinite(values[first]) & np.isfinite(values[second])
            a, b = values[first, both], values[second, both]
            if len(a) >= _ENOUGH and np.array_equal(a, b) and np.ptp(a) > 0:
                told.append(f"{modality.bands[first]} = {modality.bands[second]}")
    if not told:
        return []
    return [
        f"{modality.name}: bands with the same values everywhere ({', '.join(told)}): one was read twice; check bands"
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else f"{100 * share:.2g} %"
