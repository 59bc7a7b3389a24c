"""Masks of the modalities of a described folder: which pixels of which dates are clear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .calendar import parse_dates
from .containers import CONTAINERS, NPY
from .conventions import Conventions, equals_any
from .description import AXES, Mask, Source
from .opening import Opener, Tiles
from .patterns import Found
from .pixels import Pixels
from .raster import RASTERS

__all__ = ["MaskLayer", "MaskReader"]


@dataclass
class MaskLayer:
    """Which pixels are clear.

    Attributes:
        band: position of the mask along the band axis.
        dates: (L,) position in the mask of each date of the series; None where one mask holds for all.
        resolution: metres per pixel.
        of_source: the mask is a band of the files of the source itself.
    """

    mask: Mask
    pixels: Pixels
    band: int
    dates: np.ndarray | None
    resolution: float
    of_source: bool = False

    def clear(
        self, dates: np.ndarray | None, corner: tuple[float, float], size: tuple[int, int], resolution: float
    ) -> np.ndarray:
        """(L, h, w) bool on pixels of another resolution: a coarser mask repeated, of a finer one all must be clear.

        Args:
            corner: top and left in metres.
            size: h and w.
        """
        rows, columns = (
            np.floor((start + (np.arange(count) + 0.5) * resolution) / self.resolution).astype(int)
            for start, count in zip(corner, size, strict=True)
        )
        fine = round(resolution / self.resolution)  # mask pixels across a pixel
        if fine > 1:
            rows, columns = (
                (round(start / self.resolution) + np.arange(count * fine))
                for start, count in zip(corner, size, strict=True)
            )
        limits = self.pixels.sizes["y"] - 1, self.pixels.sizes["x"] - 1  # the last pixel may reach over the edge
        rows, columns = (np.minimum(part, limit) for part, limit in zip((rows, columns), limits, strict=True))
        top, left = int(rows[0]), int(columns[0])
        window = top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
        chosen = None if self.dates is None else self.dates if dates is None else self.dates[dates]
        codes, masked = self.pixels.codes(chosen, window, [self.band])
        clear: Any
        if self.mask.classes:
            clear = equals_any(codes, self.mask.classes)
        elif self.mask.bad_bits:
            clear = self._without_bits(codes, chosen)
        else:
            with np.errstate(invalid="ignore"):
                clear = self._values(codes, chosen) <= self.mask.at_most
        if masked is not None:
            clear &= ~masked
        clear = clear[:, 0][:, rows[:, None] - rows[0], columns - columns[0]]
        if fine > 1:
            clear = clear.reshape(len(clear), size[0], fine, size[1], fine).all(axis=(2, 4))
        return np.broadcast_to(clear, (1 if dates is None else len(dates), *size))

    def _values(self, codes: np.ndarray, dates: np.ndarray | None) -> np.ndarray:
        """(L, 1, h, w) of stored numbers, by what the file of each date says of them."""
        return np.concatenate([said.values(own) for said, own in self._said(codes, dates)])

    def _without_bits(self, codes: np.ndarray, dates: np.ndarray | None) -> np.ndarray:
        """(L, 1, h, w) bool: none of the bad bits is set; False where a code is none."""
        if codes.dtype.kind in "iu" and max(self.mask.bad_bits) >= 8 * codes.dtype.itemsize:
            raise ValueError(
                f"{self.pixels.path}: the mask holds {codes.dtype}, which has no bit {max(self.mask.bad_bits)}; bits "
                "count from 0, the lowest"
            )
        clear = []
        for said, own in self._said(codes, dates):
            known = ~said.missing(own)
            if own.dtype.kind == "f":
                known &= own == np.floor(own)
                own = np.where(known, own, 0)
            whole = own.astype(np.int64)
            bad = np.zeros(own.shape, dtype=bool)
            for bit in self.mask.bad_bits:
                bad |= (whole >> int(bit)) & 1 == 1
            clear.append(known & ~bad)
        return np.concatenate(clear)

    def _said(self, codes: np.ndarray, dates: np.ndarray | None) -> list[tuple[Conventions, np.ndarray]]:
        """What the file of each date says of its numbers, with the codes of that date; of one file with all codes."""
        if len(self.pixels.of_files) == 1:
            steps = [(self.pixels.conventions_of(None, self.band), codes)]
        else:
            order = range(len(codes)) if dates is None else dates
            steps = [
                (self.pixels.conventions_of(int(date), self.band), codes[k : k + 1]) for k, date in enumerate(order)
            ]
        # The nodata value of a raster is that of its other bands.
        return [(said.overridden(nodata=()) if self.of_source else said, own) for said, own in steps]


@dataclass(frozen=True)
class MaskReader:
    """Opens the mask of a modality of a scene.

    Attributes:
        where: the modality and its path, for messages.
        names: of all bands of ``pixels``, the modality's.
        files: of the modality.
        dates: (L,) of the modality; none for an image.
        apart: its bands are files or variables of their own.
    """

    scene: str
    modality: str
    where: str
    source: Source
    names: Sequence[str]
    files: Found
    pixels: Pixels
    dates: np.ndarray
    opener: Opener
    apart: bool = False

    @property
    def resolution(self) -> float:
        return self.source.resolution or 1.0

    @property
    def _extent(self) -> tuple[float, float]:
        """Height and width in metres."""
        return self.pixels.sizes["y"] * self.resolution, self.pixels.sizes["x"] * self.resolution

    def open(self, mask: Mask, files: Found, tiles: Tiles | None) -> MaskLayer:
        """
        Args:
            files: of the mask, where it has its own.

        Raises:
            ValueError: a mask that does not fit the modality, or is not there.
        """
        if not self.source.spatial:
            raise ValueError(f"{self.where}: a mask needs pixels, and axes has no y and x")
        if isinstance(mask.band, str) and mask.files is None:
            if mask.band not in self.names:
                raise ValueError(f"{self.where}: mask band {mask.band!r} is none of {', '.join(self.names)}")
            variable = self.source.variable
            own = (None, variable, self.modality, mask.band)
            if mask.variable not in own and isinstance(variable, str):
                raise ValueError(
                    f"{self.where}: mask band {mask.band!r} is one of {variable!r}, not of {mask.variable!r}"
                )
            steps = np.arange(len(self.dates)) if len(self.dates) else None
            # The nodata value of a raster is that of its other bands.
            return MaskLayer(mask, self.pixels, self.names.index(mask.band), steps, self.resolution, not self.apart)
        if mask.files is None and mask.variable is None:
            raise ValueError(f"{self.where}: mask: give its variable, its files, or one of the bands as band")
        if mask.files is None and self.apart and self.files[0].path.suffix.lower() in (NPY, *RASTERS):
            raise ValueError(
                f"{self.where}: mask {mask.variable!r}: a file a band has no variables; give the files of the mask, or "
                "the name of one of the bands as band"
            )
        if mask.files is not None and not files:
            raise ValueError(f"scene {self.scene!r}: no file for the mask of {self.modality!r} ({mask.files})")
        found = files if mask.files is not None else self.files
        if isinstance(mask.band, str):
            raise ValueError(f"{found[0][0]}: mask band {mask.band!r}: bands of files of their own go by number from 1")
        place = tiles or (None if self.pixels.grid is None else Tiles(self.pixels.grid, self.resolution))
        pixels = self.opener.open(
            f"the mask of {self.modality!r}", found, mask.variable, self._axes(mask, found), mask.resolution,
            tiles=place, nearest=True, empty_chunks=True,
        )  # fmt: skip
        then = "and are read as the fill value; copy the store again if it is incomplete"
        self.opener.absent.add(f"the mask of {self.modality}", pixels.of_files, then)
        named = "mask" if mask.variable is None else f"mask {mask.variable!r}"
        band = (mask.band or 1) - 1
        if not 0 <= band < pixels.sizes.get("band", 1):
            raise ValueError(f"{pixels.path}: {named}: band {mask.band} of {pixels.sizes.get('band', 1)}")
        resolution = self._mask_resolution(mask, pixels.sizes)
        wanted = tuple(-(-round(metres) // resolution) for metres in self._extent)
        given = pixels.sizes["y"], pixels.sizes["x"]
        steps = self._steps(found, pixels.sizes.get("time"), named)
        if any(abs(own - count) > 1 for own, count in zip(given, wanted, strict=True)):
            raise ValueError(
                f"{self.where}: {named} has shape {pixels.shape}, "
                f"{tuple(int(v) for v in (len(self.dates), *wanted))} (time, y, x) wanted; check its resolution"
            )
        return MaskLayer(mask, pixels, band, steps, resolution)

    def _axes(self, mask: Mask, found: Found) -> tuple[str, ...]:
        """Of a variable by its length: (y, x), (time, y, x), (time, band, y, x), or the source's own."""
        path, date, _ = found[0]
        if path.suffix.lower() not in (NPY, *CONTAINERS):
            return AXES if date is not None else ("band", "y", "x")
        if mask.variable == self.source.variable and mask.files is None:
            return self.source.axes
        dimensions = len(self.opener.arrays.get(path, mask.variable or "").shape) + (date is not None)
        series = self.source.kind == "series"
        known = {2: ("y", "x"), 3: ("time", "y", "x") if series else ("band", "y", "x"), 4: AXES}
        if dimensions not in known:
            raise ValueError(f"{path}: mask {mask.variable!r} has {dimensions} axes, (time, y, x) wanted")
        return known[dimensions]

    def _mask_resolution(self, mask: Mask, sizes: Mapping[str, int]) -> float:
        """As described, or by how many pixels cover the ground of the self."""
        if mask.resolution is not None:
            return mask.resolution
        ratio = self.pixels.sizes["y"] / sizes["y"]
        return self.resolution * (round(ratio) if ratio >= 1 else 1 / round(1 / ratio))

    def _steps(self, found: Found, steps: int | None, named: str) -> np.ndarray | None:
        """(L,) step of the mask for each date of the series."""
        if not len(self.dates) or steps is None:
            return None
        if found[0].date is None or found is self.files:
            if steps != len(self.dates):
                raise ValueError(
                    f"{self.where}: {named} has {steps} time steps for {len(self.dates)} dates of the series; they "
                    "must match one to one"
                )
            return np.arange(steps)
        dates, _ = parse_dates([file.date for file in found])
        lacking = self.dates[~np.isin(self.dates, dates)]
        if len(lacking):
            raise ValueError(
                f"{self.where}: no mask for {len(lacking)} of {len(self.dates)} dates, e.g. {lacking[0]}; copy them, "
                "or remove these dates"
            )
        step = np.empty(len(self.dates), dtype=int)
        for date in np.unique(self.dates):
            own, there = np.flatnonzero(self.dates == date), np.flatnonzero(dates == date)
            if len(there) not in (1, len(own)):
                raise ValueError(
                    f"{self.where}: {len(there)} masks for {len(own)} acquisitions of {date}, e.g. "
                    f"{found[int(there[0])].path}; one each is wanted, or one for all"
                )
            step[own] = there  # both in the order of their names
        return step
