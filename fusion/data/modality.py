"""What one sensor's data is: bands, unit, resolution and statistics.

A modality travels inside every checkpoint, so that data with other bands, another unit or another range is
recognised before it silently spoils a result.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..settings import plain
from .given import words

__all__ = ["Modality", "check_name"]


@dataclass(frozen=True)
class Modality:
    """One sensor of a tile. Names and numbers may be NumPy's; they are kept as Python's own.

    Attributes:
        name: the key of the modality in a :class:`~fusion.data.tiles.TileBatch`, e.g. ``"s2"``.
        kind: ``"image"`` (one date, (C,H,W)) or ``"series"`` ((L,C,H,W) with a day for each date).
        bands: names in the order of the channel axis, e.g. ``("B02", "B03", "B04", "B08")``.
        resolution: metres per pixel.
        patch_size: pixels per patch side, so that ``patch_size * resolution`` metres is one patch.
        unit: what a value means, e.g. ``"reflectance x 10000"``, ``"dB"``, ``"8 bit"``, ``"linear"``.
        mean, std: per band, over observed values of the training data; empty until known.
    """

    name: str
    kind: Literal["image", "series"]
    bands: tuple[str, ...]
    resolution: float
    patch_size: int
    unit: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        given = plain({field: getattr(self, field) for field in ("name", "kind", "resolution", "patch_size", "unit")})
        given["bands"] = words(self.bands, f"modality {self.name!r}: bands")
        given |= {field: tuple(plain(list(getattr(self, field)))) for field in ("mean", "std")}
        for field, value in given.items():
            object.__setattr__(self, field, value)  # the class is frozen
        check_name(self.name)
        if self.kind not in ("image", "series"):
            raise ValueError(f"modality {self.name!r}: kind is 'image' or 'series', not {self.kind!r}")
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise ValueError(f"modality {self.name!r}: bands must be named and distinct, not {self.bands}")
        if not 0 < self.resolution < math.inf or not self.patch_size >= 1:
            raise ValueError(
                f"modality {self.name!r}: resolution {self.resolution} m and patch_size {self.patch_size} "
                "pixels must be positive"
            )
        for field in ("mean", "std"):
            values = getattr(self, field)
            if values and len(values) != len(self.bands):
                raise ValueError(f"modality {self.name!r}: {len(values)} {field} values for {len(self.bands)} bands")

    @property
    def channels(self) -> int:
        return len(self.bands)

    @property
    def patch_metres(self) -> float:
        """Side of one patch on the ground, in metres."""
        return self.patch_size * self.resolution

    def with_statistics(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Modality:
        """The same modality with the statistics of some data."""
        return replace(self, mean=tuple(map(float, mean)), std=tuple(map(float, std)))

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for YAML and checkpoint metadata; :meth:`from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Modality:
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in fields.items()}
        return cls(**plain)


def check_name(name: str) -> None:
    """
    Raises:
        ValueError: what cannot be part of the name of a file.
    """
    if not name or name.startswith(".") or any(c in "/\\" or not c.isprintable() for c in name):
        raise ValueError(f"modality {name!r}: a name becomes part of file names; give letters and digits")
