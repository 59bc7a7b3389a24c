"""What a range of values looks like, and whether it can be what it is said to be."""

from __future__ import annotations

import numpy as np

from .modality import Modality

__all__ = ["HUGE", "LARGEST", "check_range", "looks_like", "readable", "require_no_fill"]

LARGEST = 1e30  # the fill values of NetCDF (9.97e36), of rasters (3.4e38) and of models (1e30) are no smaller
HUGE = 1e19  # no quantity of a tile is as large; the fill values of NetCDF (9.97e36) and of float32 rasters are

_FACTOR = 4.0  # between what a dark or bright place does to every band at once and a slip of ten
_RADIOMETRIC = ("", "reflectance x 10000", "reflectance", "linear", "8 bit")  # elevation may well be ten times as high
_DULL = 20  # median of every band of an 8 bit picture; over water some bands of reflectance x 10000 are darker

# What values look like -> what was wanted -> the fix.
_FIXES = {
    ("0..1", "reflectance x 10000"): "multiply by 10000 (in a cube description: scale: 10000)",
    ("0..1", "dB"): "convert with 10 log10(value) (in a cube description: decibels: 10)",
    ("dB", "linear"): "convert with 10 ** (value / 10), or say that the unit is dB",
    ("reflectance x 10000", "reflectance"): "divide by 10000 (in a cube description: scale: 0.0001)",
    ("reflectance x 10000", "8 bit"): "the image is not 8 bit; say unit: reflectance x 10000, or rescale it to 0..255",
    ("8 bit", "reflectance x 10000"): "take the reflectance product, not the 8 bit picture of it",
    ("8 bit", "reflectance"): "take the reflectance product, not the 8 bit picture of it",
    ("dB x 100", "dB"): "multiply by 0.01 (in a cube description: scale: 0.01)",
}


def looks_like(values: np.ndarray) -> str:
    """A guess from finite values: ``"reflectance x 10000"``, ``"0..1"`` (reflectance or linear backscatter),
    ``"8 bit"``, ``"dB"``, ``"dB x 100"``, ``"kelvin"``, or ``"unknown"``."""
    if not values.size:
        return "nothing observed"
    low, middle, high = np.percentile(values, [1, 50, 99])
    if middle < 0:
        if low > -70 and high < 25:
            return "dB"
        return "dB x 100" if low > -7000 and high < 2500 else "unknown"
    if low < 0:
        return "unknown"
    if high <= 2:
        return "0..1"
    if low > 180 and high < 350:
        return "kelvin"
    if values.max() <= 255 and np.array_equal(values, np.round(values)):
        return "8 bit"
    return "reflectance x 10000" if 300 < high < 40_000 else "unknown"


def check_range(values: np.ndarray, modality: Modality) -> None:
    """
    Args:
        values: (C, n) finite observed values of the modality.

    Raises:
        ValueError: the values cannot be in the modality's unit, or are a factor of ten from its statistics. The message
            says what they look like and how to repair it.
    """
    if not values.size:
        return
    seen = looks_like(values)
    low, high = np.percentile(values, [1, 99])
    wanted = modality.unit
    picture = seen == "8 bit" and np.median(values, axis=1).min() > _DULL
    wrong = {
        "reflectance x 10000": high < 100 or high > 60_000 or picture,
        "reflectance": high > 3,
        "dB": np.median(values) > 20 or low < -100 or (values.min() >= 0 and high <= 2),
        "linear": low < 0 or high > 100,
        "8 bit": low < 0 or high > 255 or (0 < high <= 1),
        "K": low < 100 or high > 450,
    }.get(wanted, False)
    if wrong:
        raise ValueError(_message(modality, low, high, seen, f"the unit is said to be {wanted!r}", wanted))
    if modality.mean:
        _check_statistics(values, modality, low, high, seen)


def readable(value: float) -> str:
    """A number of four digits, or all that stand before the point of larger ones: 0.01423, 13960."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"


def require_no_fill(values: np.ndarray, name: str, where: str) -> None:
    """
    Raises:
        ValueError: values so large that they can only be a fill value; one of them would be all of a mean.
    """
    huge = np.abs(values) >= HUGE
    if huge.any():
        raise ValueError(
            f"modality {name!r}: {int(huge.sum())} values such as {values[huge][0]:.6g} in {where}: an undeclared "
            "nodata value; say nodata in the description, in Python set NaN"
        )


def _check_statistics(values: np.ndarray, modality: Modality, low: float, high: float, seen: str) -> None:
    mean, std = np.array(modality.mean), np.array(modality.std)
    typical = np.median(values, axis=1)
    known = f"the model was trained on {_list(mean)} +- {_list(std)} ({modality.unit or 'unit unknown'})"
    if modality.unit in _RADIOMETRIC and (mean > std / 4).all() and (values >= 0).mean() > 0.99:
        ratio = typical / mean  # all bands must agree: water is dark in the infrared, snow bright in the visible
        if ratio.max() < 1 / _FACTOR or ratio.min() > _FACTOR:
            middle = np.median(ratio)
            factor = f"about {middle:.3g} times larger" if middle > 1 else f"about {1 / middle:.3g} times smaller"
            raise ValueError(_message(modality, low, high, seen, f"{known}; these are {factor}", modality.unit))
    if modality.unit in ("dB", "K") and np.median(np.abs(typical - mean) / std) > 10:
        raise ValueError(_message(modality, low, high, seen, known, modality.unit))


def _message(modality: Modality, low: float, high: float, seen: str, but: str, wanted: str) -> str:
    fix = _FIXES.get((seen, wanted), "check unit, scale and nodata of the data")
    values = f"{readable(low)}..{readable(high)} (p1..p99)"
    return f"modality {modality.name!r}: values {values} look like {seen}, but {but}. Fix: {fix}"


def _list(values: np.ndarray) -> str:
    shown = [f"{v:.4g}" for v in values[:3]]
    return ", ".join(shown) + (", ..." if len(values) > 3 else "")
