"""What values are measured in, and which pixels are clear, by names and by the values themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..processing_baseline import CHANGE
from ..units import looks_like, readable
from .guess import Part, Question
from .writing import flow

__all__ = [
    "CLASSES",
    "ask_offset",
    "ask_whether_labels",
    "is_height",
    "listed",
    "mask_of",
    "may_be_target",
    "missing_number",
    "unit_of",
]

# Codes of a Sentinel-2 scene classification that are clear ground (ESA, Level-2A Product Definition, table of SCL):
# vegetation, bare, water, unclassified. Snow (11) is not.
CLASSES = [4, 5, 6, 7]
_RULES: dict[str, tuple[dict[str, Any], str]] = {
    "SCL": ({"classes": CLASSES}, "vegetation, bare, water, unclassified of ESA's scene classification"),
    "QA_PIXEL": ({"bad_bits": [0, 1, 2, 3, 4]}, "fill, dilated cloud, cirrus, cloud, shadow of Landsat Collection 2"),
    "pixel_qa": ({"bad_bits": [0, 1, 2, 3, 4]}, "fill, dilated cloud, cirrus, cloud, shadow of Landsat Collection 2"),
    "Fmask": ({"bad_bits": [1, 2, 3]}, "cloud, adjacent to cloud, shadow of HLS v2.0"),
    "CLP": ({"at_most": 50}, "cloud probability 0..100 by its name; s2cloudless of Sentinel Hub has 0..255"),
    "CLM": ({"classes": [0]}, "clear in the cloud mask of Sentinel Hub"),
}
_UNITS = {"reflectance x 10000": "reflectance x 10000", "dB": "dB", "8 bit": "8 bit", "kelvin": "K"}


def mask_of(name: str, **where: Any) -> tuple[dict[str, Any], str]:
    """What stands under ``mask`` for a band of a usual name, and why.

    Args:
        where: the band, variable or files that hold it.
    """
    rule, why = _RULES[name]
    return {**where, **rule}, f"{why}, by the name {name}"


def unit_of(
    values: np.ndarray, sensor: str, modality: str, where: str, bands: int
) -> tuple[dict[str, Any], dict[str, str], Question | None]:
    """The unit (and a scale), from what it was guessed, and a question where it is unknown.

    Args:
        values: any shape, NaN where missing.
        sensor: by names, or empty.
        where: which files were looked at.
        bands: how many the modality has.
    """
    finite = values[np.isfinite(values)]
    seen = looks_like(finite)
    told = ""
    if finite.size:
        low, high = np.percentile(finite, [1, 99])
        told = f"from values {readable(low)}..{readable(high)} (p1..p99) of {where}"
    unit = _UNITS.get(seen, "")
    if is_height(modality):
        return {"unit": "m"}, {"unit": f"a height by its name, {told}"}, None
    if unit == "reflectance x 10000" and not sensor and bands == 1:
        unit = ""  # one band of large numbers may be anything
    if seen == "0..1" and sensor:
        unit = "linear" if sensor == "s1" else "reflectance"
    if (seen == "8 bit" and sensor in ("s2", "landsat", "hls")) or (sensor == "s1" and unit not in ("dB", "linear")):
        unit = ""
    if unit:
        return {"unit": unit}, {"unit": told}, None
    if seen == "dB x 100" and sensor == "s1":
        return {"unit": "dB", "scale": 0.01}, {"unit": "radar, by its bands", "scale": f"dB x 100, {told}"}, None
    looks = f"Values look like {seen}" if seen != "unknown" else "Its values look like none that is known"
    asked = f"the unit of {modality}? {looks}" + (f" ({told})" if told else "")
    return {}, {}, Question(f"{asked}; say unit, e.g. reflectance x 10000, reflectance, dB, linear, 8 bit, K, t/ha")


def is_height(name: str) -> bool:
    """Whether a name is one of those of digital terrain models."""
    return re.fullmatch(r"dem|dsm|dtm|elevation|height|altitude|copdem.*", name, re.IGNORECASE) is not None


def may_be_target(name: str) -> bool:
    """Whether one layer without dates may be what is to be predicted: terrain is not, a height may be of trees."""
    return name.lower() == "height" or not is_height(name)


def ask_whether_labels(part: Part, where: str, source: Mapping[str, Any]) -> Question:
    """Asks of a layer without dates whether it is the target, which a model must not be given as an image.

    Args:
        where: a file, for the message.
        source: what says under ``labels`` where it lies.
    """
    labels = flow({**source, "reduction": "none"})
    return Question(
        f"is {part.name} in {where} an image, as is written here, or what is to be predicted? Then take it from "
        f"modalities and write labels: {labels}"
    )


def missing_number(stored: np.ndarray, sensor: str) -> tuple[int, str] | None:
    """The number that can only mean "not observed" where files declare none, and why; None where there is none.

    Args:
        stored: (bands, n) numbers as stored.
        sensor: by names, or empty.
    """
    candidates = [-9999, -32768]
    if stored.dtype.kind == "u" and stored.dtype.itemsize > 1:
        candidates = [int(np.iinfo(stored.dtype).max)]
    elif stored.dtype.kind == "i":
        candidates.append(int(np.iinfo(stored.dtype).min))
    if sensor in ("s2", "landsat", "hls") and stored.dtype.kind in "iu" and stored.dtype.itemsize > 1:
        candidates.insert(0, 0)
    for number in candidates:
        here = stored == number
        share = float((here.any(axis=0) if number else here.all(axis=0)).mean()) if stored.size else 0.0
        if 0 < share < 1 or (number and share):
            return number, f"not declared in the files; {max(share, 0.01):.0%} of the pixels looked at have it"
    return None


def ask_offset(part: Part, sensor: str, dates: Sequence[str]) -> None:
    """Asks whether Sentinel-2 that is no product of ESA's has the 1000 of newer products, which no name of it tells.

    Args:
        dates: 2020-08-17 or 20200817.
    """
    later = [date for date in dates if date.replace("-", "") >= str(CHANGE).replace("-", "")]
    if sensor == "s2" and later and part.source.get("unit") == "reflectance x 10000":
        asked = (
            f"are values of Sentinel-2 since {CHANGE} ({len(later)} of {len(dates)} dates) 1000 higher, as ESA "
            f"delivers them, or harmonized? fusion data check tells; if they are, give offset: {{{CHANGE}: -1000}}"
        )
        part.questions.append(Question(asked))


def listed(names: Sequence[object], most: int = 4) -> str:
    """Names for a message."""
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")
