"""Embeddings on disk: GeoTIFF with the decode formula inside, or NPZ where the place is unknown."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from affine import Affine

from ..data.files import decoding
from ..data.opening import open_npz, open_raster
from .codec import DECODE_FORMULA, NODATA, Dtype, ErrorMeter, QuantizationError, as_stored, decoded
from .formats.array_file import Windows
from .formats.sections import Sections
from .formats.temporary import beside, explained, replacing

__all__ = [
    "Dtype",
    "Embeddings",
    "band_names",
    "checked",
    "file_tags",
    "read_embeddings",
    "write_geotiff",
    "write_npz",
    "write_sections",
]


@dataclass(frozen=True)
class Embeddings:
    """What :func:`read_embeddings` returns.

    Attributes:
        values: (D, rows, columns) float32 of a GeoTIFF or (N, D, rows, columns) of an NPZ, decoded; NaN where
            there is no data.
        bands: D names.
        transform, crs: of the patches; None where unknown.
        tags: model, decode formula and whatever else was written beside the data.
        names: N tile names (NPZ only).
    """

    values: np.ndarray
    bands: tuple[str, ...]
    transform: Affine | None = None
    crs: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def band_names(dim: int) -> tuple[str, ...]:
    """``E00, E01, ...`` (three digits from 101 bands on)."""
    return tuple(f"E{k:0{max(2, len(str(dim - 1)))}d}" for k in range(dim))


def write_geotiff(
    path: Path, values: Windows, transform: Affine, crs: str, dtype: Dtype, tags: Mapping[str, str]
) -> QuantizationError:
    """Writes ``values`` (rows, columns, D; NaN = no data) and reads every block back, to state the error.

    The file is cloud-optimised: tiled, all dimensions of a pixel together, with overviews, which are means of vectors
    (:mod:`~fusion.embed.formats.sections`).

    ``float32`` keeps the vectors as they are; ``int8`` stores their direction (unit length), AlphaEarth's mapping.

    Raises:
        RuntimeError: the file cannot be written, or what is on disk is not what was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with explained(path), tempfile.TemporaryDirectory(**beside(path)) as folder:
        sections = Sections(path, Path(folder), values, dtype)
        for number in range(sections.count):
            sections.compress(number)
        return write_sections(sections, transform, crs, tags)


def write_sections(sections: Sections, transform: Affine, crs: str, tags: Mapping[str, str]) -> QuantizationError:
    """:func:`write_geotiff` of sections that are all finished.

    Raises:
        RuntimeError: the file cannot be written, or what is on disk is not what was written.
    """
    bands, known = band_names(sections.values.shape[2]), file_tags(sections.dtype, tags)
    with replacing(sections.path) as temporary:
        meter = sections.write(temporary, transform, crs, bands, known)
        return checked(meter, sections.path, sections.dtype)  # raises before a damaged file replaces a good one


def write_npz(
    path: Path, values: np.ndarray, names: list[str], dtype: Dtype, tags: Mapping[str, str]
) -> QuantizationError:
    """Writes ``values`` (N, rows, columns, D) of tiles without a place as NPZ: ``embeddings`` (N, D, rows, columns),
    ``names``, ``bands`` and ``tags`` (JSON)."""
    kept = as_stored(values, dtype)
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            embeddings=np.moveaxis(kept, -1, 1),
            names=np.array(names),
            bands=np.array(band_names(values.shape[-1])),
            tags=json.dumps(file_tags(dtype, tags)),
        )
        meter = ErrorMeter()
        meter.add(values, np.moveaxis(read_embeddings(temporary).values, 1, -1))
        return checked(meter, path, dtype)


def read_embeddings(path: str | Path) -> Embeddings:
    """Reads and decodes what :func:`write_geotiff` or :func:`write_npz` wrote.

    Raises:
        ValueError: the file is missing or damaged, or an int8 raster says nothing of how it is decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with decoding(path):
        return _read_npz(path) if path.suffix == ".npz" else _read_geotiff(path)


def _read_npz(path: Path) -> Embeddings:
    if not zipfile.is_zipfile(path):  # np.load would take it for a pickle
        raise OSError("cannot be read as embeddings: it is not an NPZ file, or a truncated one")
    with open_npz(path) as file:
        values = decoded(file["embeddings"])
        tags = json.loads(str(file["tags"]))
        return Embeddings(values, tuple(file["bands"].tolist()), tags=tags, names=tuple(file["names"].tolist()))


def _read_geotiff(path: Path) -> Embeddings:
    with open_raster(path) as file:
        tags, stored = file.tags(), file.read()
        if stored.dtype == np.int8 and tags.get("FUSION_DECODE") != DECODE_FORMULA:
            raise ValueError(
                f"{path} holds int8 codes and its tag FUSION_DECODE says {tags.get('FUSION_DECODE')!r}, not "
                f"{DECODE_FORMULA!r}; it was not written by this package, decode it by its own rule"
            )
        if stored.dtype != np.int8 and stored.dtype.kind != "f":
            raise ValueError(
                f"{path}: embeddings are float32 or int8, not {stored.dtype}; this raster is of another kind"
            )
        if stored.dtype.kind == "f":  # other programs may have written another value than NaN
            marks = np.array([mark for mark in file.nodatavals if mark is not None], dtype=stored.dtype)
            stored = np.where(np.isin(stored, marks) | ~np.isfinite(stored), stored.dtype.type(np.nan), stored)
        crs = file.crs.to_string() if file.crs else None
        return Embeddings(decoded(stored), tuple(map(str, file.descriptions)), file.transform, crs, tags)


def file_tags(dtype: Dtype, tags: Mapping[str, str]) -> dict[str, str]:
    """What made a file, and how its numbers are read."""
    how = {
        "float32": {"FUSION_DECODE": "value = v", "FUSION_LENGTH": "as the model gives it"},
        "int8": {"FUSION_DECODE": DECODE_FORMULA, "FUSION_LENGTH": "1: decode before any mean or cosine"},
    }
    return how[dtype] | {"FUSION_NODATA": str(NODATA) if dtype == "int8" else "nan"} | dict(tags)


def checked(meter: ErrorMeter, path: Path, dtype: Dtype) -> QuantizationError:
    """The error of a file that was read back.

    Raises:
        RuntimeError: what is on disk is not what was written.
    """
    error = meter.result()
    if meter.lost or (dtype == "float32" and error.max_error > 1e-6):
        raise RuntimeError(
            f"{path}: what is on disk differs from what was written ({meter.lost} pixels lost, largest error "
            f"{error.max_error:.2g}); the disk may be full or faulty"
        )
    return error
