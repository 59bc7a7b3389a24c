"""Modalities, tiles, readers (one file or folder per on-disk format) and the built-in synthetic landscape.

Readers are imported when they are first used: the contract itself needs torch and NumPy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily
from .arrays import ArrayTiles
from .augmentation import Augmentation
from .blocks import block_splits
from .cubes import Cube, SensorCube
from .dataset import TileDataset
from .fraction import fraction
from .modality import Modality
from .open import open_cubes, open_data, open_unlabelled, partition
from .statistics import fit_statistics
from .tiles import Geo, Tile, TileBatch, collate

if TYPE_CHECKING:
    from .flair import FlairDataset
    from .folder import FolderDataset
    from .folder import FolderDataset as CubeDataset
    from .landscape import Landscape, LandscapeTiles
    from .pastis import PastisDataset
    from .treesat import TreeSatDataset

__all__ = [
    "ArrayTiles",
    "Augmentation",
    "Cube",
    "CubeDataset",
    "FlairDataset",
    "FolderDataset",
    "Geo",
    "Landscape",
    "LandscapeTiles",
    "Modality",
    "PastisDataset",
    "SensorCube",
    "Tile",
    "TileBatch",
    "TileDataset",
    "TreeSatDataset",
    "block_splits",
    "collate",
    "fit_statistics",
    "fraction",
    "open_cubes",
    "open_data",
    "open_unlabelled",
    "partition",
]

__getattr__ = lazily(
    __name__,
    {
        "CubeDataset": "folder:FolderDataset",  # its former name
        "FlairDataset": "flair",
        "FolderDataset": "folder",
        "Landscape": "landscape",
        "LandscapeTiles": "landscape",
        "PastisDataset": "pastis",
        "TreeSatDataset": "treesat",
    },
)
