"""Landsat Collection 2, Level 2: surface reflectance, a file a band.

Names, scale, offset and bits: USGS, Landsat 8-9 Collection 2 Level 2 Science Product Guide (LSDS-1619).
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from .guess import Part
from .headers import read_headers
from .listing import Listing
from .measures import mask_of
from .rasters import part_of_headers

__all__ = ["recognise"]

_FILE = re.compile(
    r"(L[COTEM])0(\d)_(L2S[PR])_(\d{6})_(\d{8})_\d{8}_02_(T1|T2|RT)_(SR_B\d|ST_B\d+|QA_PIXEL)\.tif", re.I
)
SCALE, OFFSET = 0.0000275, -0.2


def recognise(listing: Listing) -> list[Part]:
    """``landsat`` of the Operational Land Imager, or of older sensors, whose bands have other numbers; both: two."""
    found: dict[str, list[tuple[Path, re.Match[str]]]] = defaultdict(list)
    for path in listing.rasters:
        if match := _FILE.fullmatch(path.name):
            found["oli" if match[2] in "89" else "tm"].append((path, match))
    products = {path.name.rsplit("_02_", 1)[0] for files in found.values() for path, _ in files}
    listing.take("rasters", [path for path in listing.rasters if path.name.rsplit("_02_", 1)[0] in products])
    parts = []
    for group, files in sorted(found.items()):
        part = Part("landsat" if len(found) == 1 else f"landsat-{group}", {})
        images = [(path, match) for path, match in files if match[7].upper().startswith("SR_B")]
        if not images:
            continue
        deep = any(len(path.parts) > 1 for path, _ in images)
        satellites = "L" + ("C" if all(m[1].upper() == "LC" for _, m in images) else "*")
        numbers = {match[2] for _, match in images}
        number = f"0{numbers.pop()}" if len(numbers) == 1 else "0*"
        suffix = images[0][0].suffix
        head = f"{'**/' if deep else ''}{satellites}{number}_L2S*_{{scene}}_{{date}}_*_02_*_"
        bands = sorted({match[7].upper() for _, match in images})
        dates = sorted({match[5] for _, match in images})
        part.source["files"] = f"{head}{{band}}{suffix}"
        part.comments["files"] = f"Landsat Collection 2 Level 2, {len(dates)} dates {dates[0]}..{dates[-1]}"
        part.source["bands"] = bands
        part.comments["bands"] = "surface reflectance; surface temperature (ST_B) is left out"
        part.source["nodata"], part.comments["nodata"] = 0, "of Collection 2 surface reflectance"
        part_of_headers(part, read_headers([listing.folder / path for path, _ in images], 12), "landsat", 1)
        part.questions = []
        part.source.update(unit="reflectance", scale=SCALE, offset=OFFSET)
        for key in ("scale", "offset"):
            part.comments[key] = "of Collection 2 Level 2 (USGS)"
        part.comments["unit"] = "of Collection 2 Level 2, with the scale and offset below"
        if any(match[7].upper() == "QA_PIXEL" for _, match in files):
            part.source["mask"], part.comments["mask"] = mask_of("QA_PIXEL", files=f"{head}QA_PIXEL{suffix}")
        there: dict[tuple[str, str], set[str]] = defaultdict(set)
        for _, match in images:
            there[match[4], match[5]].add(match[7].upper())
        fewer = sum(len(own) < len(bands) for own in there.values())
        if fewer:
            part.source["missing_bands"] = True
            part.comments["missing_bands"] = f"{fewer} of {len(there)} dates lack a band"
        part.scenes = tuple(sorted({match[4] for _, match in images}))
        parts.append(part)
    return parts
