"""Blocks of ground that are dealt to train, val and test where a description has labels and no splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from shapely.geometry import Polygon, box

from fusion.data import FolderDataset

from .rasters import CRS, NORTH, WEST, image, opened, write

SIDE = 64  # pixels of 10 m: 16 x 16 tiles of 40 m
PHOTO = {"files": "photo/{scene}.tif", "axes": ["band", "y", "x"], "bands": ["B04", "B08"], "resolution": 10}
CROP = {"files": "crop/{scene}.tif", "resolution": 10, "reduction": "majority", "classes": {"a": 1, "b": 2}}


def field(row: float, column: float, rows: float = 1, columns: float = 1) -> Polygon:
    """A rectangle in tiles of 40 m, a little smaller than they are."""
    left, top = WEST + 40 * column + 1, NORTH - 40 * row - 1
    return box(left, top - 40 * rows + 2, left + 40 * columns - 2, top)


def folder_of(folder: Path, shapes: list[Polygon], **changes: Any) -> FolderDataset:
    write(folder / "photo" / "a.tif", image(side=SIDE))
    crops = ["wheat", "maize"] * len(shapes)
    geopandas.GeoDataFrame({"crop": crops[: len(shapes)]}, geometry=shapes, crs=CRS).to_file(folder / "labels.gpkg")
    return opened(folder, {"photo": PHOTO}, labels={"vector": "labels.gpkg", "field": "crop"}, **changes)


def places(data: FolderDataset, names: list[str]) -> list[tuple[int, int]]:
    """Row and column in tiles."""
    return [tuple(int(part[1:]) // 40 for part in name.split("_")[1:]) for name in names]  # type: ignore[misc]


EVERY = [field(row, column) for row in range(16) for column in range(16)]


def test_blocks_are_dealt_whole(tmp_path):
    data = folder_of(tmp_path, EVERY)
    assert data.splits == ("train", "val", "test")
    owner = {}
    for name in data.splits:
        for row, column in places(data, data.split(name).names):
            assert owner.setdefault((row // 2, column // 2), name) == name  # 2 x 2 tiles: the largest with 40 blocks
    assert len(owner) == 64
    sizes = [len(data.split(name)) for name in data.splits]
    assert sum(sizes) == 256
    assert sizes == [152, 52, 52]
    assert data.notes()[-1] == (
        "labels: the description has no splits; blocks of 80 m are dealt (seed 0): train 38 blocks with 152 labelled "
        "tiles, val 13 blocks with 52 labelled tiles, test 13 blocks with 52 labelled tiles"
    )


def test_the_deal_depends_on_the_seed_alone(tmp_path):
    first = folder_of(tmp_path, EVERY)
    again = FolderDataset(first.description, tmp_path)
    other = FolderDataset(first.description, tmp_path, seed=1)
    assert again.split("test").names == first.split("test").names != other.split("test").names


def test_a_polygon_lies_in_one_split(tmp_path):
    rivers = [field(row, 0, 1, 16) for row in (2, 6, 10, 14)]  # each across four blocks of 4 x 4 tiles
    fields = [field(row, column) for row in range(16) if row not in (2, 6, 10, 14) for column in range(16)]
    for seed in range(5):
        data = folder_of(tmp_path, [*rivers, *fields])
        data = FolderDataset(data.description, tmp_path, seed=seed)
        for row in (2, 6, 10, 14):
            own = [n for n in data.splits if any(r == row for r, _ in places(data, data.split(n).names))]
            assert len(own) == 1
    # Blocks of 2 x 2 tiles, 8 of which a river joins to one, would be few: a single tile is a block, or a river of 16
    assert "blocks of 40 m" in data.notes()[-1]
    assert "60 blocks are joined to others, with which they share features" in data.notes()[-1]


def test_polygons_side_by_side_are_kept_whole_by_leaving_tiles_out(tmp_path):
    fields = [field(row + 0.5, column + 0.5) for row in range(15) for column in range(15)]  # each on four tiles
    data = folder_of(tmp_path, fields)
    splits = {name: set(places(data, data.split(name).names)) for name in data.splits}
    assert all(splits.values())
    for row in range(15):
        for column in range(15):
            own = {(row + r, column + c) for r in (0, 1) for c in (0, 1)}
            assert sum(bool(own & tiles) for tiles in splits.values()) <= 1
    kept = sum(map(len, splits.values()))
    assert 128 < kept < 256
    assert f"; {256 - kept} tiles share features with more of another split and are in none" in data.notes()[-1]
    assert "blocks of 160 m are dealt" in data.notes()[-1]


def test_polygons_that_join_nearly_all_blocks_do_not_leave_the_others_for_val_and_test(tmp_path):
    alone = [field(row, column) for row in range(0, 16, 2) for column in (14.0,)] + [field(r, 12) for r in range(16)]
    chain = [field(row + 0.5, column + 0.5) for row in range(15) for column in range(10)]
    data = folder_of(tmp_path, [*chain, *alone])
    sizes = np.array([len(data.split(name)) for name in data.splits])
    assert (sizes >= 0.5 * np.array([0.6, 0.2, 0.2]) * sizes.sum()).all()
    assert "tiles share features with more of another split and are in none" in data.notes()[-1]


def test_tiles_that_overlap_another_split_are_in_none(tmp_path):
    write(tmp_path / "photo" / "a.tif", image(side=SIDE))
    write(tmp_path / "crop" / "a.tif", np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16) % 2 + 1)
    data = opened(tmp_path, {"photo": PHOTO}, labels=CROP, stride=20)
    corners = {
        split: np.array([[int(part[1:]) for part in name.split("_")[1:]] for name in data.split(split).names])
        for split in data.splits
    }
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        apart = np.abs(corners[first][:, None] - corners[second][None]).max(axis=2)
        assert apart.min() >= 40  # metres: they share no ground
    left_out = len(data) - sum(map(len, corners.values()))
    assert 0 < left_out < len(data) / 2
    assert f"; {left_out} tiles overlap those of another split and are in none" in data.notes()[-1]


def test_splits_of_the_description_are_kept(tmp_path):
    data = folder_of(tmp_path, EVERY, splits={"north": {"rows": [0, 0.5]}})
    assert data.splits == ("north",)
    assert len(data.split("north")) == 128
    assert not any("dealt" in note for note in data.notes())


def test_labels_of_little_ground_are_not_dealt(tmp_path):
    data = folder_of(tmp_path, [field(0, 0), field(0, 1)])
    assert data.splits == ()
    assert "2 labelled tiles that share neither features nor pixels are 2, and three are wanted" in data.notes()[-1]
    data = folder_of(tmp_path, [field(0, 0, 16, 16)])
    assert data.splits == ()
    assert "256 labelled tiles that share neither features nor pixels are 1, and three are wanted" in data.notes()[-1]


def test_maps_of_labels_are_dealt_too(tmp_path):
    write(tmp_path / "photo" / "a.tif", image(side=SIDE))
    write(tmp_path / "crop" / "a.tif", np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16) % 2 + 1)
    data = opened(tmp_path, {"photo": PHOTO}, labels=CROP)
    assert [len(data.split(name)) for name in data.splits] == [152, 52, 52]
    assert FolderDataset(data.description, tmp_path, labels=False).splits == ()


def test_scenes_of_one_place_share_blocks(tmp_path):
    write(tmp_path / "photo" / "b.tif", image(side=SIDE))  # another year, say
    data = folder_of(tmp_path, EVERY)
    assert len(data) == 512
    for name in data.splits:
        tiles = data.split(name).names
        assert {t[1:] for t in tiles if t[0] == "a"} == {t[1:] for t in tiles if t[0] == "b"}


@pytest.mark.parametrize("few", [3, 16])
def test_scattered_labels_are_dealt_in_smaller_blocks(tmp_path, few):
    shapes = [field(row, column) for row in range(0, 16, 4) for column in range(0, 16, 4)][:few]
    data = folder_of(tmp_path, shapes)
    assert [len(data.split(name)) for name in data.splits] == ([1, 1, 1] if few == 3 else [10, 3, 3])


def test_blocks_that_were_dealt_are_the_blocks_of_the_tiles(tmp_path):
    data = folder_of(tmp_path, EVERY)
    blocks = data.blocks()
    assert len(set(blocks)) == 64
    owner = {block: set() for block in blocks}
    for name in data.splits:
        for block in data.split(name).blocks():
            owner[block].add(name)
    assert all(len(names) == 1 for names in owner.values())
    of_place = {place: block for place, block in zip(places(data, data.names), blocks, strict=True)}
    assert len({of_place[row, column] for row in range(2) for column in range(2)}) == 1
    assert of_place[0, 0] != of_place[0, 2]


def test_without_splits_that_are_dealt_one_scene_has_no_blocks(tmp_path):
    assert folder_of(tmp_path, EVERY, splits={"train": {"rows": [0, 0.5]}, "test": {"rows": [0.5, 1]}}).blocks() is None
    assert folder_of(tmp_path, [field(0, 0), field(0, 1)]).blocks() is None  # too little ground


def test_a_rare_class_is_in_every_split_where_its_blocks_allow(tmp_path):
    """Rye grows in five blocks of 64; a deal at random has it in all three splits about every second time."""
    rye = {(0, 0), (4, 12), (8, 6), (12, 2), (14, 14)}
    write(tmp_path / "photo" / "a.tif", image(side=SIDE))
    names = ["rye" if (row, column) in rye else "wheat" for row in range(16) for column in range(16)]
    geopandas.GeoDataFrame({"crop": names}, geometry=EVERY, crs=CRS).to_file(tmp_path / "labels.gpkg")
    for seed in range(4):
        data = opened(tmp_path, {"photo": PHOTO}, labels={"vector": "labels.gpkg", "field": "crop"})
        data = FolderDataset(data.description, tmp_path, seed=seed)
        kind = data.classes.index("rye")
        assert all((data.split(name).labels() == kind).any() for name in data.splits)
        assert "has no rye" not in data.notes()[-1]


def test_a_class_that_a_split_lacks_is_named(tmp_path):
    write(tmp_path / "photo" / "a.tif", image(side=SIDE))
    names = ["rye", *["wheat", "maize"] * 128][:256]
    geopandas.GeoDataFrame({"crop": names}, geometry=EVERY, crs=CRS).to_file(tmp_path / "labels.gpkg")
    data = opened(tmp_path, {"photo": PHOTO}, labels={"vector": "labels.gpkg", "field": "crop"})
    kind = data.classes.index("rye")
    lacking = [name for name in data.splits if not (data.split(name).labels() == kind).any()]
    assert len(lacking) == 2
    assert data.notes()[-1].endswith("; " + ", ".join(f"{name} has no rye" for name in lacking))


def test_a_quantity_is_dealt_evenly(tmp_path):
    """Biomass rises from west to east: every split has low and high tiles."""
    write(tmp_path / "photo" / "a.tif", image(side=SIDE))
    write(tmp_path / "agb" / "a.tif", np.tile(np.arange(SIDE, dtype=np.float32), (SIDE, 1)))
    labels = {"files": "agb/{scene}.tif", "resolution": 10, "reduction": "mean"}
    data = opened(tmp_path, {"photo": PHOTO}, labels=labels)
    means = [float(data.split(name).labels().mean()) for name in data.splits]
    assert max(means) - min(means) < 4
