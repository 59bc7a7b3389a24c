"""Bands by the names that catalogues give them: B2, B02 and blue are one band of Sentinel-2."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..data.describe.names import told_by_bands

__all__ = ["positions"]

# Of Sentinel-2: the common names of STAC's extension eo in both of its versions, and keys of assets in earth-search,
# Planetary Computer and openEO.
_SENTINEL2 = {
    "B1": ("coastal", "coastalaerosol"),
    "B2": ("blue",),
    "B3": ("green",),
    "B4": ("red",),
    "B5": ("rededge1", "rededge071", "rededge705"),
    "B6": ("rededge2", "rededge075", "rededge740"),
    "B7": ("rededge3", "rededge078", "rededge783"),
    "B8": ("nir", "nir1"),
    "B8A": ("nir08", "nir2", "narrownir", "nirnarrow"),
    "B9": ("nir09", "watervapour", "watervapor"),
    "B10": ("cirrus",),
    "B11": ("swir16", "swir1"),
    "B12": ("swir22", "swir2"),
}
_BAND = {word: band.lower() for band, words in _SENTINEL2.items() for word in words}


def positions(wanted: Sequence[str], given: Sequence[str]) -> list[int | None]:
    """Where each wanted band is among those that are given; None for one that is not.

    Capitals and zeros before a number mean nothing. Common names stand for bands of Sentinel-2 if either side has the
    names of Sentinel-2: B5 of Landsat is another one.
    """
    translated = "s2" in (told_by_bands(wanted), told_by_bands(given))
    known: dict[str, int] = {}
    for number, name in enumerate(given):
        known.setdefault(_plain(name, translated), number)
    return [known.get(_plain(name, translated)) for name in wanted]


def _plain(name: str, translated: bool) -> str:
    word = re.sub(r"(?<=[a-z])0+(?=\d)", "", name.strip().lower())
    return _BAND.get(re.sub(r"[-_ ]", "", name.strip().lower()), word) if translated else word
