"""Any folder of (time, band, y, x) arrays, described by a short YAML instead of code."""

from .dataset import CubeDataset
from .description import Description, Labels, Mask, Source, load_description

__all__ = ["CubeDataset", "Description", "Labels", "Mask", "Source", "load_description"]
