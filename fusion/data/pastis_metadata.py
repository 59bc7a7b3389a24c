"""``metadata.geojson`` of PASTIS-HD: folds, dates and places of the patches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .files import read_json
from .given import january_before
from .pastis_place import place_of
from .tiles import Geo

__all__ = ["FOLDS", "Patch", "parse_dates", "read_patches"]

FOLDS = (1, 2, 3, 4, 5)


@dataclass
class Patch:
    """One patch as the metadata have it.

    Attributes:
        dates_as_written: by part of the name, ``"S2"``, ``"S1A"``, ``"S1D"``: whatever stands there.
        geometry: its outline.
        tile: of Sentinel-2.
        dates: by modality, (L,) datetime64[D] in the order of the arrays; filled in by the reader.
    """

    name: str
    fold: int
    dates_as_written: Mapping[str, Any]
    geometry: Any
    tile: Any
    dates: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def place(self) -> Geo | None:
        """Of its 10 m pixels, see :func:`~fusion.data.pastis_place.place_of`."""
        return place_of(self.geometry, self.tile)

    @property
    def origin(self) -> np.datetime64 | None:
        """1 January of the year in which its series begin."""
        dates = np.concatenate([*self.dates.values(), np.zeros(0, "datetime64[D]")])
        return january_before(dates) if len(dates) else None


def read_patches(path: Path) -> list[Patch]:
    """The patches in the order of the file.

    Raises:
        ValueError: not JSON, no features, or a patch without number or fold, or with the number of another.
    """
    table = read_json(path)
    try:
        rows = [(feature["properties"], feature.get("geometry")) for feature in table["features"]]
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
        patches[name] = Patch(name, int(fold), written, geometry, properties.get("TILE"))
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
