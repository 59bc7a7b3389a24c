"""Files of one band each, gathered to acquisitions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .patterns import File, Found

__all__ = ["Granule", "choose_size", "granules"]

# A pixel size as products write it into names: R10m, 20m.
_SIZE = re.compile(r"(?<![A-Za-z0-9])R?(\d+)m(?![A-Za-z0-9])")


@dataclass(frozen=True)
class Granule:
    """What one acquisition has in files of a band each.

    Attributes:
        date: as in the names; None for an image.
        bands: the files of each band; several where a band lies there in pixels of several sizes.
    """

    date: str | None
    bands: Mapping[str, Sequence[Path]]

    @property
    def first(self) -> File:
        """A file that stands for all of them."""
        return File(next(iter(self.bands.values()))[0], self.date)


def granules(files: Found) -> list[Granule]:
    """Acquisitions in the order of their dates.

    Files belong to one acquisition if their paths differ in the band and in pixel sizes (``R10m``, ``_20m``) alone, or
    if their date has no band twice. Two products of one date and place stay two, with the same date.

    Args:
        files: of one scene, ordered by date.
    """
    by_date: dict[str | None, dict[str, dict[str, list[Path]]]] = {}
    for file in files:
        bands = by_date.setdefault(file.date, {}).setdefault(_product(file), {})
        bands.setdefault(file.band or "", []).append(file.path)
    found = []
    for date, products in by_date.items():
        parts = list(products.values())
        names = [band for part in parts for band in part]
        if len(set(names)) == len(names):
            parts = [{band: paths for part in parts for band, paths in part.items()}]
        found += [Granule(date, part) for part in parts]
    return found


def _product(file: File) -> str:
    """The path without its band and without pixel sizes."""
    path = _SIZE.sub("{size}", file.path.as_posix())
    # Of a word that the band is a part of nothing is taken: B1 is not the beginning of B10.
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(file.band or '')}(?![A-Za-z0-9])", "{band}", path)


def choose_size(paths: Sequence[Path], wanted: float, metres: Callable[[Path], float]) -> Path:
    """Of the files of one band the one with the coarsest pixels that are not coarser than wanted, else the finest.

    Sizes in the names count, so that files which are not wanted need not be opened.

    Args:
        wanted: metres per pixel.
        metres: per pixel of a file.

    Raises:
        ValueError: files of the same pixel size.
    """
    if len(paths) == 1:
        return paths[0]
    named = [_SIZE.findall(path.name) or _SIZE.findall(path.as_posix()) for path in paths]
    sizes = [float(found[-1]) if found else 0.0 for found in named]
    if len(set(sizes)) < len(paths):
        sizes = [metres(path) for path in paths]
    if len(set(sizes)) < len(paths):
        raise ValueError(
            f"{paths[0]}: {paths[1].name} is another file of the same band, date and pixel size ({sizes[0]:g} m); one "
            "is wanted: write the pattern so that it takes one of them, or name the scene by {scene}"
        )
    fine = [size for size in sizes if size <= wanted * 1.01]
    return paths[sizes.index(max(fine) if fine else min(sizes))]
