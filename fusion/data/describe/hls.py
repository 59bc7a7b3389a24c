"""Harmonized Landsat Sentinel-2 (NASA), version 2: S30 and L30, a file a band.

Names, bands and bits: HLS Product User Guide v2.0.
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

_FILE = re.compile(r"HLS\.([SL]30)\.T(\w{5})\.(\d{7})T\d{6}\.v(\d\.\d)\.(B\w\w|Fmask)\.tif", re.IGNORECASE)
# Reflectance of the surface; B09 and B10 of S30 are of the air, B09 of L30 too, B10 and B11 of L30 are temperatures.
_BANDS = {
    "S30": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
    "L30": ("B01", "B02", "B03", "B04", "B05", "B06", "B07"),
}


def recognise(listing: Listing) -> list[Part]:
    """``hls``, or ``hls-s30`` and ``hls-l30``, whose bands differ."""
    found: dict[str, list[tuple[Path, re.Match[str]]]] = defaultdict(list)
    for path in listing.rasters:
        if match := _FILE.fullmatch(path.name):
            found[match[1].upper()].append((path, match))
    listing.take("rasters", [path for path in listing.rasters if re.match(r"HLS\.[SL]30\.", path.name)])
    parts = []
    for product, files in sorted(found.items(), reverse=True):
        images = [(path, match) for path, match in files if match[5].upper() in _BANDS[product]]
        if not images:
            continue
        part = Part("hls" if len(found) == 1 else f"hls-{product.lower()}", {})
        deep = any(len(path.parts) > 1 for path, _ in images)
        suffix = images[0][0].suffix
        head = f"{'**/' if deep else ''}HLS.{product}.{{scene}}.{{date}}T*.v{images[0][1][4]}."
        present = {match[5].upper() for _, match in images}
        bands = [band for band in _BANDS[product] if band in present]
        dates = sorted({match[3] for _, match in images})
        part.source["files"] = f"{head}{{band}}{suffix}"
        part.comments["files"] = f"HLS {product}, {len(dates)} dates {dates[0]}..{dates[-1]} (year and day of it)"
        part.source["bands"] = bands
        part.comments["bands"] = "reflectance of the surface; bands of water vapour, cirrus and heat are left out"
        headers = read_headers([listing.folder / path for path, _ in images], 12)
        if not any(header.pixels.conventions.nodata for header in headers):
            part.source["nodata"], part.comments["nodata"] = -9999, "of HLS v2.0; the files do not say it"
        part_of_headers(part, headers, "hls", 1)
        part.questions = []
        packed = headers[0].pixels.conventions.packed
        part.source["unit"] = "reflectance" if packed else "reflectance x 10000"
        part.comments["unit"] = f"of HLS v2.0, {'scaled as the files say' if packed else 'as stored'}"
        if any(match[5].lower() == "fmask" for _, match in files):
            part.source["mask"], part.comments["mask"] = mask_of("Fmask", files=f"{head}Fmask{suffix}")
        there: dict[tuple[str, str], set[str]] = defaultdict(set)
        for _, match in images:
            there[match[2], match[3]].add(match[5].upper())
        fewer = sum(len(own) < len(bands) for own in there.values())
        if fewer:
            part.source["missing_bands"] = True
            part.comments["missing_bands"] = f"{fewer} of {len(there)} dates lack a band"
        part.scenes = tuple(sorted({f"T{match[2]}" for _, match in images}))
        parts.append(part)
    return parts
