"""Embeddings of many dates as one Zarr: (time, feature, y, x) with CRS, dates and the model's fingerprint.

A block of ground over all dates is one chunk, so that a pixel's season is one read. A chunk appears whole or not at
all, which makes it its own mark of being done: whoever finds it missing may make it. Who is at work on which block is
told by locks on bytes of one file beside the store; a lock dies with its holder.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .. import __version__
from ..data import Geo
from ..data.files import DamagedFile
from ..data.given import calendar_dates, numbers
from .claims import Claims
from .codec import DECODE_FORMULA, NODATA, encode, unit
from .formats.temporary import beside, sweep
from .formats.zarr_checksum import require_unchanged, seal, zstandard
from .formats.zarr_values import open_zarr, read_values
from .layout import TIME, add_array, axes_of, georeference, new_group
from .raster import Dtype, band_names

if TYPE_CHECKING:
    import xarray

__all__ = ["EmbeddingStore", "open_store", "stack_geotiffs"]


@dataclass(frozen=True)
class EmbeddingStore:
    """A Zarr of embeddings that is being filled. Made by :meth:`create`."""

    path: Path
    shape: tuple[int, int, int, int]
    block: int
    dtype: Dtype

    @classmethod
    def create(
        cls,
        path: str | Path,
        dates: Sequence[Any] | np.ndarray,
        dim: int,
        size: tuple[int, int],
        geo: Geo | None,
        *,
        block: int = 64,
        dtype: Dtype = "float32",
        about: Mapping[str, Any] | None = None,
    ) -> EmbeddingStore:
        """An empty store, or the one that is there if it was begun with the same arguments.

        Args:
            dates: datetime64[D], or whole days since 1970-01-01.
            dim: dimensions of the embedding.
            size: rows and columns of pixels.
            geo: of the pixels, north up; None where unknown (x and y then count pixels).
            block: pixels per side of a chunk.
            about: plain values that say what the embeddings are of; they are written down and must be the same when a
                store is continued.

        Raises:
            ValueError: a store of something else lies there (the first field that differs is named), or rows that run
                from south to north.
        """
        path = Path(path)
        if dtype not in ("float32", "int8"):
            raise ValueError(f"{path}: dtype is 'float32' or 'int8', not {dtype!r}")
        if geo is not None and (geo.transform[4] >= 0 or geo.transform[1] or geo.transform[3]):
            raise ValueError(f"{path}: rows must run from north to south, unrotated; the transform is {geo.transform}")
        days = calendar_dates(dates, str(path)).astype(np.int64)
        store = cls(path, (len(days), dim, *size), block, dtype)
        identity = {
            "days": days.tolist(),
            "dim": dim,
            "size": list(size),
            "transform": None if geo is None else [float(v) for v in geo.transform],
            "crs": None if geo is None else geo.crs,
            "block": block,
            "dtype": dtype,
            **(about or {}),
        }
        identity = json.loads(json.dumps(identity))
        path.parent.mkdir(parents=True, exist_ok=True)
        with store.claims().alone():
            if path.exists():
                store._require(identity)
            else:
                sweep(path)
                temporary = Path(tempfile.mkdtemp(**beside(path)))
                temporary.chmod(0o755)
                store._lay_out(temporary, days, geo, identity)
                temporary.rename(path)
        return store

    # Blocks.

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.shape[2] // self.block), -(-self.shape[3] // self.block)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Row and column of every block."""
        yield from ((i, j) for i in range(self.grid[0]) for j in range(self.grid[1]))

    def pixels(self, i: int, j: int) -> tuple[slice, slice]:
        """Rows and columns of pixels of a block."""
        starts = i * self.block, j * self.block
        rows, columns = (slice(s, min(s + self.block, n)) for s, n in zip(starts, self.shape[2:], strict=True))
        return rows, columns

    def done(self, i: int, j: int) -> bool:
        return self._chunk(i, j).exists()

    def remove_damaged(self) -> list[tuple[int, int]]:
        """Removes blocks of a store that is not complete whose bytes have changed on the disk since they were written,
        so that they are made again; which they were, is returned and warned of."""
        found = []
        with closing(self.claims()) as claims:
            for i, j in self.blocks() if not self.complete else ():
                with claims.holding(i * self.grid[1] + j) as mine:  # else it is being written
                    if mine and self.done(i, j) and not self._whole(i, j):
                        self._chunk(i, j).unlink()
                        found.append((i, j))
        if found:
            warnings.warn(
                f"{self.path}: {len(found)} blocks that an earlier run has made are damaged and are made again: "
                f"{self._chunk(*found[0]).name}{', ...' if len(found) > 1 else ''}",
                stacklevel=3,
            )
        return found

    def _whole(self, i: int, j: int) -> bool:
        try:
            self.read(slice(None), *self.pixels(i, j))
        except DamagedFile:
            return False
        return True

    def _chunk(self, i: int, j: int) -> Path:
        return self.path / "embedding" / f"0.0.{i}.{j}"

    def write(self, i: int, j: int, values: np.ndarray) -> np.ndarray:
        """Stores the block (dates, dim, h, w), NaN or masked without data, and returns what is on disk, decoded."""
        import zarr

        rows, columns = self.pixels(i, j)
        values = numbers(values, f"{self.path}: block {i}, {j}")
        stored = encode(unit(values, axis=1)) if self.dtype == "int8" else values.astype(np.float32)
        array = zarr.open_array(self.path, path="embedding", mode="r+")
        # A chunk that is there is done, also one of ground that was never observed; open_array ignores its own config.
        array.with_config({"write_empty_chunks": True})[:, :, rows, columns] = stored
        return self.read(slice(None), rows, columns)

    def damage(self, i: int, j: int, reason: str) -> np.ndarray:
        """Notes that a block cannot be made; returns its values (dates, dim, h, w), no data, to be written."""
        rows, columns = self.pixels(i, j)
        name = f"rows {rows.start} to {rows.stop}, columns {columns.start} to {columns.stop}"
        with open(self._damage, "a") as file:  # a line in one write, for others may write too
            file.write(json.dumps({name: reason}) + "\n")
        return np.full((*self.shape[:2], rows.stop - rows.start, columns.stop - columns.start), np.nan, np.float32)

    def damaged(self) -> dict[str, str]:
        """By block that could not be made the reason, see :meth:`damage`."""
        import zarr

        if self.complete:
            return cast("dict[str, str]", dict(zarr.open_group(self.path, mode="r").attrs).get("damaged", {}))
        found = dict[str, str]()
        for line in self._damage.read_text(errors="replace").splitlines() if self._damage.is_file() else ():
            with suppress(ValueError):  # where the machine stopped
                found |= json.loads(line)
        return found

    @property
    def _damage(self) -> Path:
        return self.path.parent / f".{self.path.name}.damaged"

    def read(self, dates: slice | int, rows: slice, columns: slice) -> np.ndarray:
        """Decoded values of a window: (dates, dim, h, w), or (dim, h, w) of one date.

        Raises:
            DamagedFile: bytes of it have changed on the disk.
        """
        return read_values(self.path, True, (dates, slice(None), rows, columns))

    def claims(self) -> Claims:
        """Who is at work on which block, by its number; have no two of them at once."""
        return Claims(self.path.parent / f".{self.path.name}.lock")

    @property
    def complete(self) -> bool:
        return (self.path / ".zmetadata").exists()

    def finish(self) -> None:
        """Joins the metadata in one file, which marks the store as complete."""
        import zarr

        missing = [block for block in self.blocks() if not self.done(*block)]
        if missing:
            raise ValueError(
                f"{self.path}: {len(missing)} of {np.prod(self.grid)} blocks are missing, e.g. {missing[0]}"
            )
        for leftover in self.path.rglob("*.partial"):  # of killed writers
            leftover.unlink()
        damaged = self.damaged()
        seal(self.path, **({"damaged": damaged} if damaged else {}))
        zarr.consolidate_metadata(self.path, zarr_format=2)
        self._damage.unlink(missing_ok=True)

    # Inside.

    def _lay_out(self, folder: Path, days: np.ndarray, geo: Geo | None, identity: dict[str, Any]) -> None:
        times, dim, height, width = self.shape
        root = new_group(folder, {"Conventions": "CF-1.10", "eo-fusion": __version__, "identity": identity})
        missing = NODATA if self.dtype == "int8" else np.nan
        values = root.create_array(
            "embedding",
            shape=self.shape,
            chunks=(times, dim, self.block, self.block),
            dtype=self.dtype,
            fill_value=missing,
            compressors=zstandard(2),
            config={"write_empty_chunks": True},
        )
        attributes: dict[str, Any] = {
            "_ARRAY_DIMENSIONS": ["time", "feature", "y", "x"],
            "long_name": "embedding",
            "units": "1",
        }
        attributes |= {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"} if geo else {}
        attributes |= {"decode": DECODE_FORMULA, "nodata": NODATA} if self.dtype == "int8" else {"decode": "value = v"}
        values.attrs.update(attributes)
        add_array(root, "time", days, ["time"], **TIME, standard_name="time")
        add_array(root, "feature", np.array(band_names(dim)), ["feature"])
        for name, (centres, about) in axes_of((height, width), geo).items():
            add_array(root, name, centres, [name], **about)
        if geo:
            georeference(root, geo)
        seal(folder)

    def _require(self, identity: dict[str, Any]) -> None:
        import zarr

        if (self.path / ".zattrs").is_file():
            require_unchanged(self.path)
        try:
            attributes: Mapping[str, Any] = zarr.open_group(self.path, mode="r").attrs
            found = dict(attributes["identity"])
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"{self.path} is there but is no store of embeddings ({error}); give another path"
            ) from error
        for key in dict.fromkeys([*identity, *found]):
            if found.get(key) != identity.get(key):
                raise ValueError(
                    f"{self.path} holds embeddings of something else: {key} is {_short(found.get(key))} there and "
                    f"{_short(identity.get(key))} here; give another path, or remove it"
                )


def open_store(path: str | Path, *, decoded: bool = True) -> xarray.Dataset:
    """The store as an xarray data set: ``embedding`` (time, feature, y, x) with dates, feature names and places.

    Values are read, and int8 codes decoded, when they are used; ``decoded=False`` leaves the codes.

    Raises:
        ValueError: there is no store, an unfinished one, or one whose metadata or coordinates have changed.
    """
    path = Path(path)
    if not (path / ".zattrs").exists():
        raise ValueError(f"{path}: no store of embeddings")
    if not (path / ".zmetadata").exists():
        raise ValueError(f"{path}: not complete; run the command that began it once more, it goes on where it stopped")
    return open_zarr(path, decoded)


def stack_geotiffs(rasters: Mapping[str, str | Path], out: str | Path, *, block: int = 64) -> EmbeddingStore:
    """The GeoTIFFs of several dates, as :func:`fusion.embed.embed_map` writes them for any system, in one store.

    Args:
        rasters: file by ISO date; all of one grid.

    Raises:
        ValueError: no raster, a date that is none or is given twice, or rasters of different grids, dimensions or
            models.
    """
    from .raster import read_embeddings

    if not rasters:
        raise ValueError("stack_geotiffs: no raster")
    dates = calendar_dates(list(rasters), "stack_geotiffs")
    order = np.argsort(dates, kind="stable")
    dates, names = dates[order], [list(rasters)[k] for k in order]
    twice = np.flatnonzero(dates[1:] == dates[:-1])
    if len(twice):
        pair = names[twice[0]], names[twice[0] + 1]
        raise ValueError(f"stack_geotiffs: {pair[0]} and {pair[1]} are the same date; keep one of them")
    found = [read_embeddings(rasters[date]) for date in names]
    first = found[0]
    for date, other in zip(names, found, strict=True):
        same = (other.values.shape, other.transform, other.crs, other.tags.get("FUSION_MODEL"))
        if same != (first.values.shape, first.transform, first.crs, first.tags.get("FUSION_MODEL")):
            raise ValueError(f"{rasters[date]}: grid, dimensions or model differ from those of {rasters[names[0]]}")
    if first.transform is None:
        raise ValueError(f"{rasters[names[0]]}: has no place, a GeoTIFF with a transform is wanted")
    a, b, c, d, e, f = tuple(first.transform)[:6]
    geo = Geo((a, b, c, d, e, f), first.crs or "")
    about = {"model": first.tags.get("FUSION_MODEL"), "system": first.tags.get("FUSION_SYSTEM")}
    values = np.stack([f.values for f in found])  # (dates, D, H, W)
    store = EmbeddingStore.create(out, dates, values.shape[1], values.shape[2:], geo, block=block, about=about)
    for i, j in store.blocks():
        if not store.done(i, j):
            store.write(i, j, values[:, :, *store.pixels(i, j)])
    store.finish()
    return store


def remove_leftovers(path: Path) -> None:
    """What killed processes left beside a store while they were creating it."""
    for folder in path.parent.glob(f".{path.name}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
