"""Opens the arrays of a scene, whatever their files are, and lays them on the grid of its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .absent import AbsentTold
from .align import Warped
from .bands import names_in_file
from .containers import NPY, Arrays
from .description import Description
from .grid import Grid, check_grid, difference, gdalwarp
from .layered import LayeredRaster
from .patterns import Found, find_files, of_scene
from .pixels import Pixels, Stack, StoredPixels
from .place import Finder, check_axes, locate
from .raster import RASTERS, RasterFile
from .resample import Resamplings, multiple

__all__ = ["Opener", "Tiles", "check_single"]

_VECTORS = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".kml", ".gml", ".parquet")


@dataclass(frozen=True)
class Tiles:
    """The grid on which a scene's tiles are cut: that of its first modality; ``resolution`` in the description's
    metres."""

    grid: Grid
    resolution: float


class Opener:
    """
    Args:
        folder: in which the files are.
        arrays: that keep what fits into memory.
    """

    def __init__(self, folder: Path, description: Description, arrays: Arrays) -> None:
        self.folder, self.description, self.arrays = folder, description, arrays
        self._found: dict[str, dict[str, Found]] = {}
        self.aligned: dict[str, int] = {}  # what was warped: how many files
        self.laid: dict[str, int] = {}  # labels that were laid onto the tiles: how many files
        self.resampled = Resamplings()
        self.absent = AbsentTold()
        self.remarks: dict[str, str] = {}  # what else is to be known, by what it is about

    def files(self, pattern: str | None, scene: str) -> Found:
        """Those of a scene, by a pattern or by that of the description."""
        pattern = pattern or self.description.files
        if pattern not in self._found:
            self._found[pattern] = find_files(self.folder, pattern)
        return of_scene(self._found[pattern], pattern, scene)

    def open(
        self,
        what: str,
        files: Found,
        variable: str | None,
        axes: Sequence[str],
        resolution: float | None,
        *,
        bands: int | None = None,
        tiles: Tiles | None = None,
        covering: bool = False,
        nearest: bool = False,
        resample: str | None = None,
        empty_chunks: bool = False,
    ) -> Pixels:
        """The pixels of some files, on the grid of the tiles where their place is known.

        Args:
            what: is being opened, for messages.
            axes: of a variable. Of rasters: with time they are a file a date.
            resolution: metres per pixel by the description; None for what has no pixels, and for what may have any.
            bands: how many the description names.
            tiles: None for the first modality, which they follow.
            covering: it may reach further than the tiles.
            nearest: it holds codes.
            resample: how pixels of a multiple or a fraction of the resolution come to it: nearest, bilinear, average,
                or usual (nearest if they are coarser, average if they are finer); None: they are refused.
            empty_chunks: chunks that a file lacks hold the fill value; else nothing was observed there.

        Raises:
            ValueError: unreadable, or not as described, or of another place; the message begins with the path.
        """
        path = files[0][0]
        suffix = path.suffix.lower()
        dated = "time" in axes and files[0][1] is not None
        if not dated:
            check_single(what, files)
        if suffix not in RASTERS and dated and axes[0] != "time":
            raise ValueError(f"{path}: {what}: a file a date makes time the first axis, axes ({', '.join(axes)}) given")
        inner = [axis for axis in axes if axis != "time"] if dated else list(axes)
        parts = [
            self.part(
                what,
                file.path,
                variable,
                inner,
                resolution,
                bands=bands,
                first=tiles is None,
                empty_chunks=empty_chunks,
            )
            for file in files
        ]
        tiles = tiles or self.first_tiles(parts, resolution, resample)
        placed = [
            self.on_tiles(part, what, resolution, tiles, covering=covering, nearest=nearest, resample=resample)
            for part in parts
        ]
        if resample is not None:
            placed = self.resampled.equal(placed, what, [""] * len(placed), resolution or 1.0, resample)
        return Stack(placed) if dated else placed[0]

    def part(
        self,
        what: str,
        path: Path,
        variable: str | None,
        axes: Sequence[str],
        resolution: float | None,
        *,
        bands: int | None = None,
        first: bool = False,
        empty_chunks: bool = False,
    ) -> Pixels:
        """The pixels of one file, where they lie.

        Args:
            axes: of the file.
            first: the tiles follow it.
            empty_chunks: as for :meth:`open`.

        Raises:
            ValueError: as :meth:`open`.
        """
        suffix = path.suffix.lower()
        if suffix in RASTERS:
            series = "time" in axes
            raster = RasterFile(path, self.arrays, None if series else bands)
            if series and raster.alpha is not None:  # a date or band like the others
                raster = RasterFile(path, self.arrays, raster.sizes["band"] + 1)
            if raster.dtype.kind not in "iuf":
                raise ValueError(
                    f"{path}: {what}: the raster holds {raster.dtype}, real numbers are wanted; store what is meant, "
                    "e.g. the amplitude or the power"
                )
            return LayeredRaster(raster, axes, bands or 1, what) if series else raster
        if suffix in _VECTORS:
            if what.startswith("labels"):
                raise ValueError(
                    f"{path}: labels of a vector file are given as labels: {{vector: {path.name}, field: FIELD}}, one "
                    "file for all scenes"
                )
            raise ValueError(
                f"{path}: {what}: vector files are not read; rasterize it first, e.g. gdal_rasterize -a FIELD -tr "
                f"{resolution or 10:g} {resolution or 10:g} -te WEST SOUTH EAST NORTH {path.name} {path.stem}.tif"
            )
        return self._stored(what, path, self._named(what, path, variable), axes, resolution, first, empty_chunks)

    def _named(self, what: str, path: Path, variable: str | None) -> str:
        if variable is None and path.suffix.lower() != NPY:
            raise ValueError(
                f"{path}: {what}: variable is missing in the description; only rasters and .npy do without"
            )
        return variable or ""

    def _stored(
        self,
        what: str,
        path: Path,
        name: str,
        axes: Sequence[str],
        resolution: float | None,
        first: bool,
        empty_chunks: bool,
    ) -> Pixels:
        variable = self.arrays.get(path, name)
        if variable.dtype.kind not in "iufb":
            raise ValueError(f"{path}: {what}: {name!r} holds {variable.dtype}, numbers are wanted")
        if len(variable.shape) != len(axes):
            array = repr(name) if name else "the array"
            raise ValueError(f"{path}: {what}: {array} has shape {variable.shape}, axes ({', '.join(axes)}) wanted")
        if not all(length for axis, length in zip(axes, variable.shape, strict=True) if axis != "time"):
            raise ValueError(
                f"{path}: {what}: {name!r} has shape {variable.shape}, so no pixel in it; copy the file again, or "
                "leave it out"
            )
        check_axes(variable, axes)
        grid, south_up = locate(
            self.description.georeference, variable, axes, self.arrays, resolution or 1.0, first=first
        )
        pixels = StoredPixels(variable, axes, south_up=south_up, grid=grid, empty_chunks=empty_chunks)
        pixels.band_names = names_in_file(variable, axes, Finder(variable, self.arrays))
        return pixels

    def first_tiles(
        self, parts: Sequence[Pixels | None], resolution: float | None, resample: str | None
    ) -> Tiles | None:
        """The tiles of the first modality, as its parts lie; None where none says it.

        Where parts may be resampled, those decide whose pixels are of the described size. In degrees, whose metres are
        nominal, and without CRS the finest are taken to be.
        """
        grids = [part.grid for part in parts if part is not None and part.grid is not None]
        if not grids or not resample or not resolution:
            return Tiles(grids[0], resolution or 1.0) if grids else None
        metres = [grid.metres for grid in grids]
        if None in metres:
            return Tiles(min(grids, key=lambda grid: grid.pixel_width), resolution)
        ratios = [own / resolution for own in metres if own is not None]
        number = min(range(len(grids)), key=lambda k: abs(np.log(ratios[k])))
        ratio = multiple(ratios[number])
        if ratio is None or ratio == 1:
            return Tiles(grids[number], resolution)
        return Tiles(grids[number].at(1, ratio), resolution)

    def on_tiles(
        self,
        part: Pixels,
        what: str,
        resolution: float | None,
        tiles: Tiles | None,
        *,
        covering: bool = False,
        nearest: bool = False,
        resample: str | None = None,
        band: str = "",
    ) -> Pixels:
        """A part as it lies, if it lies on the tiles; resampled, or warped onto them, if the description says so.

        Args:
            resample: as for :meth:`open`.
            band: of the part, for notes.

        Raises:
            ValueError: another place; the message has both values and what mends it.
        """
        if part.grid is None or tiles is None:
            if tiles is not None and isinstance(part, RasterFile):
                raise ValueError(
                    f"{part.path}: {what} has neither CRS nor place, the tiles have; give it one, e.g. gdal_edit.py "
                    f"-a_srs {tiles.grid.crs or 'EPSG:...'} -a_ullr WEST NORTH EAST SOUTH"
                )
            return part
        metres = resolution or tiles.resolution * _across(part.grid, tiles.grid)
        target = tiles.grid.at(metres, tiles.resolution)
        whole = _whole_ratio(part.grid, target)
        ratio = 1.0 if resample is None or whole is None else whole
        try:
            wrong = difference(part.grid, metres * ratio, tiles.grid, tiles.resolution, covering=covering)
            if wrong is None or (resample is None and not self.description.align):
                check_grid(part.grid, metres * ratio)
        except ValueError as error:
            mended = resample is None and whole is not None and not nearest
            way_out = "; correct resolution, or write resample: nearest, bilinear or average" if mended else ""
            raise ValueError(f"{part.path}: {error}{way_out}") from error
        if wrong is None and ratio == 1:
            return part
        if wrong is None:
            size = target.height, target.width
            return self.resampled.lay(part, ratio, size, resample or "usual", target, what, band, metres)
        if self.description.align:
            self.aligned[what] = self.aligned.get(what, 0) + 1
            return Warped(part, target, resample if resample in ("nearest", "average") else "bilinear")
        raise ValueError(
            f"{part.path}: {what} has {wrong}. Warp it, or write align: true into the description:\n    "
            + gdalwarp(part.path, target, "near" if nearest else "bilinear")
        )


def check_single(what: str, files: Found) -> None:
    """
    Raises:
        ValueError: several files.
    """
    if len(files) > 1:
        raise ValueError(
            f"{files[0].path}: {len(files)} files match for {what} of one scene, one is wanted: {files[1].path.name} "
            "is another. Name the scene by {scene} and the date by {date} in the pattern"
        )


def _whole_ratio(grid: Grid, target: Grid) -> float | None:
    """How many pixels of the target a pixel is across, if that is a whole number or one over it, the same both ways."""
    ratios = {
        multiple(own / wanted)
        for own, wanted in (
            (grid.pixel_width, target.pixel_width), (grid.pixel_height, target.pixel_height)
        )
    }  # fmt: skip
    return ratios.pop() if len(ratios) == 1 else None


def _across(grid: Grid, tiles: Grid) -> float:
    """How many pixels of the tiles a pixel is across; 1 where the two have no unit in common."""
    return grid.pixel_width / tiles.pixel_width if grid.crs == tiles.crs else 1.0
