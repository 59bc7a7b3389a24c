"""Rasters of any names: one file a date with all bands, or one file a band and date."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..folder.layered import order_of
from ..folder.patterns import find_files
from .guess import Part, Question
from .headers import Header, read_headers, sample, stored_sample
from .layers import ASK_DATES, series_in_bands
from .measures import ask_offset, ask_whether_labels, listed, mask_of, may_be_target, missing_number, unit_of
from .names import in_order, is_band, is_mask, told_by_bands
from .pattern import Pattern, find_pattern, split_bands

__all__ = ["is_banded", "part_of_headers", "recognise"]


_COARSE = 60  # metres; bands of such pixels, of the air in Sentinel-2, are left out beside finer ones


def is_banded(files: Sequence[Path], known: Collection[str] = ()) -> bool:
    """Whether every name has a band, and they differ."""
    bands = {split_bands(path, known)[1] for path in files}
    return len(bands) > 1 and "" not in bands


def recognise(folder: Path, files: Sequence[Path], name: str, sensor: str, known: Collection[str] = ()) -> list[Part]:
    """The modalities of some rasters that belong together.

    Args:
        name: of the modality; empty: by its bands.
        known: what is a band in names of files beside the usual ones.

    Raises:
        ValueError: a damaged file, or names that do not tell scene and date.
    """
    banded = is_banded(files, known)
    pattern = find_pattern(files, banded, known)
    if pattern.unclear:
        raise ValueError(
            f"{folder}: {len(files)} rasters such as {files[0]} and {files[-1]}: {pattern.unclear}, so scene and date "
            "cannot be told; rename them, e.g. SCENE_20200801.tif, or write the description by hand (docs/data.md)"
        )
    more = _check_reach(folder, files, pattern)
    if banded:
        return _banded(folder, files, pattern, name, sensor, known)
    part = _stack(folder, files, pattern, name, sensor)
    part.comments["files"] += more
    return [part]


def _check_reach(folder: Path, files: Sequence[Path], pattern: Pattern) -> str:
    """What else of the folder a pattern of a single file takes, for a comment.

    Raises:
        ValueError: the pattern of several files takes others, too, or not all of them.
    """
    found = find_files(folder, pattern.text, [band for band in pattern.bands if band])
    reached = {file.path for own in found.values() for file in own}
    wanted = {folder / path for path in files}
    further = sorted(reached - wanted)
    if wanted <= reached and not further:
        return ""
    if wanted <= reached and len(files) == 1 and "{scene}" not in pattern.text:
        return f"; takes {len(further)} more, e.g. {further[0].name}"
    other = f"it takes {further[0].name}, too" if further else f"it does not find {min(wanted - reached)}"
    raise ValueError(
        f"{folder}: {len(files)} rasters such as {files[0]} are not told apart by {pattern.text}: {other}. Put files "
        "of one kind into a folder of their own, or write the description by hand (docs/data.md)"
    )


def _stack(folder: Path, files: Sequence[Path], pattern: Pattern, name: str, sensor: str) -> Part:
    headers = read_headers([folder / path for path in files])
    counts = Counter(header.bands for header in headers)
    if len(counts) > 1:
        odd = next(header for header in headers if header.bands != counts.most_common(1)[0][0])
        raise ValueError(
            f"{odd.pixels.path}: {odd.bands} bands where others of {pattern.text} have "
            f"{counts.most_common(1)[0][0]}; put files of one kind into a folder of their own"
        )
    bands, why, question = _band_names(headers, name or files[0].stem, bool(sensor), bool(pattern.dates))
    order = None if pattern.dates else order_of(headers[0].pixels.band_names)
    sensor = sensor or told_by_bands(bands if order is None else order.bands)
    part = Part(name or sensor or ("image" if order is None else files[0].stem), {})
    source, comments = part.source, part.comments
    source["files"] = pattern.text
    comments["files"] = _told(files, pattern)
    if not pattern.dates and series_in_bands(part, folder, files, headers):
        bands = source["bands"]
    else:
        if not pattern.dates:
            source["axes"] = ["band", "y", "x"]
            comments["axes"] = "one image: names have no date"
        source["bands"], comments["bands"] = bands, why
        if question:
            part.questions.append(question)
    part_of_headers(part, headers, sensor)
    masks = [band for band in bands if is_mask(band)]
    if masks:
        source["mask"], comments["mask"] = mask_of(is_mask(masks[0]), band=masks[0])
    part.scenes = pattern.scenes
    ask_offset(part, sensor, pattern.dates)
    if (
        len(bands) == 1
        and not (pattern.dates or "dates" in source or sensor or is_band(bands[0]))
        and may_be_target(part.name)
    ):
        part.questions.append(ask_whether_labels(part, files[0].as_posix(), {"files": pattern.text}))
    return part


def _banded(
    folder: Path, files: Sequence[Path], pattern: Pattern, name: str, sensor: str, known: Collection[str]
) -> list[Part]:
    """A modality for each pixel size."""
    of_band: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        of_band[split_bands(path, known)[1]].append(path)
    headers = {band: read_headers([folder / path for path in sorted(paths)], 6) for band, paths in of_band.items()}
    sizes: dict[float, list[str]] = defaultdict(list)
    for band, found in headers.items():
        several = {header.bands for header in found}
        if several != {1}:
            raise ValueError(
                f"{found[0].pixels.path}: {max(several)} bands in a file that is called {band}; one band a file wanted"
            )
        if not is_mask(band):
            sizes[found[0].resolution].append(band)
    coarse = [band for size, bands in sizes.items() if size >= _COARSE > min(sizes) for band in bands]
    sizes = {size: bands for size, bands in sizes.items() if not set(bands) & set(coarse)}
    mask = next((band for band in of_band if is_mask(band)), "")
    sensor = sensor or told_by_bands([*of_band])
    parts = []
    for resolution, bands in sorted(sizes.items()):
        own = name or sensor or "image"
        part = Part(own if len(sizes) == 1 or resolution == min(sizes) else f"{own}-{resolution:g}m", {})
        part.source["files"], part.comments["files"] = pattern.text, _told(files, pattern)
        if not pattern.dates:
            part.source["axes"] = ["band", "y", "x"]
        part.source["bands"] = in_order(bands)
        left = f"; {listed(in_order(coarse))} of {_COARSE} m and more left out" if coarse else ""
        part.comments["bands"] = f"from names of files; pixels of {resolution:g} m{left}"
        part_of_headers(part, [header for band in in_order(bands) for header in headers[band]], sensor, 1)
        if mask:
            part.source["mask"], part.comments["mask"] = mask_of(
                is_mask(mask), files=pattern.text.replace("{band}", mask)
            )
        there = Counter(shape for shape, band in (split_bands(path, known) for path in files) if band in bands)
        fewer = sum(count < len(bands) for count in there.values())
        if fewer:
            part.source["missing_bands"] = True
            part.comments["missing_bands"] = f"{fewer} of {len(there)} dates lack a band"
        part.scenes = pattern.scenes
        ask_offset(part, sensor, pattern.dates)
        parts.append(part)
    return parts


def _told(files: Sequence[Path], pattern: Pattern) -> str:
    dates = f", {len(pattern.dates)} dates {pattern.dates[0]}..{pattern.dates[-1]}" if len(pattern.dates) > 1 else ""
    dates = dates or (f", {pattern.dates[0]}" if pattern.dates else "")
    scenes = [scene for scene in pattern.scenes if scene]
    of = f", {len(scenes)} scenes such as {scenes[0]}" if len(scenes) > 1 else f" of {scenes[0]}" if scenes else ""
    return f"{len(files)} file{'s' if len(files) > 1 else ''}{of}{dates}"


def _band_names(
    headers: Sequence[Header], alone: str, sensor: bool, dated: bool
) -> tuple[list[str], str, Question | None]:
    """Names, why, and a question where the files do not say them."""
    named = {header.pixels.band_names for header in headers}
    count, path = headers[0].bands, headers[0].pixels.path
    hidden = headers[0].pixels.alpha
    if hidden is not None and headers[0].pixels.dtype.kind in "iu":
        transparent = (
            f"is band {hidden} of {path.name} and its like transparency, as the file says, or near infrared, of which "
            f"many programs say so, too? Name the {count} bands before it, or all {count + 1}"
        )
        return (
            [f"B{k + 1}" for k in range(count)],
            f"numbered, without band {hidden}",
            Question(transparent, needed=True),
        )
    if len(named) == 1 and (names := list(named.pop())):
        if len(set(names)) == len(names):
            return names, "from the descriptions in the files", None
    elif len(named) > 1:
        first, second = sorted(named)[:2]
        return (
            [f"B{k + 1}" for k in range(count)],
            "numbered: the files disagree",
            Question(
                f"the names of the {count} bands of {path.name} and its like? Some files say "
                f"{listed(first, 12) or 'nothing'}, others {listed(second, 12)}; give bands in the order of the files",
                needed=True,
            ),
        )
    if count == 1:
        asked = Question(f"which band of the sensor is {path.name} and its like? Replace {alone} in bands", needed=True)
        return [alone], "the only band, named like the file or folder", asked if sensor else None
    return (
        [f"B{k + 1}" for k in range(count)],
        "numbered: the files do not name their bands",
        Question(
            f"the names of the {count} bands of {path.name} and its like, in the order of the file? The files do not "
            f"say them; replace B1, B2, ... in bands{'' if dated else ASK_DATES}",
            needed=True,
        ),
    )


def part_of_headers(part: Part, headers: Sequence[Header], sensor: str, per: int | None = None) -> None:
    """Resolution, place, nodata, and unit of a modality from its files.

    Args:
        sensor: by names, or empty.
        per: bands a file, where each has only one of several.
    """
    first, source, comments = headers[0], part.source, part.comments
    resolution = first.resolution
    if not resolution:
        resolution = 10.0
        part.questions.append(
            Question(f"the metres of a pixel of {first.pixels.path.name}? The file does not say them; 10 is written")
        )
        comments["resolution"] = "not in the files"
    elif first.grid is not None and first.grid.known_crs.is_geographic:
        comments["resolution"] = f"nominal, of pixels of {first.grid.pixel_width:.8g} degrees"
    source["resolution"] = _plain(resolution)
    looked = headers[:: max(1, len(headers) // 6)]
    values = _joined([sample(header.pixels) for header in looked], per)
    _nodata(part, looked, sensor)
    masks = [k for k, band in enumerate(source["bands"]) if is_mask(band)] if per is None else []
    values = np.delete(values, [k for k in masks if k < len(values)], axis=0)
    if "nodata" in source:
        values = np.where(values == source["nodata"], np.nan, values)
    where = f"{len(looked)} file{'s' if len(looked) > 1 else ''}"
    unit, why, question = unit_of(
        values, sensor or told_by_bands(source["bands"]), part.name, where, len(source["bands"])
    )
    source.update(unit)
    comments.update(why)
    if question:
        part.questions.append(question)
    extents = [header.extent if header.resolution else tuple(n * resolution for n in header.size) for header in headers]
    part.extent = (min(e[0] for e in extents), min(e[1] for e in extents))
    if first.grid is not None:
        part.place = (first.grid.crs, first.grid.left, first.grid.top)
    part.align = part.align or _apart(headers)


def _nodata(part: Part, headers: Sequence[Header], sensor: str) -> None:
    """A number that means "not observed" without being declared."""
    if "nodata" in part.source or any(header.pixels.conventions.nodata for header in headers):
        return
    found = missing_number(_joined([stored_sample(header.pixels) for header in headers], None), sensor)
    if found is not None:
        part.source["nodata"], part.comments["nodata"] = found


def _apart(headers: Sequence[Header]) -> str:
    """Why files of the same scene need warping: grids of one CRS with other corners or sizes; empty if they do not.

    Files that lie apart by more than a size are scenes of their own.
    """
    grids = [header.grid for header in headers if header.grid is not None]
    for grid in grids[1:]:
        one = grids[0]
        near = abs(grid.left - one.left) < grid.width * grid.pixel_width / 2
        near &= abs(grid.top - one.top) < grid.height * grid.pixel_height / 2
        moved = (grid.left, grid.top, grid.width, grid.height) != (one.left, one.top, one.width, one.height)
        if grid.crs == one.crs and near and moved and grid.pixel_width == one.pixel_width:
            return (
                f"corners or sizes differ between dates, e.g. ({one.left:.10g}, {one.top:.10g}) and ({grid.left:.10g}, "
                f"{grid.top:.10g})"
            )
    return ""


def _joined(samples: Sequence[np.ndarray], per: int | None) -> np.ndarray:
    if per == 1:
        return np.concatenate([values.reshape(1, -1) for values in samples], axis=1)
    return np.concatenate(samples, axis=1)


def _plain(number: float) -> Any:
    return int(number) if float(number).is_integer() else number
