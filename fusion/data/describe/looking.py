"""What is in a folder or file: every recogniser in turn, the products with names of their own first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..spacing import evenly_spaced
from . import arrays, containers, hls, landsat, rasters, safe, stac
from .assembling import assemble
from .guess import Guess, NotNeededError, Part
from .headers import read_headers
from .labels import Labelled, find_labels, take_label_rasters
from .listing import Listing, list_files
from .measures import listed
from .names import DATE, sensor_of
from .pattern import split_bands

__all__ = ["describe"]

_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".7z"}
_FOLDERS = 50  # of which a header is read, to see whether they are of one kind


def describe(path: str | Path) -> Guess:
    """What a folder, or one file, holds, as a description of it.

    Headers of some files and a window of their values are read; names are read of all.

    Args:
        path: of the folder or file; a folder of Sentinel-2 products, or one of them; of a STAC item or catalog.

    Returns:
        the description with its reasons and questions; :func:`fusion.data.folder.load_description` takes its
        ``description``, relative to its ``folder``.

    Raises:
        NotNeededError: a published data set, which is read as it is.
        ValueError: nothing there that could be described, or a damaged file; the message has paths and numbers.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        raise NotNeededError(f"{path} is a description already")
    _not_published(path)
    listing = list_files(path)
    parts = [*safe.recognise(listing, path), *landsat.recognise(listing), *hls.recognise(listing)]
    parts += stac.recognise_items(listing)
    maps = take_label_rasters(listing) if not path.is_file() else []
    held, inside = _containers(listing)
    parts += held + _arrays(listing) + _rasters(listing)
    if not parts:
        raise ValueError(_nothing(path, listing, maps))
    scenes = sorted({scene for part in parts for scene in part.scenes})
    found = inside if inside.table or inside.questions else find_labels(listing, maps, scenes)
    return assemble(listing.folder, parts, found.table, found.comments, found.questions)


def _not_published(path: Path) -> None:
    from ..open import published_name

    name = published_name(path)
    if name:
        raise NotNeededError(f"{path} is a folder of {name}, which needs no description: give the folder itself")


def _nothing(path: Path, listing: Listing, maps: Sequence[Path]) -> str:
    counts = dict(sorted(listing.others.items(), key=lambda item: -item[1]))
    kinds = [f"{number} {suffix}" for suffix, number in counts.items()]
    beside = [*maps, *listing.vectors, *listing.tables, *listing.items]
    kinds += [f"{len(beside)} such as {beside[0]}"] if beside else []
    total = sum(counts.values()) + len(beside)
    return (
        f"{path}: none of {total} files is an image or array ({listed(kinds, 6)}); GeoTIFF, .jp2, .vrt, NetCDF, Zarr, "
        f"HDF5, .npz and .npy are read{'; unpack archives first' if _ARCHIVES & counts.keys() else ''}"
    )


def _containers(listing: Listing) -> tuple[list[Part], Labelled]:
    groups: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    tops = _tops(listing.containers)
    for path in listing.containers:
        top = path.parts[0] if len(path.parts) > 1 and tops else ""
        groups[top, sensor_of(path.stem), path.suffix.lower()].append(path)
    parts, labelled = [], Labelled()
    for (top, sensor, _), files in groups.items():
        held, labels = containers.recognise(listing.folder, files)
        labelled = labels if labels.table else labelled
        for part in held:
            plain = part.name == "image" or len(held) == 1
            part.name = (sensor_of(top) or sensor or top if plain else "") or part.name
            parts.append(part)
    return parts, labelled


def _arrays(listing: Listing) -> list[Part]:
    if any(path.suffix != ".npy" for path in listing.data):
        return []
    return arrays.recognise(listing.folder, listing.arrays) if listing.arrays else []


def _tops(files: Sequence[Path]) -> bool:
    """Whether folders tell sensors; one with a date is a product or a day."""
    tops = {path.parts[0] for path in files if len(path.parts) > 1}
    return any(sensor_of(top) and not DATE.search(top) for top in tops)


def _rasters(listing: Listing) -> list[Part]:
    """Groups of rasters by folder and beginning of names, a modality or several each."""
    groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
    folders = sorted({path.parts[0] for path in listing.rasters if len(path.parts) > 1})
    apart = _tops(listing.rasters) or _different(listing, folders)
    for path in listing.rasters:
        top = path.parts[0] if len(path.parts) > 1 and apart and not DATE.search(path.parts[0]) else ""
        own = sensor_of(top) or sensor_of(path.stem) or sensor_of(path.parts[0])
        groups[top, own].append(path)
    parts: list[Part] = []
    for (top, sensor), files in sorted(groups.items()):
        several = len(groups) > 1
        for kind, members in _kinds(files):
            name = (sensor or top) if several or top else sensor
            parts += rasters.recognise(listing.folder, members, kind or name, "" if kind else sensor)
    return parts


def _different(listing: Listing, folders: Sequence[str]) -> bool:
    """Whether folders hold images of different kinds, not scenes of one kind."""
    kinds = set()
    for folder in (folders[int(i)] for i in evenly_spaced(len(folders), min(_FOLDERS, len(folders)))):
        own = [path for path in listing.rasters if path.parts[0] == folder]
        (header,) = read_headers([listing.folder / own[0]], 1)
        kinds.add((header.bands, header.resolution, header.pixels.dtype.kind, bool(DATE.search(own[0].as_posix()))))
    return len(kinds) > 1


def _kinds(files: Sequence[Path]) -> list[tuple[str, list[Path]]]:
    """Files with a date, files that are a band, and others by the last word of their name, such as a_dem.tif."""
    groups: dict[str, list[Path]] = defaultdict(list)
    dated = any(DATE.search(path.as_posix()) for path in files)
    for path in files:
        if DATE.search(path.as_posix()) or split_bands(path)[1] or not dated:
            groups[""].append(path)
        else:
            groups[path.stem.rpartition("_")[2].lower()].append(path)
    return sorted(groups.items())
