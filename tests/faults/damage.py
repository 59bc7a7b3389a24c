"""Damage to files whose content does not matter: cut off, flipped, zeroed, replaced by something else."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Damage", "of_bytes", "of_place"]

Damage = tuple[str, Callable[[Path], None]]  # what it is called, and what does it to a file

_OTHERS = {
    "text": b"this is a plain text\nof two lines\n",
    "web page": b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "zip": b"PK\x05\x06" + bytes(18),
    "HDF5 signature": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "TIFF header": b"II*\0\x08\0\0\0" + bytes(32),
    "NumPy header": b"\x93NUMPY\x01\0v\0{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999, 9)}\n",
    "PNG signature": b"\x89PNG\r\n\x1a\n" + bytes(32),
    "pickle": b"\x80\x04\x95\x1c\0\0\0\0\0\0\0\x8c\x08builtins\x94\x8c\x04exit\x94\x93\x94)R\x94.",
    "noise": random.Random(0).randbytes(5000),
}


def of_bytes(seed: int, times: int) -> Iterator[Damage]:
    """Kinds of damage to the bytes of a file, those at random places so many times each."""

    def changed(change: Callable[[bytearray, random.Random], bytes | bytearray], number: int) -> Callable[[Path], None]:
        def apply(path: Path) -> None:
            path.write_bytes(change(bytearray(path.read_bytes()), random.Random(seed * 1000 + number)))

        return apply

    yield "empty", lambda path: path.write_bytes(b"") and None
    for name, content in _OTHERS.items():
        yield name, lambda path, content=content: path.write_bytes(content) and None
    for number in range(times):
        yield f"truncated {number}", changed(lambda data, draw: data[: draw.randrange(1, len(data))], number)
        yield f"header flipped {number}", changed(lambda data, draw: _flip(data, draw, min(len(data), 256)), number)
        yield f"body flipped {number}", changed(lambda data, draw: _flip(data, draw, len(data)), number)
        yield f"block zeroed {number}", changed(_zero, number)
        yield f"bytes inserted {number}", changed(_insert, number)


def of_place() -> Iterator[Damage]:
    """Something else in the place of a file: a folder, a link that leads nowhere or to itself."""

    def folder(path: Path) -> None:
        _remove(path)
        path.mkdir()

    def link(target: str) -> Callable[[Path], None]:
        def apply(path: Path) -> None:
            _remove(path)
            path.symlink_to(target.format(name=path.name))

        return apply

    yield "folder", folder
    yield "broken link", link("nowhere{name}")
    yield "link to itself", link("{name}")
    yield "missing", _remove
    yield "no permission", lambda path: path.chmod(0)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _flip(data: bytearray, draw: random.Random, within: int) -> bytearray:
    for _ in range(draw.choice((1, 3, 10))):
        data[draw.randrange(within)] ^= 1 << draw.randrange(8)
    return data


def _zero(data: bytearray, draw: random.Random) -> bytearray:
    start, length = draw.randrange(len(data)), draw.choice((16, 200, 4096))
    length = min(length, len(data) - start)
    data[start : start + length] = bytes(length)
    return data


def _insert(data: bytearray, draw: random.Random) -> bytearray:
    start = draw.randrange(len(data))
    data[start:start] = draw.randbytes(draw.choice((1, 7, 100)))
    return data
