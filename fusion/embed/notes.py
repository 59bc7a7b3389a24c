"""JSON on one line with a checksum of its own, for what a later run relies on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["crc", "crc_of_file", "note_of", "to_note"]

_NAME = "crc32"


def to_note(entry: Mapping[str, Any]) -> bytes:
    """``entry`` with one more field, ``crc32``; a line without its end."""
    return json.dumps({**entry, _NAME: zlib.crc32(json.dumps(entry).encode())}).encode()


def note_of(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None where it is not what was written."""
    try:
        entry = json.loads(line)
        told = entry.pop(_NAME)
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    known: dict[str, Any] | None = entry if told == zlib.crc32(json.dumps(entry).encode()) else None
    return known


def crc(content: bytes | np.ndarray, before: int = 0) -> int:
    """CRC-32 of bytes, or of those of an array in the order of its axes; ``before``: that of what they follow."""
    return zlib.crc32(content if isinstance(content, bytes) else np.ascontiguousarray(content).data, before)


def crc_of_file(path: Path) -> int:
    found = 0
    with open(path, "rb") as file:
        while part := file.read(2**22):
            found = zlib.crc32(part, found)
    return found
