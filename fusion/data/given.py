"""Arrays as users and files give them, made plain: what a mask covers is missing, not a value.

netCDF4 and rasterio hand out NumPy's masked arrays, pandas has values of its own for what is missing, old files have
the other byte order, and ``np.asarray`` drops the mask of the first, makes objects of the second and leaves the third
as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["calendar_dates", "flags", "january_before", "numbers", "tile_numbers", "unpacked", "words"]

_COMPACT = 8  # digits of 20200410
_NAT = np.datetime64("NaT", "D")


def numbers(given: Any, what: str) -> np.ndarray:
    """Numbers as a NumPy array in the machine's byte order, NaN where they are masked or missing.

    Floating point and whole numbers keep their type where it can hold NaN or nothing is missing; float16 becomes
    float32, and whole numbers with gaps float32 or float64, whichever holds them.

    Args:
        given: a tensor, an array, masked or not, a list, or an array of pandas or xarray.
        what: how a message begins, e.g. ``"ArrayTiles: 's2'"``.

    Raises:
        ValueError: no numbers, or packed ones, see :func:`unpacked`.
    """
    unpacked(given, what)
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = (given if given.dtype.itemsize > 2 or not given.is_floating_point() else given.float()).numpy()
    missing = np.ma.getmaskarray(given) if np.ma.isMaskedArray(given) else None
    values = np.asarray(np.ma.getdata(given))
    if values.dtype == object:  # pandas with pd.NA, or None in a list
        try:
            values = np.array([_number(v) for v in values.ravel()], dtype=np.float64).reshape(values.shape)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what} is of type object; numbers are wanted ({error})") from error
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{what} is of type {values.dtype}; numbers are wanted")
    values = values.astype(_native(values.dtype, missing), copy=False)
    if missing is not None and missing.any():
        values = np.where(missing, values.dtype.type(np.nan), values)
    return values


def _native(dtype: np.dtype[Any], missing: np.ndarray | None) -> np.dtype[Any]:
    if dtype == np.float16:
        return np.dtype(np.float32)
    if dtype.kind != "f" and missing is not None and missing.any():
        return np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)
    return dtype.newbyteorder("=")


def _number(value: Any) -> float:
    """Of an element of an array of objects; pd.NA refuses to be one."""
    if isinstance(value, str | bytes):
        raise TypeError(f"{value!r} is text")
    return np.nan if _lacks(value) else float(value)


def _lacks(value: Any) -> bool:
    """Whether it stands for a missing value: None, NumPy's masked, or pandas' NA and NaT."""
    return value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType")


def unpacked(given: Any, what: str) -> None:
    """Nothing, for values that are what they say.

    Raises:
        ValueError: an array of xarray, h5py or zarr whose attributes say that the stored numbers are packed
            (scale_factor, add_offset) or that one of them means missing (_FillValue, missing_value): nobody has applied
            them.
    """
    attributes = getattr(given, "attrs", None)
    if attributes is None or not hasattr(attributes, "get"):
        return
    plain: Mapping[str, Any] = {"scale_factor": 1, "add_offset": 0, "_FillValue": np.nan, "missing_value": np.nan}
    for name, harmless in plain.items():
        value = attributes.get(name)
        value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
        if value is not None and not (value == harmless or (value != value and harmless != harmless)):
            raise ValueError(
                f"{what}: its attribute {name} = {value} was not applied, so its numbers are not what they mean; open "
                "the file with xarray (mask_and_scale=True), or apply it and set NaN where values are missing"
            )


def flags(given: Any) -> np.ndarray:
    """bool, False where a mask covers it: what is unknown is not clear."""
    return np.asarray(np.ma.filled(given, False)).astype(bool)


def january_before(dates: np.ndarray) -> np.datetime64:
    """1 January of the year of the first of some dates, datetime64[D]: what days of tiles count from."""
    january: np.datetime64 = dates.min().astype("datetime64[Y]").astype("datetime64[D]")
    return january


def calendar_dates(given: Any, what: str) -> np.ndarray:
    """Dates (any shape) as datetime64[D].

    Args:
        given: datetime64, dates of Python or pandas, text such as ``"2020-04-10"`` or ``"20200410"``, or whole numbers,
            which are days since 1970-01-01.
        what: how a message begins.

    Raises:
        ValueError: a date that is missing (NaT, masked) or no date, or one beyond the years 1 to 9999.
    """
    masked = int(np.ma.getmaskarray(given).sum()) if np.ma.isMaskedArray(given) else 0
    values = np.asarray(np.ma.getdata(given))
    if values.dtype == object:
        values = np.array([_NAT if _lacks(v) else v for v in values.ravel()], dtype=object).reshape(values.shape)
    try:
        if values.dtype.kind in "iuf":
            known = np.where(np.isnan(values), 0, values)
            whole = known.astype(np.int64)
            if (whole != known).any():
                raise ValueError("days since 1970-01-01 are whole numbers")
            dates = np.where(np.isnan(values), _NAT, whole.astype("datetime64[D]"))
        elif values.dtype.kind in "US":
            dates = np.array([_iso(text) for text in values.astype(str).ravel()], "datetime64[D]").reshape(values.shape)
        else:
            dates = values.astype("datetime64[D]")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {values.ravel()[:1]} is no date ({error}); give datetime64 or 2020-04-10") from error
    lost = masked or int(np.isnat(dates).sum())
    if lost:
        raise ValueError(f"{what}: {lost} of {dates.size} dates are missing (NaT or masked); leave them out")
    years = dates.astype("datetime64[Y]").astype(np.int64) + 1970
    if dates.size and not (years.min() >= 1 and years.max() <= 9999):
        strange = values.ravel()[int(((years < 1) | (years > 9999)).ravel().argmax())]
        raise ValueError(
            f"{what}: {strange} would be a date of the year {years.min() if years.min() < 1 else years.max()}; numbers "
            "are days since 1970-01-01, and text is 2020-04-10 or 20200410"
        )
    return np.asarray(dates)


def _iso(text: str) -> str:
    """NumPy takes eight digits for a year."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == _COMPACT and text.isdigit() else text


def words(given: Any, what: str) -> tuple[str, ...]:
    """Names, as text of Python's own: of a list, an array of NumPy, an index or a column of pandas.

    Args:
        what: how a message begins, e.g. ``"ArrayTiles: classes"``.

    Raises:
        ValueError: one text instead of several, which would be taken letter by letter, or no text.
    """
    if isinstance(given, str | bytes):
        raise ValueError(f"{what} is a list of names, not the text {given!r}; give [{given!r}]")
    listed = list(given)
    strange = [name for name in listed if not isinstance(name, str)]
    if strange:
        raise ValueError(f"{what}: names are text, {strange[0]!r} is of type {type(strange[0]).__name__}")
    return tuple(str(name) for name in listed)


def tile_numbers(given: Any, count: int, what: str, of: str = "tiles") -> np.ndarray:
    """Numbers of tiles (or whatever ``of`` says), (n,) int64, from numbers or from a mask of bool of all ``count``.

    Raises:
        ValueError: numbers that are not whole, or beyond the tiles, or a mask of another length.
    """
    if isinstance(given, Tensor):
        given = given.cpu().numpy()
    chosen = np.asarray(np.ma.compressed(given) if np.ma.isMaskedArray(given) else given).reshape(-1)
    if chosen.dtype == bool and len(chosen):
        if len(chosen) != count:
            raise ValueError(f"{what}: a mask of {len(chosen)} for {count} {of}; one value for each is wanted")
        return np.flatnonzero(chosen)
    if chosen.dtype.kind not in "iuf":
        raise ValueError(f"{what}: numbers of {of} are wanted, {chosen[:1]} given")
    with np.errstate(invalid="ignore"):  # NaN, refused below
        whole = chosen.astype(np.int64)
    if len(whole) and ((whole != chosen).any() or whole.min() < -count or whole.max() >= count):
        raise ValueError(
            f"{what}: indices of {count} {of} wanted, {chosen.min()}..{chosen.max()} given; they are whole numbers "
            f"from 0 to {count - 1}"
        )
    return whole
