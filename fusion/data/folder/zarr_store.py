"""A folder of Zarr of which truncated chunks are refused that the Blosc of numcodecs decodes to arbitrary numbers."""

from __future__ import annotations

import json
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

__all__ = ["CheckedStore"]

_HEADER = 16  # bytes: version, flags and sizes of a chunk of Blosc 1 (README_CHUNK_FORMAT.rst of c-blosc)
_METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")


class CheckedStore(LocalStore):
    """Read only. What a copy that broke off has left of a chunk is an error for every codec but Blosc, whose decoder
    reads past the end of what it is given; the size that a chunk ought to have is in its header.

    Raises:
        OSError: a chunk that is shorter than it says.
    """

    def __init__(self, root: Path | str) -> None:
        super().__init__(root, read_only=True)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        found = await super().get(key, prototype, byte_range)
        whole = byte_range is None and key.rpartition("/")[2] not in _METADATA
        if found is not None and whole and _in_blosc(self.root, str(Path(key).parent)):
            content = found.to_bytes()
            wanted = struct.unpack("<I", content[12:_HEADER])[0] if len(content) >= _HEADER else _HEADER
            if len(content) < wanted:
                raise OSError(f"chunk {key} has {len(content)} of {wanted} bytes")
        return found


@lru_cache(maxsize=4096)
def _in_blosc(root: Path, folder: str) -> bool:
    """Whether Blosc compresses the chunks of the array that a folder belongs to."""
    for inner in (Path(folder), *Path(folder).parents):
        for name in (".zarray", "zarr.json"):
            file = root / inner / name
            if not file.is_file():
                continue
            about = json.loads(file.read_text())
            if name == ".zarray":
                return (about.get("compressor") or {}).get("id") == "blosc"
            codecs = about.get("codecs", [])
            return bool(codecs) and codecs[-1].get("name") == "blosc"
    return False
