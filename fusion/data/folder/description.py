"""What a folder holds, as a YAML describes it, checked before any file is opened.

``docs/data.md`` explains every key with an example.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..modality import check_name
from .conventions import Conventions
from .entries import check_georeference, check_splits
from .placed import PlacedLabels, TableLabels, VectorLabels

__all__ = ["AXES", "DATE_FILES", "Description", "Labels", "Mask", "Source"]

_PLAIN = ("label", "labels", "target", "targets", "data")  # say nothing of what is labelled
AXES = ("time", "band", "y", "x")
DATE_FILES = (".npy", ".txt")


@dataclass(frozen=True)
class Mask:
    """Which pixels of which dates are clear, by an array with the dates of the series, or without dates for all.

    Attributes:
        variable: the array, (time, y, x) or (time, band, y, x); left out for rasters, .npy, and for a band of the
            source itself.
        band: which one: the name of one of the source's bands, or in an array of its own its number from 1.
        at_most: a pixel is clear up to this value (a probability), or
        classes: a pixel is clear if its code is one of these (a scene classification), or
        bad_bits: a pixel is clear if none of these bits of its code is set (quality flags); the lowest is 0.
        resolution: metres per pixel of the mask; None: as its files say, or that of the source.
        files: pattern, if it lies in files of its own; with ``{date}`` every date of the series needs one.
    """

    variable: str | None = None
    band: str | int | None = None
    at_most: float | None = None
    classes: tuple[int, ...] = ()
    resolution: float | None = None
    files: str | None = None
    bad_bits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.at_most is not None) + bool(self.classes) + bool(self.bad_bits) != 1:
            raise ValueError(
                f"mask {self.variable or self.band or self.files!r}: give either at_most, classes or bad_bits, to say "
                "what is clear"
            )
        wrong = [bit for bit in self.bad_bits if bit != int(bit) or not 0 <= bit < 64]
        if wrong:
            raise ValueError(f"mask: bad_bits count from 0, the lowest, to 63, not {wrong[0]:g}")
        if "{band}" in (self.files or ""):
            raise ValueError(
                f"mask: {{band}} in {self.files!r}: a mask is one band; write its name into the pattern, e.g. SCL"
            )


@dataclass(frozen=True)
class Source:
    """One modality. Values become ``raw * scale + offset``, or ``decibels * log10(raw) + offset``.

    What files say of missing values and packing (``_FillValue``, ``scale_factor``, ``valid_range``, GDAL's nodata, ...)
    holds unless ``nodata``, ``range``, or one of ``scale`` and ``offset`` says otherwise; with ``decibels`` raw is what
    the file's own packing gives.

    Attributes:
        variable: name of the array in the file; GeoTIFF and .npy have none. A list: an array of each band, with the
            axes without band.
        bands: names along the band axis, or the name of the variable that holds them. With ``{band}`` in ``files`` the
            texts that stand for it, a file a band; with a list of variables their names by default.
        use: the bands to keep, in the order of the model; all by default.
        axes: names of the array's axes, of time, band, y, x. Without time it is an image, without y and x
            (weather) the same everywhere in the tile.
        resolution: metres per pixel; for weather it means nothing and may be left out.
        nodata: stored numbers that mean "not observed", compared in the type of the file.
        range: stored numbers outside are not observed either.
        scale, offset: given one, the other is 1 or 0. An offset may be ``{date: offset}``: each holds from its date on,
            before the first it is 0; or the name of a variable (time,).
        decibels: 10 if raw is power, 20 if it is amplitude.
        dates: variable or list: dates, months ("2020-08", "Sep") or numbers with CF units; a file of them
            ("{scene}_dates.npy", or .txt with a date a line); left out where the names of the files have them. Of a
            raster whose bands are dates (axes with time, no ``{date}``) also ``descriptions``: those of its bands.
        available: variable (time,) or (time, band), False where there was no acquisition.
        max_cloud: largest share of masked or missing pixels of a usable date.
        max_dates: at most so many dates.
        optional: may be missing from a file.
        files: pattern, if not that of the description. ``{band}`` stands for one of the bands.
        resample: how files or variables of coarser or finer pixels come to ``resolution``: nearest, bilinear or
            average. None: those of a band each by nearest if they are coarser, average if they are finer; others are
            refused.
        missing_bands: a band whose file a date lacks was not observed; False: that is an error.
        empty_chunks: chunks without a file in a store of Zarr hold its fill value; False: nothing was observed there.
    """

    bands: tuple[str, ...] | str = ()
    variable: tuple[str, ...] | str | None = None
    use: tuple[str, ...] = ()
    axes: tuple[str, ...] = AXES
    resolution: float | None = None
    unit: str = ""
    nodata: tuple[float, ...] | None = None
    range: tuple[float, float] | None = None
    scale: float | None = None
    offset: float | Mapping[str, float] | str | None = None
    decibels: float | None = None
    dates: tuple[str, ...] | str | None = None
    available: str | None = None
    mask: Mask | None = None
    max_cloud: float = 0.5
    max_dates: int | None = None
    optional: bool = False
    files: str | None = None
    resample: Literal["nearest", "bilinear", "average"] | None = None
    missing_bands: bool = False
    empty_chunks: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.variable, tuple):
            self._of_variables(self.variable)
        if not self.bands:
            raise ValueError("'bands' is missing: their names, in the order of the files")
        if self.resample not in (None, "nearest", "bilinear", "average"):
            raise ValueError(f"resample is nearest, bilinear or average, not {self.resample!r}")
        if not set(self.axes) <= set(AXES) or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes {list(self.axes)} must be distinct and of {', '.join(AXES)}")
        if ("y" in self.axes) != ("x" in self.axes):
            raise ValueError(f"axes {list(self.axes)} need both y and x, or neither")
        if "y" in self.axes and self.resolution is None:
            raise ValueError("resolution is missing: metres per pixel")
        if "time" in self.axes and self.dates is None and "{date}" not in (self.files or ""):
            raise ValueError("dates are missing: the variable that holds them, or a list")
        if "time" not in self.axes and "y" not in self.axes:
            raise ValueError(f"axes {list(self.axes)}: neither an image nor a series")

    def _of_variables(self, variables: tuple[str, ...]) -> None:
        """An array of each band: ``axes`` may leave the band out, and ``bands`` are the variables' names by default."""
        if len(set(variables)) < len(variables):
            raise ValueError(f"variable: [{', '.join(variables)}] has a name twice")
        if "band" not in self.axes:
            place = int("time" in self.axes[:1])
            object.__setattr__(self, "axes", (*self.axes[:place], "band", *self.axes[place:]))
        if not self.bands:
            object.__setattr__(self, "bands", variables)
        if isinstance(self.bands, str) or len(self.bands) != len(variables):
            raise ValueError(f"bands {self.bands!r}: a name for each of {len(variables)} variables is wanted")

    def of_bands(self, pattern: str) -> bool:
        """Whether there is a file of each band, by the pattern of the files.

        Raises:
            ValueError: keys that do not go together.
        """
        several = "{band}" in pattern
        if self.missing_bands and not several:
            raise ValueError(f"missing_bands: {pattern!r} has no {{band}}; without it a file has all bands")
        if several and (isinstance(self.bands, str) or isinstance(self.variable, tuple) or "band" not in self.axes):
            raise ValueError(
                f"{{band}} in {pattern!r}: a file a band needs bands: [...], the texts that stand for it, band among "
                "axes, and at most one variable"
            )
        return several

    @property
    def named(self) -> str | None:
        """Of the array, or of the first of several."""
        return self.variable[0] if isinstance(self.variable, tuple) else self.variable

    @property
    def kind(self) -> Literal["image", "series"]:
        return "series" if "time" in self.axes else "image"

    @property
    def spatial(self) -> bool:
        return "y" in self.axes

    @property
    def packing(self) -> tuple[float, float] | None:
        """Scale and constant offset in the file's stead; None leaves those of the file."""
        offset = None if self.decibels is not None else self.offset  # of decibels it is added to their logarithm
        if self.scale is None and offset is None:
            return None
        return 1.0 if self.scale is None else self.scale, offset if isinstance(offset, int | float) else 0.0

    def override(self, found: Conventions) -> Conventions:
        """What holds of a file's conventions beside this."""
        return found.overridden(self.nodata, self.range, self.packing)


@dataclass(frozen=True)
class Labels:
    """One map of labels per scene, reduced to one label per tile.

    Attributes:
        resolution: metres per pixel, which the files must have. None: that of the first modality, whatever they have.
        variable: the array, (y, x); rasters (their first band) and .npy have none.
        reduction: ``mean`` of a quantity, ``majority`` class, ``any`` class above ``min_share`` (multi-label), or
            ``none``: the map itself.
        classes: name: code or codes, as stored. Codes that are not listed are no label.
        nodata: stored numbers that are no label; None: as the file says, unless a class has that code.
        min_labelled: a tile with a smaller labelled share has no label and is left out.
        min_share: of the labelled pixels, for ``any``.
    """

    reduction: Literal["mean", "majority", "any", "none"]
    resolution: float | None = None
    variable: str | None = None
    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    nodata: tuple[float, ...] | None = None
    min_labelled: float = 0.5
    min_share: float = 0.07
    files: str | None = None

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "majority", "any", "none"):
            raise ValueError(f"reduction is mean, majority, any or none, not {self.reduction!r}")
        if self.reduction in ("majority", "any") and not self.classes:
            raise ValueError(f"reduction {self.reduction!r} needs classes: a name for each code")

    @property
    def name(self) -> str:
        """Of the target, for a quantity: that of the array, or the word in the pattern of the files."""
        words = re.findall(r"[A-Za-z][A-Za-z_ -]*[A-Za-z]", re.sub(r"\{\w+\}|\.\w+$", " ", self.files or ""))
        return self.variable or next((word for word in words if word.lower() not in _PLAIN), "label")


@dataclass(frozen=True)
class Description:
    """A folder.

    Attributes:
        files: pattern of one file per scene; ``{scene}`` stands for its name, ``{date}`` (rasters, .npy) for a date,
            ``{band}`` for a band.
        tile, patch: sides in metres.
        stride: metres from tile to tile; less than ``tile`` makes them overlap.
        georeference: epsg (number or variable) and bounds (left, bottom, right, top) or x and y (cell centres), as
            numbers or variables; ``{cf: true}`` for the CF conventions of NetCDF. GeoTIFF needs none.
        exclude: patterns of the names of scenes that are none, e.g. ``"*_monthly_*"``.
        splits: name: what belongs to it: files (pattern of scene names), columns and rows as intervals of 0..1. Without
            any, blocks of labelled tiles are dealt to train, val and test.
        align: rasters of another CRS, origin or pixel size are warped onto the grid of the first modality when they are
            read, masks by the nearest pixel, others bilinearly; False: they are refused. Labels always are, by the
            nearest pixel.
    """

    files: str
    tile: float
    patch: float
    modalities: Mapping[str, Source]
    stride: float | None = None
    labels: Labels | VectorLabels | TableLabels | None = None
    georeference: Mapping[str, Any] = field(default_factory=dict)
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    align: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_georeference(self.georeference)
        check_splits(self.splits)
        if self.tile <= 0 or self.patch <= 0 or not _whole(self.tile / self.patch):
            raise ValueError(f"tile {self.tile} m must be a multiple of patch {self.patch} m")
        if not self.modalities:
            raise ValueError("modalities are missing")
        for name, source in self.modalities.items():
            check_name(name)
            try:
                source.of_bands(source.files or self.files)
            except ValueError as error:
                raise ValueError(f"modality {name!r}: {error}") from error
        if isinstance(self.labels, PlacedLabels) and self.labels.resolution is None:
            object.__setattr__(self, "labels", replace(self.labels, resolution=self.label_resolution))
        layers = [(f"modality {name!r}", source.resolution) for name, source in self.modalities.items()]
        if self.labels:
            layers.append(("labels", self.label_resolution))
        for what, resolution in layers:
            for side, metres in (("patch", self.patch), ("stride", self.stride or self.tile)):
                if resolution and not _whole(metres / resolution):
                    raise ValueError(f"{what}: {side} {metres} m is no multiple of its resolution {resolution} m")

    @property
    def label_resolution(self) -> float:
        """Metres per pixel of labels; those of the first modality where the description has none."""
        if self.labels is not None and self.labels.resolution is not None:
            return self.labels.resolution
        return next((s.resolution for s in self.modalities.values() if s.spatial and s.resolution), self.patch)


def _whole(ratio: float) -> bool:
    return ratio >= 0.999 and abs(ratio - round(ratio)) < 1e-6
