"""The files of a folder by their kind, listed once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..folder.containers import CONTAINERS, NPY
from ..folder.raster import RASTERS

__all__ = ["Listing", "list_files"]

VECTORS = (".gpkg", ".geojson", ".shp", ".fgb")
TABLES = (".csv", ".tsv")
MOST = 200_000  # files; a folder with more is described by a folder inside it
# Beside the products they belong to; not data.
_BESIDE = (".aux.xml", ".ovr", ".msk", ".qix", ".cpg", ".prj", ".dbf", ".shx", ".sbn", ".sbx")


@dataclass
class Listing:
    """
    Attributes:
        folder: that patterns are of.
        rasters, containers, arrays, vectors, tables, items: paths relative to it, sorted; items are .json.
        others: how many files are of no kind that is read, by suffix.
    """

    folder: Path
    rasters: list[Path] = field(default_factory=list)
    containers: list[Path] = field(default_factory=list)
    arrays: list[Path] = field(default_factory=list)
    vectors: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    items: list[Path] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)

    def take(self, kind: str, files: Iterable[Path]) -> None:
        """Leaves out what a recogniser has claimed."""
        claimed = set(files)
        setattr(self, kind, [path for path in getattr(self, kind) if path not in claimed])

    @property
    def data(self) -> Sequence[Path]:
        """What could be images or series."""
        return [*self.rasters, *self.containers, *self.arrays]


def list_files(path: Path) -> Listing:
    """Of a folder, or the one file with its folder.

    Raises:
        ValueError: no such path, an empty folder, or too many files.
    """
    if not path.exists():
        raise ValueError(f"no data at {path}; give a folder or a file that is there")
    if path.is_file() or path.suffix.lower() == ".zarr":
        listing = Listing(path.parent)
        _enter(listing, path.relative_to(path.parent))
        return listing
    listing, count = Listing(path), 0
    for here, folders, names in os.walk(path):
        folders.sort()
        relative = Path(here).relative_to(path)
        for name in [name for name in folders if name.lower().endswith(".zarr")]:
            _enter(listing, relative / name)  # a store of Zarr is a folder, and is not looked into
        folders[:] = [name for name in folders if not name.startswith(".") and not name.lower().endswith(".zarr")]
        for name in sorted(names):
            count += 1
            if not name.startswith("."):
                _enter(listing, relative / name)
        if count > MOST:
            raise ValueError(f"{path}: more than {MOST} files; give a folder inside it, e.g. one scene, and widen the "
                             "patterns of the result")  # fmt: skip
    for kind in ("rasters", "containers", "arrays", "vectors", "tables", "items"):
        getattr(listing, kind).sort()
    if not count and not listing.containers:
        raise ValueError(f"{path}: an empty folder (0 files); give the folder that holds the images")
    return listing


def _enter(listing: Listing, path: Path) -> None:
    suffix = path.suffix.lower()
    kinds = {
        RASTERS: listing.rasters, CONTAINERS: listing.containers, (NPY,): listing.arrays, VECTORS: listing.vectors,
        TABLES: listing.tables, (".json",): listing.items,
    }  # fmt: skip
    for suffixes, files in kinds.items():
        if suffix in suffixes:
            files.append(path)
            return
    if not path.name.lower().endswith(_BESIDE) and suffix not in (".yaml", ".yml"):
        listing.others[suffix or "no suffix"] = listing.others.get(suffix or "no suffix", 0) + 1
