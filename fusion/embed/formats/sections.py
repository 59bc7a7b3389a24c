"""A cloud-optimised GeoTIFF of vectors in the making: rows are compressed as soon as they are there, by whoever made
them.

Overviews are means of vectors. Those of int8 codes, which are no linear scale, are as AlphaEarth's: the mean of the
vectors of all pixels below, of length 1 again. GDAL's driver would average band by band, codes as if they were numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from ...data.given import numbers
from ...training.files import write_atomically
from ..codec import NODATA, Dtype, ErrorMeter, as_stored, decoded
from ..notes import crc, crc_of_file, note_of, to_note
from .array_file import ArrayFile, Windows, sync
from .assembled import assemble
from .chunks import chunk_side, windows
from .optimised import small_cache, tiled_profile
from .temporary import explained

__all__ = ["Sections"]

_HEIGHT = 256  # rows of a section: whole blocks, whatever their size
_LEVEL = 1  # of deflate: 6 takes twice the time and saves 3 % of a float32 file, 2 % of an int8 one


class Sections:
    """Rows of a raster, of which several processes may each compress some. A block is in memory at a time.

    What is finished lies in ``folder``: by section its compressed blocks, what it adds to the overviews, and how far
    what is stored is from what was given, so that a later process goes on with it.

    Args:
        path: of the file to come.
        values: NaN where there is no data; rows of a section are read when it is compressed.
        dtype: ``float32`` keeps the vectors as they are; ``int8`` stores their direction.
        height: rows of a section, a multiple of 256.

    Attributes:
        count: of sections.
    """

    def __init__(self, path: Path, folder: Path, values: Windows, dtype: Dtype, height: int = _HEIGHT) -> None:
        self.path, self.folder, self.values, self.dtype, self.height = path, folder, values, dtype, height
        rows, columns, dim = values.shape
        self.side = chunk_side(dim, np.dtype(dtype).itemsize)
        self.count = -(-rows // height)
        self._whole: set[int] = set()  # sections whose bytes were compared
        self._levels: dict[int, tuple[ArrayFile, ArrayFile]] = {}  # by factor means, and pixels that have data
        for factor in _factors((rows, columns), self.side):
            size = -(-rows // factor), -(-columns // factor)
            means = ArrayFile(folder / f"overview-{factor}", (*size, dim), np.float32)
            self._levels[factor] = means, ArrayFile(folder / f"count-{factor}", size, np.int64)

    def finished(self, number: int) -> bool:
        """Whether a section is there, with the bytes that were written."""
        if number not in self._whole:
            try:
                note = note_of(self._note(number).read_bytes())
                if note is not None and note["contents"] == self._contents(number):
                    self._whole.add(number)
            except FileNotFoundError:
                return False
        return number in self._whole

    def compress(self, number: int) -> None:
        """One section, and reads back what was written.

        Raises:
            RuntimeError: it cannot be written.
        """
        with small_cache(), explained(self.path):
            self._compress(number)

    def _compress(self, number: int) -> None:
        import rasterio

        top, columns = number * self.height, self.values.shape[1]
        rows = min(self.height, self.values.shape[0] - top)
        meter, path = ErrorMeter(), self._file(number)
        with self._writing(path, (rows, columns)) as file:
            for here in self._blocks(rows, columns):
                block = self._block(top, here)
                _write(file, here, as_stored(block, self.dtype))
        with rasterio.open(path) as file:
            for here in self._blocks(rows, columns):
                kept = decoded(_read(file, here))
                meter.add(self._block(top, here), kept)
                self._add_to_overviews(kept, top + here[0].start, here[1].start)
        for factor, (means, counts) in self._levels.items():
            means.sync()
            counts.sync()
            if self._by_sections(factor):
                self._write_overview(factor, number, self.height // factor)
        self._whole.discard(number)
        write_atomically(self._note(number), to_note({"error": meter.state(), "contents": self._contents(number)}))

    @small_cache()
    def write(
        self, path: Path, transform: Affine, crs: str, bands: Sequence[str], tags: Mapping[str, str]
    ) -> ErrorMeter:
        """The file, of sections that are all finished; says how far what is stored is from what was given.

        Args:
            transform: from (column, row) to (x, y), north up.
            crs: anything that rasterio understands; empty where unknown.
            bands: D names.

        Raises:
            OSError: it cannot be written, or what is on disk is not what was written.
        """
        self._finish_overviews()
        overviews = [self._overview(factor) for factor in self._levels]
        empty = self.folder / "empty.tif"
        with self._writing(empty, self.values.shape[:2], transform, crs, sparse_ok=True) as file:
            for number, name in enumerate(bands, start=1):
                file.set_band_description(number, name)
            file.update_tags(**tags)
        assemble(path, empty, [self._file(number) for number in range(self.count)], overviews)
        meter = ErrorMeter()
        for number in range(self.count):
            note = note_of(self._note(number).read_bytes())
            if note is None:
                raise OSError(f"{self._note(number)} is damaged; run the same command again")
            meter.join(note["error"])
        return meter

    def _contents(self, number: int) -> dict[str, int]:
        """Checksums of what a section consists of: its files, and its rows of those overviews that are read later."""
        found = {}
        for factor in (1, *(factor for factor in self._levels if self._by_sections(factor))):
            path = self._file(number, factor)
            found[path.name] = crc_of_file(path)
        for factor, level in self._levels.items():
            if factor <= self.side:
                rows = range(len(level[0]))[number * self.height // factor : -(-(number + 1) * self.height // factor)]
                for part in level:
                    found[part.path.name] = 0
                    for row in rows:  # of which all together may not fit into memory
                        found[part.path.name] = crc(part[row], found[part.path.name])
        return found

    def _file(self, number: int, factor: int = 1) -> Path:
        return self.folder / f"section-{factor}-{number:06d}.tif"

    def _note(self, number: int) -> Path:
        return self.folder / f"section-{number:06d}.json"

    def _block(self, top: int, here: tuple[slice, slice]) -> np.ndarray:
        rows, columns = here
        return numbers(self.values[top + rows.start : top + rows.stop, columns], str(self.path))

    def _blocks(self, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
        return windows(rows, columns, (self.side, self.side))

    @contextlib.contextmanager
    def _writing(
        self, path: Path, size: tuple[int, ...], transform: Affine | None = None, crs: str = "", **options: Any
    ) -> Iterator[Any]:
        """A tiled GeoTIFF as :func:`~.assembled.assemble` takes them, on the disk at the end."""
        import rasterio

        dim, nodata = self.values.shape[2], NODATA if self.dtype == "int8" else np.nan
        known = transform or Affine(2, 0, 0, 0, -2, 0)  # any but the identity, of which rasterio warns
        profile = tiled_profile((size[0], size[1]), dim, self.dtype, nodata, known, crs, self.side)
        profile |= {"interleave": "pixel", "bigtiff": "yes", "compress": "deflate", "zlevel": _LEVEL}
        profile |= {"predictor": 2 if self.dtype == "int8" else 3}
        with rasterio.open(path, "w", **profile, **options) as file:
            yield file
        sync(path)

    def _add_to_overviews(self, vectors: np.ndarray, top: int, left: int) -> None:
        """What a block (rows, columns, D) adds to those of which it has whole pixels."""
        known = ~np.isnan(vectors).any(axis=-1)
        sums, counts = np.where(known[..., None], vectors, 0), known.astype(np.int64)
        for factor, level in self._levels.items():
            if factor > self.side:
                return
            sums, counts = _halved(sums), _halved(counts)
            here = tuple(slice(a // factor, a // factor + n) for a, n in zip((top, left), counts.shape, strict=True))
            _put(level, here, sums, counts)

    def _finish_overviews(self) -> None:
        """Those of which a pixel is larger than a block."""
        for factor, level in self._levels.items():
            if factor > self.side:
                finer = self._levels[factor // 2]
                for here in self._blocks(*level[0].shape[:2]):
                    means, counts = (part[tuple(slice(2 * s.start, 2 * s.stop) for s in here)] for part in finer)
                    sums = np.where(counts[..., None] > 0, means, 0) * counts[..., None].astype(np.float32)
                    _put(level, here, _halved(sums), _halved(counts))

    def _by_sections(self, factor: int) -> bool:
        """Whether sections have whole blocks of an overview."""
        return factor <= self.side and self.height % (factor * self.side) == 0

    def _overview(self, factor: int) -> list[Path]:
        if self._by_sections(factor):
            return [self._file(number, factor) for number in range(self.count)]
        return [self._write_overview(factor, 0, len(self._levels[factor][0]))]

    def _write_overview(self, factor: int, number: int, height: int) -> Path:
        """The blocks of part ``number`` of an overview, of ``height`` rows."""
        means, _ = self._levels[factor]
        top, (rows, columns, _) = number * height, means.shape
        path, rows = self._file(number, factor), min(height, rows - top)
        with self._writing(path, (rows, columns)) as file:
            for here in self._blocks(rows, columns):
                vectors = means[top + here[0].start : top + here[0].stop, here[1]]
                _write(file, here, as_stored(vectors, self.dtype))
        return path


def _factors(size: tuple[int, int], side: int) -> list[int]:
    """2, 4, ... until an overview is one block."""
    factors: list[int] = []
    while max(size) / 2 ** len(factors) > side:
        factors.append(2 ** (len(factors) + 1))
    return factors


def _halved(values: np.ndarray) -> np.ndarray:
    """(rows, columns, ...) -> the sums of squares of 2 x 2, at the lower and right border of what there is of them."""
    for axis in (0, 1):
        total, other = (values[k::2] if axis == 0 else values[:, k::2] for k in (0, 1))
        total = total.copy()
        total[: other.shape[0], : other.shape[1]] += other
        values = total
    return values


def _put(level: tuple[ArrayFile, ArrayFile], here: Any, sums: np.ndarray, counts: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):
        level[0][here] = sums / np.where(counts == 0, np.nan, counts).astype(np.float32)[..., None]
    level[1][here] = counts


def _read(file: Any, here: tuple[slice, slice]) -> np.ndarray:
    return np.moveaxis(file.read(window=tuple((part.start, part.stop) for part in here)), 0, -1)


def _write(file: Any, here: tuple[slice, slice], stored: np.ndarray) -> None:
    file.write(np.moveaxis(stored, -1, 0), window=tuple((part.start, part.stop) for part in here))
