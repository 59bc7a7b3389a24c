"""Places and names of very many tiles, in columns."""

from __future__ import annotations

import pickle
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio

from fusion.data import ArrayTiles, FolderDataset, Geo, Modality
from fusion.data.places import ComputedNames, Places
from fusion.embed.blend import rasters
from fusion.embed.mosaic import lay_out

HERE, THERE = Geo((10.0, 0.0, 500000.0, 0.0, -10.0, 5400000.0), "EPSG:32631"), Geo((1.0, 0, 7.0, 0, -1.0, 9.0), "")
NEXT = Geo((10.0, 0.0, 500060.0, 0.0, -10.0, 5400000.0), "EPSG:32631")


def test_tiles_of_one_grid_share_a_frame():
    places = Places.of([HERE, None, THERE, NEXT])
    assert places.frame.tolist() == [0, -1, 1, 0]
    assert places.known.tolist() == [True, False, True, True]
    assert places.corners[[0, 2, 3]].tolist() == [[500000.0, 5400000.0], [7.0, 9.0], [500060.0, 5400000.0]]
    assert np.isnan(places.corners[1]).all()
    assert places.frames[0] == Geo((10.0, 0.0, 0.0, 0.0, -10.0, 0.0), "EPSG:32631")


def test_names_are_made_when_they_are_asked_for():
    names = ComputedNames(4, partial("tile {}".format))
    assert list(names) == ["tile 0", "tile 1", "tile 2", "tile 3"]
    assert names[-1] == "tile 3"
    assert names[1:3] == ["tile 1", "tile 2"]
    assert list(pickle.loads(pickle.dumps(names))) == list(names)


def scene(path: Path, side: int, crs: str, west: float) -> None:
    """A raster without a value in it: nothing of it is read here."""
    transform = rasterio.Affine(10, 0, west, 0, -10, 5.4e6)
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": "uint8", "crs": crs}
    with rasterio.open(path, "w", transform=transform, tiled=True, compress="deflate", SPARSE_OK=True, **profile):
        pass


def described(folder: Path) -> FolderDataset:
    image = {"bands": ["red"], "resolution": 10, "axes": ["band", "y", "x"]}
    return FolderDataset({"files": "{scene}.tif", "tile": 60, "patch": 10, "modalities": {"image": image}}, folder)


def test_columns_say_what_the_places_of_single_tiles_do(tmp_path):
    scene(tmp_path / "a.tif", 40, "EPSG:32631", 5e5)
    scene(tmp_path / "b.tif", 40, "EPSG:32631", 5e5 + 6e4)
    scene(tmp_path / "c.tif", 40, "EPSG:32632", 5e5)
    tiles = described(tmp_path).covering()
    view = tiles.subset(np.arange(len(tiles))[::-7])
    for data in (tiles, view):
        columns, single = data.located(), Places.of(data.places())
        assert np.array_equal(columns.corners, single.corners)
        assert [columns.frames[k] for k in columns.frame] == [single.frames[k] for k in single.frame]
        assert data.names == [data.name(k) for k in range(len(data))] == [data[k].name for k in range(len(data))]
    assert [canvas.crs for canvas in lay_out(tiles)] == ["EPSG:32631", "EPSG:32631", "EPSG:32632"]


@pytest.mark.filterwarnings("error")
def test_tiles_in_metres_and_in_fine_degrees_are_apart():
    """In cells of the one, the other lie further away than 32 bits count."""
    metres = [Geo((10.0, 0.0, 6e6 + 60.0 * k, 0.0, -10.0, 9e6), "EPSG:32631") for k in range(2)]
    degrees = [Geo((1e-6, 0.0, 11.0 + 6e-6 * k, 0.0, -1e-6, 47.0), "EPSG:4326") for k in range(2)]
    places = [degrees[0], metres[0], degrees[1], metres[1]]
    image = Modality("image", "image", ("red",), 10.0, 1)
    tiles = ArrayTiles([image], {"image": np.zeros((4, 1, 6, 6), np.float32)}, grid=(6, 6), places=places)
    assert [canvas.tiles.tolist() for canvas in lay_out(tiles)] == [[0, 2], [1, 3]]
    assert [canvas.shape for canvas in lay_out(tiles)] == [(6, 12), (6, 12)]


def test_the_tiles_of_a_large_scene_take_little_memory(tmp_path):
    scene(tmp_path / "large.tif", 1600, "EPSG:32631", 5e5)
    small = described(tmp_path)
    tracemalloc.start()
    try:
        tiles = small.covering()
        ((canvas, _),) = rasters(tiles, tmp_path / "map.tif", tiles.grid)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert canvas.shape == (1600, 1600)
    assert len(tiles) == 400 * 400
    assert now / len(tiles) < 60  # bytes a tile
    assert peak / len(tiles) < 150
