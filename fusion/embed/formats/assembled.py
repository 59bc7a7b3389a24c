"""Cloud-optimised GeoTIFFs put together from blocks that are compressed already.

GDAL's driver for such files takes one process, which reads and compresses everything again. Here the directories are
written first and the blocks of tiled GeoTIFFs are copied behind them as they are: the overviews from the smallest on,
then the raster itself, as that driver lays files out.

Sources: TIFF 6.0 and BigTIFF (https://www.awaresystems.be/imaging/tiff/bigtiff.html); the ghost area, the order of
blocks, and what comes before and after each of them: https://gdal.org/drivers/raster/cog.html.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

__all__ = ["assemble"]

_GHOST = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_AREA = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_GHOST) + _GHOST
_AROUND = 4, 4  # bytes before and after a block
_CLASSIC = 2**32 - 2**20  # bytes of a file whose offsets have four bytes

_SUBFILE, _ROWS, _OFFSETS, _SIZES = 254, 257, 324, 325  # tags: NewSubfileType, ImageLength, TileOffsets, TileByteCounts
_OF_THE_RASTER = {33550, 33922, 34264, 34735, 34736, 34737, 42112}  # its place, and GDAL's metadata
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_LONG, _LONG8 = 4, 16

_Tags = dict[int, tuple[int, int, bytes]]  # by tag its type, how many values there are, and these


@dataclass(frozen=True)
class _Blocks:
    """Where those of one file are, row by row."""

    path: Path
    offsets: np.ndarray
    sizes: np.ndarray

    def __iter__(self) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            for offset, size in zip(self.offsets.tolist(), self.sizes.tolist(), strict=True):
                file.seek(offset)
                yield file.read(size)


def assemble(path: Path, empty: Path, raster: Sequence[Path], overviews: Sequence[Sequence[Path]]) -> None:
    """Writes the file, and reads every block of it back.

    All of what it is made of are tiled BigTIFFs of the machine's byte order, with the same blocks, all bands together.

    Args:
        empty: of the raster's size and without blocks, whose tags the file gets.
        raster: rows of it, from north to south, each file but the last of whole blocks.
        overviews: the same of each, from the largest to the smallest.

    Raises:
        OSError: it cannot be written, or what is on disk is not what was written.
    """
    levels = [[_blocks(part) for part in parts] for parts in (raster, *overviews)]
    tags = [_tags(empty), *map(_of_overview, overviews)]
    most = sum(int(b.sizes.sum()) + 24 * len(b.sizes) for blocks in levels for b in blocks)
    most += sum(len(value) + 32 for of_level in tags for _, _, value in of_level.values())
    directories, starts = _laid_out(tags, levels, big=most > _CLASSIC)
    with open(path, "wb", buffering=2**20) as file:
        file.write(directories)
        for blocks in reversed(levels):
            for part in blocks:
                for block in part:
                    file.write(struct.pack("<I", len(block)) + block + block[-4:])
    with open(path, "rb") as file:
        file.seek(starts)
        for blocks in reversed(levels):
            for part in blocks:
                _compare(file, part)


def _compare(file: BinaryIO, part: _Blocks) -> None:
    before, after = _AROUND
    for block in part:
        if file.read(before + len(block) + after)[before:-after] != block:
            raise OSError("what is on disk differs from what was written; the disk may be full or faulty")


def _laid_out(tags: Sequence[_Tags], levels: Sequence[Sequence[_Blocks]], *, big: bool) -> tuple[bytes, int]:
    """What comes before the blocks, and how many bytes it has."""
    places = [np.concatenate([part.sizes for part in blocks]) for blocks in levels]
    kind, code = (_LONG8, "=u8") if big else (_LONG, "=u4")

    def directories(offsets: Sequence[np.ndarray]) -> bytes:
        out = _header(big)
        for number, (known, sizes) in enumerate(zip(tags, places, strict=True)):
            own = {
                _OFFSETS: (kind, len(sizes), offsets[number].astype(code).tobytes()),
                _SIZES: (_LONG, len(sizes), sizes.astype("=u4").tobytes()),
            }
            out += _directory(known | own, len(out), big=big, last=number == len(tags) - 1)
        return out

    start = len(directories(places))  # which is the same whatever the offsets are
    offsets, here = [np.empty(0, dtype=np.int64)] * len(levels), start
    for number in reversed(range(len(levels))):
        steps = places[number] + sum(_AROUND)
        offsets[number] = here + np.cumsum(steps) - steps + _AROUND[0]
        here += int(steps.sum())
    return directories(offsets), start


def _header(big: bool) -> bytes:
    """With the ghost area, to which the first directory follows."""
    first = -(-((16 if big else 8) + len(_AREA)) // 8) * 8
    head = struct.pack("=HHHHQ", _order(), 43, 8, 0, first) if big else struct.pack("=HHI", _order(), 42, first)
    return (head + _AREA).ljust(first, b"\0")


def _directory(tags: _Tags, start: int, *, big: bool, last: bool) -> bytes:
    """An image file directory that begins at ``start``, and the values that have no place in it."""
    count, entry, inside, word = ("=Q", 20, 8, "=Q") if big else ("=H", 12, 4, "=I")
    head = struct.calcsize(count)
    outside = start + head + entry * len(tags) + inside
    outside += -outside % 8
    entries, values = struct.pack(count, len(tags)), b""
    for tag, (kind, number, value) in sorted(tags.items()):
        entries += struct.pack("=HHQ" if big else "=HHI", tag, kind, number)
        if len(value) <= inside:
            entries += value.ljust(inside, b"\0")
        else:
            entries += struct.pack(word, outside + len(values))
            values += value.ljust(-(-len(value) // 8) * 8, b"\0")
    following = outside + len(values)
    entries += struct.pack(word, 0 if last else following)
    return entries.ljust(outside - start, b"\0") + values


def _tags(path: Path) -> _Tags:
    """The first directory of a BigTIFF, but for where its blocks are."""
    return {tag: entry for tag, entry in _read(path).items() if tag not in (_OFFSETS, _SIZES)}


def _of_overview(parts: Sequence[Path]) -> _Tags:
    known = [_tags(part) for part in parts]
    kept = {tag: entry for tag, entry in known[0].items() if tag not in _OF_THE_RASTER}
    rows = sum(int.from_bytes(part[_ROWS][2], sys.byteorder) for part in known)
    return kept | {_SUBFILE: (_LONG, 1, struct.pack("=I", 1)), _ROWS: (_LONG, 1, struct.pack("=I", rows))}


def _blocks(path: Path) -> _Blocks:
    def numbers(tag: int) -> np.ndarray:
        kind, _, value = tags[tag]
        return np.frombuffer(value, f"=u{_BYTES[kind]}").astype(np.int64)

    tags = _read(path)
    return _Blocks(path, numbers(_OFFSETS), numbers(_SIZES))


def _read(path: Path) -> _Tags:
    with open(path, "rb") as file:
        order, version, _, _, first = struct.unpack("=HHHHQ", file.read(16))
        if (order, version) != (_order(), 43):
            raise OSError(f"{path} is no BigTIFF of this machine's byte order")
        file.seek(first)
        (count,) = struct.unpack("=Q", file.read(8))
        entries = [struct.unpack("=HHQ8s", file.read(20)) for _ in range(count)]
        found: _Tags = {}
        for tag, kind, number, value in entries:
            size = number * _BYTES[kind]
            if size > 8:
                file.seek(struct.unpack("=Q", value)[0])
                value = file.read(size)
            found[tag] = kind, number, value[:size]
    return found


def _order() -> int:
    """The first two bytes of a TIFF of this machine's byte order: II or MM."""
    return int(struct.unpack("=H", b"II" if sys.byteorder == "little" else b"MM")[0])
