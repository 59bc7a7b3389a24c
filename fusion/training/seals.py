"""Checksums within files: no bit that changes on a disk or on the way goes unnoticed.

safetensors files have theirs in the metadata, of all bytes with 64 zeros in its place. States of runs are zip archives,
which may end with a comment: there it is, of all bytes before.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import torch

__all__ = ["check_archive", "check_tensors", "sealed_archive", "sealed_tensors"]

_ZEROS = "0" * 64
_PLACE = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_COMMENT = b"sha256:"


def sealed_tensors(tensors: dict[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with the entry ``sha256`` in its metadata; of equal models it has the same bytes."""
    from safetensors.torch import save

    content = _in_order(save(tensors, metadata={**metadata, "sha256": _ZEROS}))
    found = _PLACE.search(content)
    if found is None or found.group(1) != _ZEROS.encode():
        raise AssertionError("safetensors writes metadata in another form than this package knows")
    start, end = found.span(1)
    return b"".join((content[:start], hashlib.sha256(content).hexdigest().encode(), content[end:]))


def _in_order(content: bytes) -> bytes:
    """A safetensors file whose metadata are in alphabetical order; safetensors writes them in a random one."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
    written = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)  # tensors begin at a multiple of 8
    return struct.pack("<Q", len(written)) + written + content[8 + length :]


def check_tensors(path: Path) -> None:
    """Of a file of :func:`sealed_tensors`.

    Raises:
        ValueError: a byte of it has changed, or it has no checksum.
    """
    digest, told = hashlib.sha256(), None
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = struct.pack("<Q", length) + file.read(length)
        if found := _PLACE.search(header):
            told = found.group(1).decode()
            header = header[: found.start(1)] + _ZEROS.encode() + header[found.end(1) :]
        digest.update(header)
        while part := file.read(1 << 24):
            digest.update(part)
    if told is None:
        raise ValueError(f"{path} is damaged: it has no checksum, and was written with one")
    if told != digest.hexdigest():
        raise ValueError(_changed(path))


def sealed_archive(content: bytes) -> bytes:
    """A zip archive without a comment, as ``torch.save`` writes it, with one that holds its checksum."""
    if content[-22:-18] != b"PK\x05\x06" or content[-2:] != b"\0\0":
        raise AssertionError("torch.save writes archives of another form than this package knows")
    content = content[:-2] + struct.pack("<H", len(_COMMENT) + 64) + _COMMENT
    return content + hashlib.sha256(content).hexdigest().encode()


def check_archive(path: Path) -> bool:
    """Whether the file has a checksum, which is right.

    Raises:
        ValueError: a byte of it has changed.
    """
    size = path.stat().st_size - 64
    digest, last = hashlib.sha256(), b""
    with open(path, "rb") as file:
        while size > 0 and (part := file.read(min(1 << 24, size))):
            digest.update(part)
            last, size = (last + part)[-len(_COMMENT) :], size - len(part)
        told = file.read()
    if last != _COMMENT:
        return False
    if told != digest.hexdigest().encode():
        raise ValueError(_changed(path))
    return True


def _changed(path: Path) -> str:
    return f"{path} is damaged: its bytes are not those that were written (checksum); take another copy of it"
