"""Any folder of (time, band, y, x) arrays, described by a short YAML instead of code."""

from .cubes import read_cubes
from .dataset import FolderDataset
from .description import Description, Labels, Mask, Source
from .loading import load_description
from .placed import TableLabels, VectorLabels

__all__ = [
    "Description",
    "FolderDataset",
    "Labels",
    "Mask",
    "Source",
    "TableLabels",
    "VectorLabels",
    "load_description",
    "read_cubes",
]
