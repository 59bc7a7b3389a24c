"""What users hold, sorted by modality: xarray of any layout, or plain arrays with dates and a transform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import Modality
from ..data.folder.place import AXIS_NAMES
from .names import positions
from .plain import from_plain

if TYPE_CHECKING:
    import xarray

__all__ = ["Given", "sort_by_modality"]


@dataclass(frozen=True)
class Given:
    """The arrays of one modality.

    Attributes:
        dataset: holds them, with their coordinates.
        variables: the one array that has all bands along an axis, or one for each band.
        axes: of time, band, y, x, those of the arrays in their order; ``band`` of a single array alone.
        dates: (T,) datetime64[D]; none of an image.
    """

    modality: Modality
    dataset: xarray.Dataset
    variables: tuple[str, ...]
    axes: tuple[str, ...]
    dates: np.ndarray

    @property
    def array(self) -> xarray.DataArray:
        """The one array, or the first of them."""
        return self.dataset[self.variables[0]]

    def dimension(self, axis: str) -> str:
        """What the arrays call an axis."""
        return str(self.array.dims[self.axes.index(axis)])

    @property
    def lazy(self) -> bool:
        """Whether any of the arrays is one of Dask."""
        return any(self.dataset[name].chunks is not None for name in self.variables)

    @property
    def south_up(self) -> bool:
        """Whether rows run from south to north."""
        name = self.dimension("y")
        rows = self.dataset[name].values if name in self.dataset.coords else np.zeros(0)
        return len(rows) > 1 and bool(rows[-1] > rows[0])

    def window(self, top: int, left: int, height: int, width: int) -> Given:
        """Some of the pixels, whose rows are counted from the north."""
        if "y" not in self.axes:
            return self
        y, x = self.dimension("y"), self.dimension("x")
        first = self.dataset.sizes[y] - top - height if self.south_up else top
        return replace(self, dataset=self.dataset.isel({y: slice(first, first + height), x: slice(left, left + width)}))

    def north_up(self) -> Given:
        """With rows from north to south, and without coordinates of y and x, whose place is known from the whole."""
        if "y" not in self.axes:
            return self
        y, x = self.dimension("y"), self.dimension("x")
        turned = self.dataset.isel({y: slice(None, None, -1)}) if self.south_up else self.dataset
        return replace(self, dataset=turned.drop_vars([y, x], errors="ignore"))


def sort_by_modality(
    x: Any,
    modalities: Sequence[Modality],
    *,
    dates: Any = None,
    bands: Any = None,
    transform: Any = None,
    crs: str | None = None,
) -> dict[str, Given]:
    """The arrays of each modality that ``x`` has, in the order of the model.

    Args:
        x: a DataArray or Dataset of xarray with all that there is, or a mapping of these, of NumPy arrays or of tensors
            by modality.
        modalities: of the model.
        dates, bands, transform, crs: of plain arrays, see :meth:`fusion.arrays.ArrayModel.embed`.

    Raises:
        TypeError: ``x`` is of another kind.
        ValueError: no modality is to be found, or one whose bands, axes or dates are not all there.
    """
    import xarray

    known = {modality.name: modality for modality in modalities}
    if isinstance(x, Mapping) and not isinstance(x, xarray.Dataset):
        strange = [str(name) for name in x if name not in known]
        if strange or not x:
            raise ValueError(f"arrays of {', '.join(strange) or 'nothing'}; the model has {_told(modalities)}")
        parts = {name: x[name] for name in known if name in x}
    elif isinstance(x, xarray.Dataset | xarray.DataArray):
        plain = {"dates": dates, "bands": bands, "transform": transform, "crs": crs}
        wrong = [what for what, value in plain.items() if value is not None]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: xarray has its own coordinates; these are of plain arrays")
        return _of_one(x, modalities)
    elif len(known) == 1:
        parts = dict.fromkeys(known, x)
    else:
        raise TypeError(f"arrays of {type(x).__name__}: say whose they are, e.g. {{{modalities[0].name!r}: array}}")
    found = {}
    for name, part in parts.items():
        if not isinstance(part, xarray.Dataset | xarray.DataArray):
            own = (_of(dates, name), _of(bands, name), _of(transform, name))
            part = from_plain(known[name], part, *own, crs)
        slots = list(_slots(part))
        one = _select(known[name], part, slots, said=True)
        if one is None:
            raise ValueError(_lacking(known[name], slots))
        found[name] = one
    return found


def _of_one(x: Any, modalities: Sequence[Modality]) -> dict[str, Given]:
    """Of arrays that do not say which modality they are: those whose bands are all there."""
    slots = list(_slots(x))
    named = [m for m in modalities if m.name == getattr(x, "name", None) or m.name in getattr(x, "data_vars", ())]
    if named and getattr(x, "name", None) is None:  # variables called like modalities hold these and no others
        own = {m.name: [slot for slot in slots if slot.variable == m.name] for m in named}
        found = {m.name: _select(m, x, own[m.name]) for m in named}
        for m in named:
            if found[m.name] is None:
                raise ValueError(_lacking(m, own[m.name]))
        return {name: one for name, one in found.items() if one is not None}
    candidates = named or modalities
    matched = {m.name: one for m in candidates if (one := _select(m, x, slots)) is not None}
    if not matched:
        raise ValueError("; ".join(_lacking(m, slots) for m in candidates))
    for (a, one), (b, other) in combinations(matched.items(), 2):
        common = [band for band in one.modality.bands if band in other.modality.bands]
        if common:
            raise ValueError(
                f"the bands {', '.join(common)} may be of {a!r} and of {b!r}; say which by a mapping, {{{a!r}: x}}"
            )
    return matched


# Bands.


@dataclass(frozen=True)
class _Slot:
    """Where a band lies: a variable, and the position along its axis of bands; ``names`` are what it is called."""

    variable: str
    position: int | None
    names: tuple[str, ...]


def _slots(x: Any) -> Iterator[_Slot]:
    """The bands of all variables."""
    for name, array in _variables(x).items():
        axis = _band_axis(array)
        if axis is None:
            yield _Slot(name, None, (name,))
            continue
        told = [coordinate for coordinate in array.coords.values() if coordinate.dims == (axis,)]
        columns = [c.values.astype(str) for c in sorted(told, key=lambda c: c.name != axis) if c.dtype.kind in "OSUT"]
        long_name = array.attrs.get("long_name")  # as rioxarray has the descriptions of a GeoTIFF
        if isinstance(long_name, list | tuple) and len(long_name) == array.sizes[axis]:
            columns.append(np.array(long_name, dtype=str))
        for k in range(array.sizes[axis]):
            yield _Slot(name, k, tuple(str(column[k]) for column in columns))


def _band_axis(array: xarray.DataArray) -> str | None:
    """What an array calls its axis of bands; None where it has none."""
    return next((str(d) for d in array.dims if AXIS_NAMES.get(str(d).lower()) == "band"), None)


def _variables(x: Any) -> dict[str, Any]:
    if hasattr(x, "data_vars"):
        return {str(name): array for name, array in x.data_vars.items() if array.dtype.kind in "iufb" and array.ndim}
    return {_name(x): x}


def _name(x: Any) -> str:
    return str(x.name) if x.name is not None and x.name not in x.coords else "values"


def _select(modality: Modality, x: Any, slots: Sequence[_Slot], *, said: bool = False) -> Given | None:
    """The arrays of a modality; None where bands are lacking.

    Args:
        said: ``x`` is said to be of this modality, so that its only band needs no name.
    """
    chosen: list[_Slot | None] = []
    columns = max((len(slot.names) for slot in slots), default=0)
    for column in range(columns):  # by the first naming that knows all bands
        named = [slot for slot in slots if len(slot.names) > column]
        chosen = [None if k is None else named[k] for k in positions(modality.bands, [s.names[column] for s in named])]
        if None not in chosen:
            break
    if len(slots) == 1 == modality.channels and (said or slots[0].variable == modality.name):
        chosen = list(slots)
    found = [slot for slot in chosen if slot is not None]
    if not found or len(found) < len(chosen) or len(found) != modality.channels:
        return None
    told = {key: x.attrs[key] for key in ("crs", "grid_mapping") if key in x.attrs}  # of a whole data set
    variables = {name: array.assign_attrs(told | array.attrs) for name, array in _variables(x).items()}
    if len({slot.variable for slot in found}) == 1:
        array = variables[found[0].variable]
        axis = _band_axis(array)
        if axis is not None:
            array = array.isel({axis: [slot.position for slot in found]})
            array = array.drop_vars([n for n, c in array.coords.items() if axis in c.dims])
            if "long_name" in array.attrs:
                array = array.assign_attrs(long_name=list(modality.bands))
        return _given(modality, array.to_dataset(name="values"), ("values",))
    apart = {}
    for slot, band in zip(found, modality.bands, strict=True):
        array = variables[slot.variable]
        axis = _band_axis(array)
        array = array if axis is None else array.isel({axis: slot.position})
        apart[band] = array.drop_vars([n for n, c in array.coords.items() if axis is not None and n == axis])
    import xarray

    return _given(modality, xarray.Dataset(apart), modality.bands)


def _lacking(modality: Modality, slots: Sequence[_Slot]) -> str:
    known = [slot.names[0] if slot.names else f"band {slot.position}" for slot in slots]
    if slots and not any(slot.names for slot in slots):
        return f"{modality.name}: the bands have no names; name them, e.g. x.assign_coords(band={list(modality.bands)})"
    missing = [band for band, k in zip(modality.bands, positions(modality.bands, known), strict=True) if k is None]
    return (
        f"{modality.name}: no band {', '.join(missing)} among {', '.join(known) or 'nothing'}; the model wants "
        f"{', '.join(modality.bands)}"
    )


def _told(modalities: Sequence[Modality]) -> str:
    return "; ".join(f"{m.name} ({', '.join(m.bands)})" for m in modalities)


# Axes and dates.


def _given(modality: Modality, dataset: xarray.Dataset, variables: Sequence[str]) -> Given:
    """The arrays with the axes that the modality has.

    Raises:
        ValueError: an axis that is unknown or lacking, or dates that are.
    """
    name, first = modality.name, dataset[variables[0]]
    axes = {str(d): AXIS_NAMES.get(str(d).lower(), "") for d in first.dims}
    strange = [d for d, axis in axes.items() if not axis]
    if strange:
        raise ValueError(
            f"{name}: the axes of its array are ({', '.join(axes)}); {', '.join(strange)} is none of time, band, y and "
            "x: rename it, or choose along it"
        )
    time = next((d for d, axis in axes.items() if axis == "time"), None)
    if modality.kind == "image":
        if time is not None and dataset.sizes[time] > 1:
            raise ValueError(f"{name}: an image in the model, {dataset.sizes[time]} dates given; choose one of them")
        dataset = dataset if time is None else dataset.isel({time: 0}, drop=True)
        dates = np.zeros(0, dtype="datetime64[D]")
    else:
        if time is None:
            if "time" not in dataset.coords:
                raise ValueError(f"{name}: a series in the model; its array has no axis time")
            time, dataset = "time", dataset.expand_dims("time")
        if time not in dataset.coords:
            raise ValueError(f"{name}: its axis {time!r} has no dates; give it some, x.assign_coords({time}=[...])")
        dates = _dates(name, dataset[time].values)
    own = tuple(AXIS_NAMES[str(d).lower()] for d in dataset[variables[0]].dims)
    if ("y" in own) != ("x" in own):
        raise ValueError(f"{name}: the axes of its array are ({', '.join(own)}); y and x belong together")
    return Given(modality, dataset, tuple(variables), own, dates)


def _dates(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "O":  # of cftime
        values = np.array([v if v is None else str(v)[:10] for v in values])
    try:
        found = values.astype("datetime64[D]")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {values[:1]} is no date; decode times, or give datetime64") from error
    if values.dtype.kind not in "MOSU":
        raise ValueError(f"{name}: {values[:1]} is no date, numbers of type {values.dtype}; decode times")
    if np.isnat(found).any():
        raise ValueError(f"{name}: {int(np.isnat(found).sum())} of {len(found)} dates are missing (NaT); drop them")
    return found


def _of(given: Any, name: str) -> Any:
    """What is of one modality, or of all."""
    return given.get(name) if isinstance(given, Mapping) else given
