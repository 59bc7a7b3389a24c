"""Arrays as people have them, made into arrays as the ops read them: masks, byte orders, nullable columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["floats", "integers"]


def floats(op: str, name: str, value: Any, *, missing: bool) -> NDArray[np.floating]:
    """``value`` as an aligned, C-contiguous float32 or float64 array in this machine's byte order; the same memory if
    it is one.

    What a masked array masks, and what a nullable column lacks, is missing: NaN, whatever number lies there.

    Args:
        missing: whether values may be missing; False: of a codebook, edges or centres.

    Raises:
        TypeError: not floating point. ValueError: values are missing, and may not be.
    """
    array, mask = _plain(value)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise TypeError(
            f"{op}: {name} must be float16, float32 or float64, got {array.dtype}; convert it, as with "
            "np.asarray(x, dtype='float32')"
        )
    if mask is not None and not missing:
        raise ValueError(f"{op}: {name} has {int(mask.sum())} masked values; give one without a mask")
    array = array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32, copy=False)
    if mask is not None:
        array = np.where(mask, np.asarray(np.nan, dtype=array.dtype), array)
    return np.require(array, requirements=["C", "A"])


def integers(op: str, name: str, value: Any) -> NDArray[np.int64]:
    """``value`` as aligned, C-contiguous int64; what is masked or lacking is -1.

    Raises:
        TypeError: not integer. ValueError: a number that int64 cannot hold.
    """
    array, mask = _plain(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{op}: {name} must be integer, got {array.dtype}")
    if mask is not None:
        array = np.where(mask, np.asarray(0, dtype=array.dtype), array)
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{op}: {name} holds {array.max()}, more than int64 can")
    array = array.astype(np.int64, copy=False)
    if mask is not None:
        array = np.where(mask, np.int64(-1), array)
    return np.require(array, requirements=["C", "A"])


def _plain(value: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The array behind ``value``, and which of its numbers are none: masked, or lacking from a nullable column."""
    kind = str(getattr(value, "dtype", "")).lower()
    if hasattr(value, "to_numpy") and hasattr(value, "isna") and kind.startswith(("float", "int", "uint")):
        gaps = np.asarray(value.isna(), dtype=bool)  # of a pandas column, such as "Float32" or "Int64"
        return value.to_numpy(dtype=kind, na_value=0), gaps if gaps.any() else None
    if isinstance(value, (list, tuple)) and any(isinstance(part, np.ma.MaskedArray) for part in value):
        value = np.ma.array(value)  # np.asarray would lose the masks
    if not isinstance(value, np.ma.MaskedArray):
        return np.asarray(value), None
    mask = np.ma.getmaskarray(value)
    return np.asarray(value.data), mask if mask.any() else None
