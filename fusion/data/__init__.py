"""Modalities, tiles, readers (one file per on-disk format) and the built-in synthetic landscape."""

from .modality import Modality
from .tiles import Geo, Tile, TileBatch, collate

__all__ = ["Geo", "Modality", "Tile", "TileBatch", "collate"]
