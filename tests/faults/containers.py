"""Small files of variables in every format, whole and with content that no reader expects."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from damage import Damage

__all__ = ["DESCRIPTION", "FORMATS", "of_chunks", "of_content", "whole"]

SIDE, DATES = 16, 4
Arrays = dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]]  # by name: axes, values, attributes

DESCRIPTION: dict[str, Any] = {
    "tile": 40,
    "patch": 20,
    "modalities": {
        "s2": {
            "variable": "s2", "bands": ["B02", "B04", "B08"], "resolution": 10, "dates": "dates",
            "unit": "reflectance x 10000", "nodata": 0, "max_dates": 3,
            "mask": {"variable": "cloud", "at_most": 50},
        },
        "dem": {"variable": "dem", "bands": ["elevation"], "axes": ["band", "y", "x"], "resolution": 10},
    },
    "labels": {"variable": "biomass", "resolution": 10, "reduction": "mean"},
    "georeference": {"epsg": 32631, "x": "x", "y": "y"},
}  # fmt: skip


def whole(seed: int = 0) -> Arrays:
    draw = np.random.default_rng(seed)
    series, space = ("time", "band", "y", "x"), ("y", "x")
    return {
        "s2": (series, draw.integers(300, 4000, (DATES, 3, SIDE, SIDE)).astype(np.float32), {}),
        "cloud": (("time", *space), draw.integers(0, 60, (DATES, SIDE, SIDE)).astype(np.uint8), {}),
        "dem": (("height", *space), draw.normal(500, 50, (1, SIDE, SIDE)).astype(np.float32), {}),
        "biomass": (space, draw.normal(100, 20, (SIDE, SIDE)).astype(np.float32), {}),
        "dates": (("time",), np.array([10, 70, 166, 300], np.int32), {"units": "days since 2020-01-01"}),
        "x": (("x",), 500_005.0 + 10 * np.arange(SIDE), {}),
        "y": (("y",), 5_600_155.0 - 10 * np.arange(SIDE), {}),
    }


def _hdf5(path: Path, arrays: Arrays) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, (_, values, attributes) in arrays.items():
            values = values.astype(h5py.string_dtype()) if values.dtype.kind in "UO" else values
            packing = {"compression": "gzip", "chunks": True} if values.size > 64 else {}
            file.create_dataset(name, data=values, **packing).attrs.update(attributes)


def _xarray(arrays: Arrays) -> Any:
    import xarray

    return xarray.Dataset(
        {
            name: (tuple(f"{axis}_{name}_{n}" for axis, n in zip(_axes(axes, values), values.shape, strict=True)),
                   values, attributes)
            for name, (axes, values, attributes) in arrays.items()
        }
    )  # fmt: skip


def _axes(axes: tuple[str, ...], values: np.ndarray) -> tuple[str, ...]:
    return axes if len(axes) == values.ndim else tuple(f"d{k}" for k in range(values.ndim))


def _netcdf4(path: Path, arrays: Arrays) -> None:
    packed = {name: {"zlib": True} for name, (_, values, _) in arrays.items() if values.dtype.kind in "iuf"}
    _xarray(arrays).to_netcdf(path, engine="h5netcdf", encoding=packed)


def _netcdf3(path: Path, arrays: Arrays) -> None:
    _xarray(arrays).to_netcdf(path, engine="scipy", format="NETCDF3_64BIT")


def _zarr(version: int) -> Callable[[Path, Arrays], None]:
    def write(path: Path, arrays: Arrays) -> None:
        _xarray(arrays).to_zarr(path, zarr_format=version, consolidated=False)

    return write


def _npz(path: Path, arrays: Arrays) -> None:
    dates = arrays.get("dates")
    plain = {name: values for name, (_, values, _) in arrays.items()}
    if dates is not None and dates[1].dtype == np.int32:
        plain["dates"] = np.datetime64("2020-01-01") + dates[1].astype("timedelta64[D]")
    np.savez_compressed(path, **plain)


FORMATS: dict[str, tuple[str, Callable[[Path, Arrays], None]]] = {
    "HDF5": (".h5", _hdf5),
    "NetCDF 4": (".nc", _netcdf4),
    "NetCDF 3": (".nc", _netcdf3),
    "Zarr 2": (".zarr", _zarr(2)),
    "Zarr 3": (".zarr", _zarr(3)),
    "NPZ": (".npz", _npz),
}


def of_content(kind: str) -> Iterator[Damage]:
    """Files of the format that hold something else than the description says; what the format cannot hold is left
    out."""
    suffix, write = FORMATS[kind]
    for name, change in _changes():

        def apply(path: Path, change: Callable[[Arrays], None] = change) -> None:
            arrays = whole()
            change(arrays)
            if suffix == ".zarr":
                shutil.rmtree(path)
            else:
                path.unlink()
            write(path, arrays)

        yield name, apply


def _changes() -> Iterator[tuple[str, Callable[[Arrays], None]]]:
    def put(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Arrays], None]:
        def apply(arrays: Arrays) -> None:
            axes, values, attributes = arrays[name]
            arrays[name] = axes, np.asarray(change(values)), attributes

        return apply

    def say(name: str, **said: Any) -> Callable[[Arrays], None]:
        return lambda arrays: arrays[name][2].update(said)

    for name in whole():
        yield f"no {name}", lambda arrays, name=name: arrays.pop(name) and None
        yield f"{name} complex", put(name, lambda values: values.astype(np.complex64) + 1j)
        yield f"{name} text", put(name, lambda values: values.astype(str))
        yield f"{name} bytes", put(name, lambda values: values.astype("S7"))
        yield f"{name} objects", put(name, lambda values: np.array([{"a": 1}] * len(values), dtype=object))
        yield f"{name} bool", put(name, lambda values: values > 100)
        yield f"{name} one axis more", put(name, lambda values: values[None])
        yield f"{name} one axis less", put(name, lambda values: values[0])
        yield f"{name} scalar", put(name, lambda values: values.ravel()[0])
        yield f"{name} without length", put(name, lambda values: values[:0])
        yield f"{name} without columns", put(name, lambda values: values[..., :0])
        yield f"{name} cut", put(name, lambda values: values[..., :3])
        yield f"{name} first only", put(name, lambda values: values[:1])
        for mark in (np.nan, np.inf, -np.inf, 1e30, 3e38, -1e300, 1e19, 0.0, -1.0):
            yield f"{name} all {mark}", put(name, lambda values, mark=mark: _filled(values, mark))
            yield f"{name} some {mark}", put(name, lambda values, mark=mark: _filled(values, mark, 7))
        yield f"{name} constant", put(name, lambda values: np.full_like(values, values.ravel()[0]))
        yield f"{name} shuffled", put(name, lambda values: np.random.default_rng(1).permutation(values))
        for key in ("scale_factor", "add_offset", "_FillValue", "missing_value", "valid_range", "valid_min", "units"):
            for value in (0.0, np.nan, np.inf, 1e300, "text", -1, np.array([3.0, 1.0, 2.0]), ""):
                if key != "_FillValue" or not isinstance(value, str | np.ndarray):
                    yield f"{name}: {key} {value}", say(name, **{key: value})
    for units in ("days since x", "days since 0000-99-99", "days since 2020-02-31", "fortnights since 2020-01-01",
                  "days since 2020-01-01 99:99", "days since 9999-12-31"):  # fmt: skip
        yield f"dates: {units}", say("dates", units=units)
    for calendar in ("360_day", "noleap", "nonsense", "julian", "365_day"):
        yield f"dates: calendar {calendar}", say("dates", calendar=calendar)
    for values in ([10**9] * 4, [10**18, 1, 2, 3], [-(10**6), 0, 1, 2], [4, 3, 2, 1], [1, 1, 1, 1], [2**62] * 4):
        yield f"dates {values}", put("dates", lambda _, values=values: np.array(values))
    for texts in (["2020-13-45"] * 4, ["0000-00-00"] * 4, ["yesterday"] * 4, [""] * 4, ["2020-02-30"] * 4):
        yield f"dates {texts[0]}", put("dates", lambda _, texts=texts: np.array(texts, dtype="S12"))


def _filled(values: np.ndarray, mark: float, step: int = 1) -> np.ndarray:
    filled = values.astype(np.float64 if abs(mark) > 3.5e38 else np.promote_types(values.dtype, np.float32))
    filled.reshape(-1)[::step] = mark
    return filled


def of_chunks(seed: int, times: int) -> Iterator[Damage]:
    """Zarr stores of which files are missing, or whose metadata say something else."""

    def of_file(number: int, what: str) -> Callable[[Path], None]:
        def apply(path: Path) -> None:
            draw = np.random.default_rng(seed * 1000 + number)
            files = sorted(file for file in path.rglob("*") if file.is_file())
            chosen = files[int(draw.integers(len(files)))]
            content = bytearray(chosen.read_bytes())
            if what == "missing":
                chosen.unlink()
            elif what == "truncated":
                chosen.write_bytes(content[: int(draw.integers(len(content) or 1))])
            elif what == "flipped" and content:
                for _ in range(int(draw.integers(1, 8))):
                    content[int(draw.integers(len(content)))] ^= 1 << int(draw.integers(8))
                chosen.write_bytes(content)
            elif what == "folder":
                chosen.unlink()
                chosen.mkdir()

        return apply

    for number in range(times):
        for what in ("missing", "truncated", "flipped", "folder"):
            yield f"file {what} {number}", of_file(number, what)

    def metadata(key: str, value: Any) -> Callable[[Path], None]:
        def apply(path: Path) -> None:
            file = next(path / "s2" / name for name in (".zarray", "zarr.json") if (path / "s2" / name).is_file())
            about = json.loads(file.read_text())
            about[key] = value
            file.write_text(json.dumps(about))

        return apply

    for key in ("shape", "chunks", "chunk_grid", "dtype", "data_type", "compressor", "codecs", "fill_value", "order",
                "filters", "zarr_format", "node_type", "attributes", "dimension_names",
                "chunk_key_encoding"):  # fmt: skip
        for value in (None, -1, [], {}, "text", [0, 0, 0, 0], [10**9] * 4, 1e300, [{"name": "none"}], True):
            yield f"{key}: {value}", metadata(key, value)
