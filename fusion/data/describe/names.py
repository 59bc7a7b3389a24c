"""What names say: bands, dates, sensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = [
    "DATE",
    "MONTHS",
    "SENTINEL2_10",
    "SENTINEL2_20",
    "in_order",
    "is_band",
    "is_mask",
    "sensor_of",
    "told_by_bands",
]

SENTINEL2_10 = ("B02", "B03", "B04", "B08")
SENTINEL2_20 = ("B05", "B06", "B07", "B8A", "B11", "B12")

_MONTH, _DAY = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_YEAR = r"(?:18|19|20|21)\d{2}"
# As the reader's {date}: a whole date, a year and the day in it, a month. Not within a longer number.
DATE = re.compile(
    rf"(?<!\d)(?:{_YEAR}-{_MONTH}-{_DAY}|{_YEAR}{_MONTH}{_DAY}|{_YEAR}(?:[012]\d\d|3[0-5]\d|36[0-6])(?!\d)"
    rf"|{_YEAR}-{_MONTH})(?!\d)"
)
# Of six digits. Path and row of Landsat, or the number of a tile, may look alike: see find_pattern.
MONTHS = re.compile(rf"(?<!\d){_YEAR}{_MONTH}(?!\d)")
_OPTICAL = (
    r"B(?:0?[1-9]|1[0-2]|8A)", r"SR_B\d{1,2}", r"ST_B\d{1,2}", "coastal", "blue", "green", "red", "nir", "nir08",
    "nir09", r"swir\d*", r"rededge\d?", r"red_edge_?\d?", "pan", "cirrus",
)  # fmt: skip
_COLOURS = ("coastal", "blue", "green", "red", "nir", "swir")
_RADAR = ("VV", "VH", "HH", "HV")
_MASKS = ("SCL", "QA_PIXEL", "Fmask", "CLP", "CLM", "pixel_qa")
_BAND = re.compile("|".join((*_OPTICAL, *_RADAR, *_MASKS)), re.IGNORECASE)
_SENSORS = (
    ("s2", r"s2[abcd]?(?!\d)|sentinel[-_ ]?2[abcd]?|msi(?![a-z])"),
    ("s1", r"s1[abcd]?(?!\d)|sentinel[-_ ]?1[abcd]?|sar(?![a-z])"),
    ("landsat", r"l[cetom]0[4-9]|landsat[-_ ]?\d?|ls[4-9]"),
    ("hls", r"hls"),
)


def in_order(bands: Iterable[str]) -> list[str]:
    """Bands whose order no file says, from short to long waves as far as their names tell."""
    return sorted(bands, key=_wave)


def _wave(band: str) -> tuple[float, str]:
    word = band.lower().replace("_", "")
    if number := re.fullmatch(r"(?:s[rt])?b(\d+)(a?)", word):
        return int(number[1]) + (0.5 if number[2] else 0), word
    colour = next((k for k, name in enumerate(_COLOURS) if word.startswith(name)), len(_COLOURS))
    return (colour, word) if word.upper() not in _RADAR else (("VV", "VH", "HH", "HV").index(word.upper()), word)


def is_band(text: str) -> bool:
    """Whether a part of a name is what producers call a band."""
    return _BAND.fullmatch(text) is not None


def is_mask(text: str) -> str:
    """The usual name of a band that says which pixels are clear, or nothing."""
    return next((mask for mask in _MASKS if mask.lower() == text.lower()), "")


def sensor_of(text: str) -> str:
    """The sensor that the beginning of a word of a folder or file name tells; empty if none."""
    for word in re.split(r"[/._ ]+", text.lower()):
        for sensor, pattern in _SENSORS:
            if re.match(rf"(?:{pattern})(?![a-z])", word):
                return sensor
    return ""


def told_by_bands(bands: Sequence[str]) -> str:
    """The sensor that names of bands tell: s1 of polarisations, landsat of SR_B, s2 of B8A, B08 and the like."""
    names = [band.upper() for band in bands]
    if names and all(re.match(r"(?:VV|VH|HH|HV)", name) for name in names):
        return "s1"
    if any(re.fullmatch(r"S[RT]_B\d+", name) for name in names):
        return "landsat"
    if any(re.fullmatch(r"B8A|B12|B0[1-9]", name) for name in names) or (
        {"B4", "B8"} <= {*names} and "B10" not in names
    ):
        return "s2"
    return ""
