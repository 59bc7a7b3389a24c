"""Modalities, tiles, readers (one file per on-disk format) and the built-in synthetic landscape."""

from .dataset import TileDataset
from .fraction import fraction
from .modality import Modality
from .statistics import fit_statistics
from .tiles import Geo, Tile, TileBatch, collate

__all__ = ["Geo", "Modality", "Tile", "TileBatch", "TileDataset", "collate", "fit_statistics", "fraction"]
