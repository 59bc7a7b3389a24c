"""``metadata.geojson`` of PASTIS-HD: folds, dates and places of the patches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .files import reading

__all__ = ["FOLDS", "PIXELS", "Patch", "parse_dates", "read_patches"]

FOLDS = (1, 2, 3, 4, 5)
SIDE, PIXELS = 1280.0, 128  # metres and 10 m pixels per side of a patch


@dataclass
class Patch:
    """One patch as the metadata have it.

    Attributes:
        dates_as_written: by part of the name, ``"S2"``, ``"S1A"``, ``"S1D"``: whatever stands there.
        transform: of its 10 m pixels, see :class:`~fusion.data.Geo`; None where the geometry is no square of 1280 m.
        dates: by modality, (L,) datetime64[D] in the order of the arrays; filled in by the reader.
    """

    name: str
    fold: int
    dates_as_written: Mapping[str, Any]
    transform: tuple[float, float, float, float, float, float] | None
    dates: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def origin(self) -> np.datetime64 | None:
        """1 January of the year in which its series begin."""
        first = [dates.min() for dates in self.dates.values() if len(dates)]
        return np.datetime64(f"{min(first).astype('datetime64[Y]')}-01-01", "D") if first else None


def read_patches(path: Path) -> list[Patch]:
    """The patches in the order of the file.

    Raises:
        ValueError: not JSON, no features, or a patch without number or fold, or with the number of another.
    """
    with reading(path):
        text = path.read_text()
    try:
        features = json.loads(text)["features"]
        rows = [(feature["properties"], feature.get("geometry")) for feature in features]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is not JSON ({error}), the file may be half copied; copy it again") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no feature collection with properties; take PASTIS-HD's own file") from error
    patches: dict[str, Patch] = {}
    for properties, geometry in rows:
        name, fold = properties.get("ID_PATCH"), properties.get("Fold")
        if name is None:
            raise ValueError(f"{path}: a feature has no ID_PATCH; it has {', '.join(properties) or 'nothing'}")
        if fold not in FOLDS:
            raise ValueError(f"{path}: patch {name} has Fold {fold!r}; 1 to 5 wanted, the splits are made of them")
        name = str(int(name)) if isinstance(name, float) else str(name)
        if name in patches:
            raise ValueError(f"{path}: patch {name} occurs twice; each patch belongs to one fold")
        written = {part: properties.get(f"dates-{part}") for part in ("S2", "S1A", "S1D")}
        patches[name] = Patch(name, int(fold), written, _transform(geometry))
    if not patches:
        raise ValueError(f"{path}: holds no patch; take PASTIS-HD's own file")
    return list(patches.values())


def parse_dates(written: Any) -> np.ndarray:
    """(L,) datetime64[D] from ``{"0": 20190115, ...}`` or its text, in the order of the keys as numbers.

    Raises:
        ValueError: no such dictionary, or a number that is no date.
    """
    if isinstance(written, str):
        with suppress(json.JSONDecodeError):  # other text is refused below
            written = json.loads(written.replace("'", '"'))
    try:
        numbers = {int(key): int(value) for key, value in written.items()}
    except (AttributeError, TypeError, ValueError) as error:
        shown = repr(written)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        raise ValueError(f"is {shown}, a dictionary {{'0': 20190115, ...}} of dates YYYYMMDD wanted") from error
    dates = []
    for key in sorted(numbers):
        text = f"{numbers[key]:08d}"
        try:
            dates.append(np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:]}", "D"))
        except ValueError as error:
            raise ValueError(f"has {numbers[key]} at {key}, which is no date YYYYMMDD") from error
    return np.array(dates, dtype="datetime64[D]")


def _transform(geometry: Any) -> tuple[float, float, float, float, float, float] | None:
    """Of the 10 m pixels of a square of 1280 m; None where the outline is no such square.

    It may be turned, for patches are squares of the Sentinel-2 grid (UTM) and outlines are in Lambert 93, and it may be
    drawn in steps: centre and side are those of its area, and the four outermost points tell how it is turned.
    """
    try:
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        rings = [np.array([point[:2] for point in polygon[0]], dtype=np.float64) for polygon in polygons]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    if not rings or any(ring.ndim != 2 or len(ring) < 4 for ring in rings):
        return None
    first = rings[0][0]  # large coordinates cost digits
    area, centre = _area_and_centre([ring - first for ring in rings])
    side = float(np.sqrt(area))
    if abs(side / SIDE - 1) > 0.02:
        return None
    x, y = (np.concatenate(rings) - first - centre).T
    points = x + 1j * y  # complex numbers turn easily: times -1j is from right to down
    upper_left, upper_right = points[(y - x).argmax()], points[(x + y).argmax()]
    lower_left, lower_right = points[(x + y).argmin()], points[(x - y).argmax()]
    right = upper_right - upper_left + lower_right - lower_left
    right += 1j * (lower_left - upper_left + lower_right - upper_right)
    right *= side / abs(right)  # the whole upper edge
    corner = (1j * right - right) / 2  # upper left
    seen, square = (upper_left, upper_right, lower_right, lower_left), (corner, -1j * corner, -corner, 1j * corner)
    if max(abs(a - b) for a, b in zip(seen, square, strict=True)) > 0.03 * SIDE:
        return None
    step = right / PIXELS
    left, top = first + centre + [corner.real, corner.imag]
    a, b, c, d, e, f = (float(np.round(v, 6)) for v in (step.real, step.imag, left, step.imag, -step.real, top))
    return a + 0.0, b + 0.0, c, d + 0.0, e, f  # no -0.0


def _area_and_centre(rings: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """Of polygons (n, 2) without holes."""
    area, moment = 0.0, np.zeros(2)
    for x, y in (ring.T for ring in rings):
        after_x, after_y = np.roll(x, -1), np.roll(y, -1)
        cross = x * after_y - after_x * y
        cross *= np.sign(cross.sum())  # whichever way round
        area += cross.sum() / 2
        moment += np.array([((x + after_x) * cross).sum(), ((y + after_y) * cross).sum()]) / 6
    return area, moment / area if area else moment
