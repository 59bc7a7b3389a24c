"""A checksum of all of a Zarr but the embeddings: metadata and coordinates, which decide what numbers mean and where
they are. Chunks of embeddings have their own, that of Zstandard.

It is the attribute ``sha256`` of the group. JSON is compared by what it says and not by its bytes, so that a store that
was only reformatted is still right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...training.files import write_atomically

__all__ = ["has_checksum", "require_unchanged", "seal", "zstandard"]

_NAME = "sha256"
_VALUES = "embedding"
_PARTS = (".zgroup", ".zattrs", ".zarray", "zarr.json")  # of a group or an array, in version 2 and 3
_CONSOLIDATED = "consolidated_metadata"


def zstandard(version: int) -> Any:
    """The compressor of chunks, with the checksum of Zstandard's format, which every decoder compares.

    The shuffle filter before it would save an eighth of a float32 store, and GDAL 3.10 does not know it.

    Args:
        version: of Zarr.
    """
    if version == 3:
        from zarr.codecs import ZstdCodec

        return ZstdCodec(level=1, checksum=True)
    from numcodecs import Zstd

    return Zstd(level=1, checksum=True)


def seal(path: Path, **attributes: Any) -> None:
    """Writes the checksum of a group into its attributes, in one step with ``attributes``; before its metadata are
    joined in one file."""
    name = "zarr.json" if (path / "zarr.json").is_file() else ".zattrs"
    parts = _parts(path)
    own = parts[name]["attributes"] if name == "zarr.json" else parts[name]
    own |= attributes
    own[_NAME] = _digest(path, parts)
    write_atomically(path / name, json.dumps(parts[name], indent=2).encode())


def has_checksum(path: Path) -> bool:
    return any(_NAME in attributes for attributes in _attributes(path))


def require_unchanged(path: Path) -> None:
    """Of a store with such a checksum; one without has been written by another program, or before there were any.

    Raises:
        ValueError: the metadata or the coordinates are not those that were written.
    """
    try:
        told = {attributes.get(_NAME) for attributes in _attributes(path)} - {None}
        wrong = bool(told) and (told != {_digest(path, _parts(path))} or not _joined_rightly(path))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged, its metadata cannot be read ({error}); take another copy of it"
        ) from error
    if wrong:
        raise ValueError(
            f"{path} is damaged: its metadata or coordinates are not those that were written (checksum); take another "
            f"copy of it. If they were changed on purpose, remove the attribute {_NAME} of the group"
        )


def _attributes(path: Path) -> Iterator[dict[str, Any]]:
    """Of the group, wherever they are."""
    if (path / "zarr.json").is_file():
        yield json.loads((path / "zarr.json").read_text()).get("attributes", {})
    if (path / ".zattrs").is_file():
        yield json.loads((path / ".zattrs").read_text())
    if (path / ".zmetadata").is_file():
        yield json.loads((path / ".zmetadata").read_text())["metadata"].get(".zattrs", {})


def _digest(path: Path, parts: dict[str, dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(parts.items()):
        said = {key: value for key, value in content.items() if key not in (_NAME, _CONSOLIDATED)}
        if name == "zarr.json":
            said["attributes"] = {k: v for k, v in content.get("attributes", {}).items() if k != _NAME}
        digest.update(f"{name}\n{json.dumps(said, sort_keys=True)}\n".encode())
    for array in sorted(_arrays(path)):
        files = [] if array.name == _VALUES else sorted(file for file in array.rglob("*") if file.is_file())
        for file in files:
            if file.name not in _PARTS:
                digest.update(f"{file.relative_to(path).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _joined_rightly(path: Path) -> bool:
    """Whether the metadata that are joined in one file, which most readers look at alone, are those of the parts."""
    parts = _parts(path)
    if (path / ".zmetadata").is_file():
        return bool(json.loads((path / ".zmetadata").read_text())["metadata"] == parts)
    joined = parts.get("zarr.json", {}).get(_CONSOLIDATED)
    if joined is None:  # not complete yet, or written by a program that does not join them
        return True
    within = {name.removesuffix("/zarr.json"): part for name, part in parts.items() if name != "zarr.json"}
    return bool(joined["metadata"] == within)


def _parts(path: Path) -> dict[str, dict[str, Any]]:
    """By place within the store the JSON of the group and of its arrays."""
    files = [folder / name for folder in (path, *_arrays(path)) for name in _PARTS]
    return {f.relative_to(path).as_posix(): json.loads(f.read_text()) for f in files if f.is_file()}


def _arrays(path: Path) -> list[Path]:
    return [folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
