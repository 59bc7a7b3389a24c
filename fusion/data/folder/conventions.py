"""How stored numbers become values: what files say of missing values and packing, unless the description overrides it.

The conventions are those of NetCDF and CF (CF 2.5.1, 8.1; NetCDF Users Guide, appendix A), found as attributes in
NetCDF, Zarr and HDF5, and GDAL's nodata, scale and offset of GeoTIFFs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Conventions", "equals_any"]


@dataclass(frozen=True)
class Conventions:
    """What a file, or a description in its stead, says about an array.

    Attributes:
        nodata: stored numbers that mean "not observed".
        low, high: stored numbers outside are not observed either.
        scale, offset: value = stored * scale + offset; a number, or one for each band, (bands,).
        limits_of_values: ``low`` and ``high`` are compared with the values, not with the stored numbers.
        unsigned: signed integers that are to be read as unsigned ones.
    """

    nodata: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None
    scale: float | np.ndarray = 1.0
    offset: float | np.ndarray = 0.0
    limits_of_values: bool = False
    unsigned: bool = False

    @classmethod
    def of_attributes(cls, attributes: Mapping[str, Any], dtype: np.dtype) -> Conventions:
        """Those of a variable's attributes: ``_FillValue``, ``missing_value``, ``scale_factor``, ``add_offset``,
        ``valid_range``, ``valid_min``, ``valid_max``, ``_Unsigned``."""
        if dtype.kind not in "iuf":
            return cls()
        lists = {key: np.atleast_1d(np.asarray(attributes[key])) for key in _NUMERIC if key in attributes}
        lists = {key: _of_text(values.ravel()) for key, values in lists.items()}
        lists = {key: values for key, values in lists.items() if values.size and values.dtype.kind in "iuf"}
        one = {key: float(values[0]) for key, values in lists.items()}
        unsigned = dtype.kind == "i" and str(attributes.get("_Unsigned", "")).strip().lower() == "true"
        nodata = [value for key in ("_FillValue", "missing_value") for value in lists.get(key, [])]
        limits = lists["valid_range"] if len(lists.get("valid_range", ())) == 2 else None
        low, high = (None, None) if limits is None else (limits[0].item(), limits[1].item())
        low, high = one.get("valid_min", low), one.get("valid_max", high)
        if unsigned:  # limits are written in the signed type too
            low, high = (v + 2 ** (8 * dtype.itemsize) if v is not None and v < 0 else v for v in (low, high))
        # Limits of a wider type than the packed numbers belong to the values (NetCDF Users Guide, valid_range).
        typed = next((lists[key] for key in ("valid_range", "valid_min", "valid_max") if key in lists), None)
        of_values = "scale_factor" in one and dtype.kind != "f" and typed is not None and typed.dtype.kind == "f"
        return cls(
            tuple(dict.fromkeys(value.item() for value in nodata)),
            low,
            high,
            one.get("scale_factor", 1.0),
            one.get("add_offset", 0.0),
            bool(of_values),
            unsigned,
        )

    @property
    def packed(self) -> bool:
        """Whether values differ from stored numbers."""
        if isinstance(self.scale, float | int) and isinstance(self.offset, float | int):  # asked of every window
            return self.scale != 1 or self.offset != 0
        return bool(np.any(np.not_equal(self.scale, 1)) or np.any(np.not_equal(self.offset, 0)))

    def overridden(
        self,
        nodata: Sequence[float] | None = None,
        limits: Sequence[float] | None = None,
        packing: tuple[float, float] | None = None,
    ) -> Conventions:
        """With what a description says in the file's stead; None leaves what the file says."""
        found = self
        if nodata is not None:
            found = replace(found, nodata=tuple(nodata))
        if limits is not None:
            found = replace(found, low=limits[0], high=limits[1], limits_of_values=False)
        return found if packing is None else replace(found, scale=packing[0], offset=packing[1])

    def of_bands(self, bands: Sequence[int]) -> Conventions:
        """Those of some bands, where bands are packed differently."""
        if not np.ndim(self.scale) and not np.ndim(self.offset):
            return self
        scale, offset = (
            part[list(bands)] if np.ndim(part) else part for part in map(np.asarray, (self.scale, self.offset))
        )
        return replace(self, scale=scale, offset=offset)

    def said(self) -> dict[str, str]:
        """What there is, in words, by the keys of a description that override it."""
        found = {}
        if self.nodata:
            found["nodata"] = f"nodata {', '.join(f'{value:g}' for value in self.nodata)}"
        if self.low is not None or self.high is not None:
            found["range"] = "valid range " + "..".join("" if v is None else f"{v:g}" for v in (self.low, self.high))
        if self.packed:
            scale, offset = (np.unique(np.asarray(v)) for v in (self.scale, self.offset))
            found["scale"] = f"scale {', '.join(f'{v:g}' for v in scale)}, offset {', '.join(f'{v:g}' for v in offset)}"
        return found

    def stored(self, raw: np.ndarray) -> np.ndarray:
        """The numbers as they are meant, where signed integers stand for unsigned ones."""
        return raw.view(raw.dtype.str.replace("i", "u")) if self.unsigned else raw

    def missing(self, raw: np.ndarray) -> np.ndarray:
        """Which stored numbers mean "not observed"; an infinite value is no measurement."""
        stored = self.stored(raw)
        found = equals_any(stored, self.nodata)
        if self.unsigned:
            found |= equals_any(raw, self.nodata)
        if stored.dtype.kind == "f":
            found |= ~np.isfinite(stored)
        if self.low is not None or self.high is not None:
            compared = self.unpacked(stored) if self.limits_of_values else stored
            with np.errstate(invalid="ignore"):
                if self.low is not None:
                    found |= compared < self.low
                if self.high is not None:
                    found |= compared > self.high
        return found

    def values(self, raw: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
        """(L, bands, h, w) float32, NaN where not observed.

        Args:
            raw: (L, bands, h, w) stored numbers.
            missing: what is known not to be observed for other reasons, such as a mask of the file.
        """
        absent = self.missing(raw) if missing is None else self.missing(raw) | missing
        stored = self.stored(raw)
        values = self.unpacked(stored) if self.packed else stored
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        values[absent] = np.nan
        return values

    def unpacked(self, stored: np.ndarray) -> np.ndarray:
        """Stored numbers as float64 values, missing ones among them."""
        scale, offset = (
            np.asarray(v, dtype=np.float64).reshape((-1, 1, 1)) if np.ndim(v) else float(v)
            for v in (self.scale, self.offset)
        )
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(stored.astype(np.float64) * scale + offset)

    def measured(self, stored: np.ndarray) -> np.ndarray:
        """Stored numbers as float64 values, NaN where they mean "not observed"."""
        found: np.ndarray = np.where(self.missing(stored), np.nan, self.unpacked(self.stored(stored)))
        return found


def _of_text(values: np.ndarray) -> np.ndarray:
    """Numbers that an attribute holds as text."""
    if values.dtype.kind not in "SUO":
        return values
    try:
        return np.array([float(value) for value in values])
    except (TypeError, ValueError):
        return values


_NUMERIC = ("_FillValue", "missing_value", "scale_factor", "add_offset", "valid_range", "valid_min", "valid_max")


def equals_any(array: np.ndarray, numbers: Sequence[float]) -> np.ndarray:
    """Where an array holds one of some numbers, compared in the type of the array.

    float32 data hold 1e20 or -9999.9 only rounded, so these are rounded likewise; integers are compared exactly, never
    as floats, and NaN is found by NaN.
    """
    found = np.zeros(array.shape, dtype=bool)
    for number in numbers:
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                found |= np.isnan(array) if number != number else array == array.dtype.type(number)
        elif array.dtype.kind in "iu" and number == number and float(number).is_integer():
            limits, whole = np.iinfo(array.dtype), int(number)
            if limits.min <= whole <= limits.max:
                found |= array == array.dtype.type(whole)
        elif array.dtype.kind == "b" and number in (0, 1):
            found |= array == bool(number)
    return found
