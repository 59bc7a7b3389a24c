"""Sentinel-2 as ESA delivers it: SAFE folders of Level-1C and Level-2A.

Names: ESA, Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD), section 3.4.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..processing_baseline import OFFSET
from .guess import Part, Question
from .headers import read_headers
from .listing import Listing
from .measures import CLASSES, listed
from .names import SENTINEL2_10, SENTINEL2_20
from .rasters import part_of_headers

__all__ = ["recognise"]

_PRODUCT = re.compile(r"S2[A-D]_MSI(L1C|L2A)_(\d{8})T\d{6}_N(\d{4})_R\d{3}_T(\w{5})_\w+\.SAFE")
_IMAGE = re.compile(r"T(\w{5})_(\d{8})T\d{6}_(B\w\w|SCL|TCI|AOT|WVP)(?:_(\d\d)m)?\.jp2", re.IGNORECASE)
_BASELINE = 400  # from 04.00 on stored numbers are 1000 higher


def recognise(listing: Listing, given: Path) -> list[Part]:
    """A modality for the bands of 10 m and one for those of 20 m; nothing where there is no such product.

    Args:
        given: what the user named, perhaps the product itself.
    """
    images: dict[str, list[tuple[Path, str, str, str]]] = defaultdict(list)  # by level: path, date, band, metres
    baselines: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    claimed, above = [], given.resolve().parts
    for path in listing.rasters:
        inside = (*above, *path.parts)
        product = next((m for part in reversed(inside) if (m := _PRODUCT.fullmatch(part))), None)
        if product is None:
            continue
        claimed.append(path)
        image = _IMAGE.fullmatch(path.name)
        if image and "IMG_DATA" in path.parts:
            images[product[1]].append((path, image[2], image[3].upper(), image[4] or ""))
            baselines[product[1]][image[2]].add(int(product[3]))
    listing.take("rasters", claimed)
    parts = []
    for level, found in sorted(images.items(), reverse=True):
        name = "s2" if level == "L2A" or len(images) == 1 else "s2-l1c"
        parts += _of_level(listing.folder, level, name, found, baselines[level])
    return parts


def _of_level(
    folder: Path,
    level: str,
    name: str,
    images: Sequence[tuple[Path, str, str, str]],
    baselines: dict[str, set[int]],
) -> list[Part]:
    base = _base([path for path, *_ in images])
    parts: list[Part] = []
    for metres, wanted in ((10, SENTINEL2_10), (20, SENTINEL2_20)):
        files = [image for image in images if image[2] in wanted and image[3] in ("", str(metres))]
        bands = [band for band in wanted if band in {image[2] for image in files}]
        if not bands:
            continue
        part = Part(name if not parts else f"{name}-{metres}m", {})
        tail = f"R{metres}m/{{scene}}_{{date}}T*_{{band}}_{metres}m" if level == "L2A" else "{scene}_{date}T*_{band}"
        part.source["files"] = f"{base}{tail}.jp2"
        dates = sorted({image[1] for image in files})
        part.comments["files"] = f"Sentinel-2 {level}, {len(dates)} dates {dates[0]}..{dates[-1]}"
        part.source["bands"] = bands
        part.comments["bands"] = f"those of {metres} m; bands of 60 m are left out"
        part.source["nodata"] = 0
        part.comments["nodata"] = "of Sentinel-2 products (NODATA in their metadata)"
        part_of_headers(part, read_headers([folder / image[0] for image in files], 12), "s2", 1)
        part.source["unit"], part.comments["unit"] = "reflectance x 10000", f"of Sentinel-2 {level}"
        part.questions = []
        _offset(part, baselines)
        _missing(part, files, bands)
        mask = [image for image in images if image[2] == "SCL"]
        if mask:
            part.source["mask"] = {
                "files": f"{base}R20m/{{scene}}_{{date}}T*_SCL_20m.jp2", "classes": CLASSES, "resolution": 20,
            }  # fmt: skip
            part.comments["mask"] = "vegetation, bare, water, unclassified of the scene classification"
        part.scenes = tuple(sorted({image[0].name.partition("_")[0] for image in files}))
        parts.append(part)
    return parts


def _base(paths: Sequence[Path]) -> str:
    """The part of the pattern up to and with IMG_DATA: folders of products and granules as ``*``."""
    found = set()
    for path in paths:
        parts = list(path.parts[: path.parts.index("IMG_DATA") + 1])
        found.add("/".join(part if part in ("GRANULE", "IMG_DATA") else "*" for part in parts))
    if len(found) > 1:
        return "**/GRANULE/*/IMG_DATA/"  # products in folders of different depth
    return found.pop() + "/"


def _offset(part: Part, baselines: dict[str, set[int]]) -> None:
    """-1000 of the dates whose product has processing baseline 04.00 or later."""
    mixed = [date for date, found in baselines.items() if len({number >= _BASELINE for number in found}) > 1]
    if mixed:
        part.questions.append(
            Question(
                f"which product of {listed(sorted(mixed))} is to be used? There is one from before processing baseline "
                "04.00 and one from after it, whose values are 1000 higher; remove one of them",
                needed=True,
            )
        )
        return
    steps: dict[str, int] = {}
    for date in sorted(baselines):
        offset = -round(OFFSET) if max(baselines[date]) >= _BASELINE else 0
        if not steps or list(steps.values())[-1] != offset:
            steps[f"{date[:4]}-{date[4:6]}-{date[6:]}"] = offset
    shown = listed([f"{number / 100:05.2f}" for number in sorted(set().union(*baselines.values()))])
    if set(steps.values()) == {0}:
        part.comments["unit"] += f"; processing baseline {shown}, before 04.00: no offset"
        return
    if next(iter(steps.values())) == 0:
        del steps[next(iter(steps))]
    constant = len(steps) == 1 and min(baselines) == next(iter(steps)).replace("-", "")
    part.source["offset"] = -round(OFFSET) if constant else steps
    part.comments["offset"] = (
        f"processing baseline {shown} in the names of the products; from 04.00 on, values are 1000 higher"
    )


def _missing(part: Part, files: Sequence[tuple[Path, str, str, str]], bands: Sequence[str]) -> None:
    there: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path, date, band, _ in files:
        there[path.name.partition("_")[0], date].add(band)
    fewer = sum(len(found) < len(bands) for found in there.values())
    if fewer:
        part.source["missing_bands"] = True
        part.comments["missing_bands"] = f"{fewer} of {len(there)} dates lack a band"
