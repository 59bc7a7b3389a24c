"""NumPy arrays and tensors as xarray, by dates, names of bands and a transform that are given beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import Modality
from ..data.given import numbers

if TYPE_CHECKING:
    import xarray

__all__ = ["from_plain"]


def from_plain(
    modality: Modality, values: Any, dates: Any, bands: Any, transform: Any, crs: str | None
) -> xarray.DataArray:
    """(T, C, H, W) of a series or (C, H, W) of an image as an array of xarray.

    Raises:
        ValueError: another shape, or no dates.
    """
    import xarray

    name = modality.name
    values = numbers(values, name)
    axes = ("time", "band", "y", "x") if modality.kind == "series" else ("band", "y", "x")
    if values.ndim != len(axes):
        raise ValueError(f"{name}: a {modality.kind} is ({', '.join(axes)}), an array of shape {values.shape} given")
    coords: dict[str, Any] = {"band": list(modality.bands if bands is None else bands)}
    if modality.kind == "series":
        if dates is None:
            raise ValueError(f"{name}: a series; give its dates, dates={{{name!r}: [...]}}")
        coords["time"] = np.asarray(dates).astype("datetime64[D]").astype("datetime64[ns]")
    for axis, own in coords.items():
        if len(own) != values.shape[axes.index(axis)]:
            raise ValueError(f"{name}: {len(own)} {'dates' if axis == 'time' else 'bands'} of values {values.shape}")
    if transform is not None:
        a, b, c, d, e, f = (float(v) for v in tuple(transform)[:6])
        if b or d:
            raise ValueError(f"{name}: the transform {(a, b, c, d, e, f)} is rotated; warp the array first")
        coords |= {"x": c + a * (np.arange(values.shape[-1]) + 0.5), "y": f + e * (np.arange(values.shape[-2]) + 0.5)}
    return xarray.DataArray(values, coords, axes, attrs={} if crs is None else {"crs": crs})
