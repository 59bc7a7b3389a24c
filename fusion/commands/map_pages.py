"""The pages beside the maps that ``fusion predict`` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion.data import TileDataset, open_data, open_unlabelled, partition
from fusion.evaluation.composite import visible_bands
from fusion.workflow.map_report import write_map_report

__all__ = ["labelled", "write_pages"]

_PAGES = 10  # of a command that makes many maps


def write_pages(
    maps: Sequence[Path], run: Path, tiles: TileDataset, data: str, reader: Mapping[str, Any], split: str
) -> None:
    """A page for each map, with the image of the data also where the model does not look at it."""
    if not maps:
        print("no page: the tiles have no place, so there is no map to show")
        return
    seen = tiles if visible_bands(tiles.modalities).true else partition(open_unlabelled(data, **reader))[split]
    of_labels: TileDataset | None = tiles if tiles.task is not None else None
    if of_labels is None and labelled(tiles):
        try:
            of_labels = open_data(data, **reader)
        except ValueError as error:
            print(f"the page shows no labels: {error}")
    for path in maps[:_PAGES]:
        print(
            f"{write_map_report(path, seen, run, labelled=of_labels)}: shows the map in a browser, and how right it is"
        )
    if len(maps) > _PAGES:
        print(f"{len(maps)} maps; only the first {_PAGES} have a page")


def labelled(tiles: TileDataset) -> bool:
    """Whether there is something to score the map with: labels of the tiles, or a description of some."""
    return tiles.task is not None or bool(getattr(tiles, "labels_described", False))
