"""STAC items, item collections and catalogs whose assets are files beside them (STAC 1.0 and 1.1)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_json
from ..folder.raster import RASTERS
from .guess import Part, Question
from .listing import Listing
from .measures import listed, mask_of
from .names import is_mask, sensor_of
from .pattern import find_pattern, split_bands
from .rasters import is_banded, recognise

__all__ = ["recognise_items"]

_ASIDE = ("thumbnail", "overview", "metadata", "visual")  # roles of what is no data


@dataclass(frozen=True)
class _Asset:
    """
    Attributes:
        path: relative to the folder.
        bands: names, empty where the item does not say them.
        said: what ``raster:bands`` or ``bands`` say of each: scale, offset, nodata.
    """

    path: Path
    date: str
    key: str
    platform: str
    bands: tuple[str, ...]
    said: tuple[Mapping[str, Any], ...]


def recognise_items(listing: Listing) -> list[Part]:
    """The modalities of items that the folder holds; nothing where there is none.

    Raises:
        ValueError: assets that are remote or missing.
    """
    items = dict(_items(listing))
    if not items:
        return []
    local: list[tuple[Path, str, Mapping[str, Any], Mapping[str, Any]]] = []
    missing: list[tuple[Path, str, Mapping[str, Any], Mapping[str, Any]]] = []
    remote: list[str] = []
    for where, item in items.values():
        for key, asset in item.get("assets", {}).items():
            href = str(asset.get("href", ""))
            if set(asset.get("roles") or ()) & set(_ASIDE) or Path(href).suffix.lower() not in RASTERS:
                continue
            if "://" in href and not href.startswith("file://"):
                remote.append(href)
                continue
            path = where.parent / href.removeprefix("file://")
            (local if path.is_file() else missing).append((path, key, asset, item))
    if remote and not local:
        raise ValueError(
            f"{listing.folder}: the {len(remote)} assets of {len(items)} STAC items are remote, e.g. {remote[0]}; "
            "download them (stac-asset download, or odc.stac.load(...).to_zarr(...)) and give the folder with the files"
        )
    if not local:
        first = f", e.g. {missing[0][0]} is missing" if missing else ""
        raise ValueError(f"{listing.folder}: {len(items)} STAC items have no raster beside them{first}; copy the files "
                         "to where the items say")  # fmt: skip
    assets = [_asset(listing.folder, *one) for one in local]
    claimed = {asset.path for asset in assets}
    listing.take("rasters", claimed)
    parts = _parts(listing.folder, assets)
    if remote or missing:
        away = remote[0] if remote else missing[0][0]
        parts[0].questions.append(
            Question(
                f"are {len(remote) + len(missing)} assets that are not here wanted, e.g. {away}? Only files are read"
            )
        )
    return parts


def _items(listing: Listing) -> Iterator[tuple[str, tuple[Path, Mapping[str, Any]]]]:
    seen: set[Path] = set()
    for path in listing.items:
        try:
            yield from list(_within(listing.folder / path, seen))
        except ValueError:
            if not listing.data:  # beside images a file of another kind may be as it likes
                raise


def _within(path: Path, seen: set[Path]) -> Iterator[tuple[str, tuple[Path, Mapping[str, Any]]]]:
    """Items of a file by their id, following links of catalogs to files."""
    if path.resolve() in seen or not path.is_file():
        return
    seen.add(path.resolve())
    found = read_json(path)
    if not isinstance(found, Mapping):
        return
    kind = found.get("type")
    if kind == "Feature" and "assets" in found:
        yield str(found.get("id")), (path, found)
    elif kind == "FeatureCollection":
        for item in found.get("features", []):
            if isinstance(item, Mapping) and "assets" in item:
                yield str(item.get("id")), (path, item)
    elif "stac_version" in found:
        for link in found.get("links", []):
            href = str(link.get("href", ""))
            if link.get("rel") in ("item", "child") and "://" not in href:
                yield from _within(path.parent / href, seen)


def _asset(folder: Path, path: Path, key: str, asset: Mapping[str, Any], item: Mapping[str, Any]) -> _Asset:
    properties = item.get("properties", {})
    date = str(properties.get("datetime") or properties.get("start_datetime") or "")[:10]
    eo, raster, bands = (asset.get(name) or [] for name in ("eo:bands", "raster:bands", "bands"))
    names = [str(band.get("name") or "") for band in (bands or eo)]
    said = [band for band in (raster or bands)]
    said = said or ([asset] if any(f"raster:{k}" in asset for k in ("scale", "offset")) else [])
    platform = sensor_of(str(properties.get("constellation") or properties.get("platform") or ""))
    relative = Path(os.path.relpath(path, folder))
    return _Asset(relative, date, key, platform, tuple(names) if all(names) else (), tuple(said))


def _parts(folder: Path, assets: Sequence[_Asset]) -> list[Part]:
    single = [asset for asset in assets if len(asset.bands) <= 1]
    known = {asset.key for asset in single} | {band for asset in single for band in asset.bands}
    files = [asset.path for asset in single]
    parts: list[Part] = []
    if files and is_banded(files, known):
        parts += _finished(folder, files, single, known)
    elif files:
        parts += _finished(folder, files, single, set())
    stacks = [asset for asset in assets if len(asset.bands) > 1]
    if stacks:
        parts += _finished(folder, [asset.path for asset in stacks], stacks, set())
    return parts


def _finished(folder: Path, files: Sequence[Path], assets: Sequence[_Asset], known: set[str]) -> list[Part]:
    """What the names and headers tell, with what the items say in addition."""
    sensor = next((asset.platform for asset in assets if asset.platform), "")
    found = recognise(folder, files, sensor, sensor, known)
    wrong = [asset for asset in assets if asset.date and asset.date != _dated(asset.path)]
    for part in found:
        if wrong:
            part.questions.append(
                Question(
                    f"the dates of {len(wrong)} files, e.g. {wrong[0].path}? Their items say {wrong[0].date}, their "
                    f"names {_dated(wrong[0].path) or 'nothing'}, and the reader goes by names; put the date into the "
                    "names, e.g. SCENE_20200801_B02.tif",
                    needed=True,
                )
            )
        _named(part, assets)
        _packed(part, assets)
    return found


def _dated(path: Path) -> str:
    """The date in a name as 2020-08-01."""
    found = find_pattern([path], banded=False).dates
    if not found:
        return ""
    digits = found[0].replace("-", "")
    if len(digits) == 7:  # the day of a year
        import datetime

        return (datetime.date(int(digits[:4]), 1, 1) + datetime.timedelta(int(digits[4:]) - 1)).isoformat()
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}".rstrip("-")


def _named(part: Part, assets: Sequence[_Asset]) -> None:
    """Names of the bands of a stack."""
    lists = {asset.bands for asset in assets if len(asset.bands) > 1}
    own = part.source["bands"]
    if len(lists) == 1 and len(names := list(lists.pop())) == len(own):
        part.source["bands"], part.comments["bands"] = names, "from the bands in the STAC items"
        part.questions = [question for question in part.questions if "names of the" not in question.text]
        if masks := [name for name in names if is_mask(name)]:
            part.source["mask"], part.comments["mask"] = mask_of(is_mask(masks[0]), band=masks[0])
    elif "{band}" in part.source["files"]:
        part.comments["bands"] = "from names of files and STAC items" + part.comments["bands"].removeprefix(
            "from names of files"
        )


def _packed(part: Part, assets: Sequence[_Asset]) -> None:
    """Scale, offset and nodata that the items say of the bands of a modality, where all agree."""
    bands = set(part.source["bands"])
    said = [
        band for asset in assets for band in asset.said
        if len(asset.bands) > 1 or split_bands(asset.path, {asset.key, *asset.bands})[1] in bands
    ]  # fmt: skip
    for key in ("scale", "offset", "nodata"):
        values = {str(value): value for band in said if (value := band.get(key, band.get(f"raster:{key}"))) is not None}
        if len(values) == 1:
            value = next(iter(values.values()))
            if (key, value) in (("scale", 1), ("offset", 0)):
                continue
            part.source[key] = value
            part.comments[key] = "from the STAC items"
        elif len(values) > 1:
            part.questions.append(
                Question(f"the {key} of {part.name}? The STAC items say {listed(sorted(values))}", needed=True)
            )
    scale = part.source.get("scale")
    if scale and part.source.get("unit") == "reflectance x 10000" and 0 < scale < 0.01:
        part.source["unit"], part.comments["unit"] = "reflectance", "with the scale of the STAC items"
