"""A folder of Zarr of which truncated chunks are refused that the Blosc of numcodecs decodes to arbitrary numbers."""

from __future__ import annotations

import json
import struct
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
        self._blosc: dict[Path, bool] = {}  # by folder of chunks

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        found = await super().get(key, prototype, byte_range)
        whole = byte_range is None and key.rpartition("/")[2] not in _METADATA
        if found is not None and whole and self._in_blosc(Path(key).parent):
            header = found[:_HEADER].to_bytes()
            wanted = struct.unpack_from("<I", header, 12)[0] if len(header) == _HEADER else _HEADER
            if len(found) < wanted:
                raise OSError(f"chunk {key} has {len(found)} of {wanted} bytes")
        return found

    def _in_blosc(self, folder: Path) -> bool:
        """Whether Blosc compresses the chunks of the array that a folder belongs to."""
        if folder not in self._blosc:
            above = (_compressor(self.root / inner) for inner in (folder, *folder.parents))
            self._blosc[folder] = next((name for name in above if name is not None), "") == "blosc"
        return self._blosc[folder]


def _compressor(folder: Path) -> str | None:
    """Name of what compresses an array, "" for nothing; None of a folder that is no array."""
    for name in (".zarray", "zarr.json"):
        if (folder / name).is_file():
            about = json.loads((folder / name).read_text())
            if name == ".zarray":
                return str((about.get("compressor") or {}).get("id", ""))
            codecs = about.get("codecs") or [{}]
            return str(codecs[-1].get("name", ""))
    return None
