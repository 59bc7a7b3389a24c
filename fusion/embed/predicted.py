"""What became of a map of predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .damage import listed

__all__ = ["PredictedMap"]


@dataclass(frozen=True)
class PredictedMap:
    """One map of predictions.

    Attributes:
        path: the file.
        probabilities: the file of probabilities (an NPZ holds both); None where they were not asked for.
        shape: rows and columns of a GeoTIFF; tiles, rows, columns of an NPZ.
        crs: None where unknown.
        pixel: width and height in units of the CRS; None where unknown.
        classes: names of the classes, or of the quantities.
        entropy: the file of the entropy of the probabilities, as ``probabilities``.
        preview: a picture of the map with its legend; None of an NPZ.
        damaged: by name of a tile that is no data because its files cannot be read, the reason.
    """

    path: Path
    probabilities: Path | None
    shape: tuple[int, ...]
    crs: str | None
    pixel: tuple[float, float] | None
    classes: tuple[str, ...]
    entropy: Path | None = None
    preview: Path | None = None
    damaged: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        place = f"{self.crs}, pixels of {self.pixel[0]:g} x {self.pixel[1]:g}" if self.crs and self.pixel else "no CRS"
        lines = [f"{self.path}: {size}, {', '.join(self.classes)}, {place}"]
        others = {"probabilities": self.probabilities, "entropy": self.entropy, "picture": self.preview}
        lines += [f"{path}: {what}" for what, path in others.items() if path not in (None, self.path)]
        return "\n".join([*lines, *([listed(self.damaged)] if self.damaged else [])])
