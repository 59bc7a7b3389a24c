"""Modalities whose bands lie apart: a file or a variable each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .band_stack import BandStack
from .bands import check_band
from .description import Source
from .granules import Granule, choose_size, granules
from .opening import Opener, Tiles, check_single
from .patterns import File, Found
from .pixels import Pixels, Stack
from .raster import RASTERS

__all__ = ["Apart", "apart"]

Place = tuple[Path, str | None] | None  # file and variable of a band; None where it is not there or not wanted


def apart(modality: str, source: Source, files: Found, opener: Opener) -> Apart | None:
    """The files of a modality whose bands lie apart; None where they lie together.

    Raises:
        ValueError: as :class:`Apart`.
    """
    if isinstance(source.variable, tuple):
        return Apart(modality, source, [_of_variables(source, file) for file in files], list(files), opener)
    if not source.of_bands(source.files or opener.description.files):
        return None
    products = granules(files)
    if source.missing_bands:  # a date with none of what is read tells nothing
        wanted = _wanted(source)
        products = [product for product in products if wanted & product.bands.keys()] or products
    steps = [_of_files(modality, source, product, opener) for product in products]
    return Apart(modality, source, steps, [product.first for product in products], opener)


class Apart:
    """
    Args:
        steps: place of each band, (dates or 1, bands).
        files: one that stands for each step.

    Raises:
        ValueError: several files and no dates, or a date without one of the bands.
    """

    def __init__(
        self, modality: str, source: Source, steps: Sequence[Sequence[Place]], files: Found, opener: Opener
    ) -> None:
        self.modality, self.source, self.steps, self.files, self.opener = modality, source, steps, files, opener
        self.dated = "time" in source.axes and files[0].date is not None
        if not self.dated:
            check_single(f"a band of {modality!r}", files)

    def open(self, tiles: Tiles | None) -> Pixels:
        """All bands as one array, in pixels of the described resolution.

        Raises:
            ValueError: as :meth:`.opening.Opener.open`.
        """
        source, what, names = self.source, repr(self.modality), _names(self.source)
        method, resolution = source.resample or "usual", source.resolution
        parts = [
            [self._part(place, name, tiles is None) for place, name in zip(step, names, strict=True)]
            for step in self.steps
        ]
        tiles = tiles or self.opener.first_tiles([part for step in parts for part in step], resolution, method)
        there, bands = [], []
        for step in parts:
            for part, name in zip(step, names, strict=True):
                if part is not None:
                    there.append(self.opener.on_tiles(part, what, resolution, tiles, resample=method, band=name))
                    bands.append(name)
        laid = iter(self.opener.resampled.equal(there, what, bands, resolution or 1.0, method))
        stacks = [BandStack([None if part is None else next(laid) for part in step]) for step in parts]
        return Stack(stacks) if self.dated else stacks[0]

    def _part(self, place: Place, band: str, first: bool) -> Pixels | None:
        if place is None:
            return None
        path, variable = place
        raster = path.suffix.lower() in RASTERS
        left_out = {"time"} if self.dated else set()
        axes = [axis for axis in self.source.axes if axis not in left_out | (set() if raster else {"band"})]
        part = self.opener.part(
            repr(self.modality), path, variable, axes, self.source.resolution, bands=1,
            first=first and variable == self._finest(path), empty_chunks=self.source.empty_chunks,
        )  # fmt: skip
        if part.sizes.get("band", 1) != 1:
            raise ValueError(
                f"{path}: {self.modality!r}: {part.sizes['band']} bands in the file of {band}, one is wanted; leave "
                "{band} out of the pattern if every file has all bands"
            )
        check_band(path, repr(self.modality), part.band_names, band, _names(self.source))
        part.band_names = ()  # checked, and none of the position of the band
        return part

    def _finest(self, path: Path) -> str | None:
        """The variable with most pixels, whose coordinates must fit it."""
        names = self.source.variable
        if not isinstance(names, tuple):
            return names
        return max(names, key=lambda name: int(np.prod(self.opener.arrays.get(path, name).shape)))


def _names(source: Source) -> tuple[str, ...]:
    return source.bands if isinstance(source.bands, tuple) else ()


def _wanted(source: Source) -> set[str]:
    """The bands that are read: those to use, and that of the mask."""
    masking = {source.mask.band} if source.mask is not None and source.mask.files is None else set()
    return {name for name in _names(source) if not source.use or name in source.use or name in masking}


def _of_variables(source: Source, file: File) -> list[Place]:
    wanted, names = _wanted(source), source.variable
    return [
        (file.path, variable) if name in wanted else None
        for name, variable in zip(_names(source), names if isinstance(names, tuple) else (), strict=True)
    ]


def _of_files(modality: str, source: Source, product: Granule, opener: Opener) -> list[Place]:
    wanted, sizes = _wanted(source), {}
    found: list[Place] = []
    for name in _names(source):
        paths = product.bands.get(name, ())
        if name not in wanted:
            found.append(None)
        elif paths:
            chosen = choose_size(paths, source.resolution or 1.0, lambda path: _metres(modality, path, source, opener))
            found.append((chosen, source.named))
            sizes[name] = len(paths)
        elif source.missing_bands:
            found.append(None)
        else:
            when = "" if product.date is None else f" of {product.date}"
            raise ValueError(
                f"{product.first.path}: {modality!r}: no file of band {name}{when} beside it; copy it, leave the band "
                "out by use, or write missing_bands: true"
            )
    several = [name for name, count in sizes.items() if count > 1]
    if several:
        opener.remarks.setdefault(
            f"sizes of {modality}",
            f"{modality}: {' '.join(several)} lie there in pixels of several sizes; the coarsest that are not coarser "
            f"than {source.resolution:g} m are read, or the finest",
        )
    if not any(found):
        raise ValueError(f"{product.first.path}: {modality!r}: no file of {', '.join(sorted(wanted))} beside it")
    return found


def _metres(modality: str, path: Path, source: Source, opener: Opener) -> float:
    axes = [axis for axis in source.axes if axis not in ("time", "band")]
    part = opener.part(repr(modality), path, source.named, axes, source.resolution, bands=1)
    metres = None if part.grid is None else part.grid.metres
    # In degrees and without place more pixels of the same ground are smaller ones.
    return 1e9 / part.sizes["y"] if metres is None else metres
