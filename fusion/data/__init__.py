"""Modalities, tiles, readers (one file per on-disk format) and the built-in synthetic landscape."""

from .blocks import block_splits
from .dataset import TileDataset
from .fraction import fraction
from .landscape import Landscape, LandscapeTiles
from .modality import Modality
from .statistics import fit_statistics
from .tiles import Geo, Tile, TileBatch, collate
from .treesat import TreeSatDataset

__all__ = [
    "Geo",
    "Landscape",
    "LandscapeTiles",
    "Modality",
    "Tile",
    "TileBatch",
    "TileDataset",
    "TreeSatDataset",
    "block_splits",
    "collate",
    "fit_statistics",
    "fraction",
]
