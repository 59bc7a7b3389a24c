"""Maps of embeddings as Zarr 3: what other programs find in them, in how much memory they are written, going on."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from affine import Affine
from rasterio.crs import CRS

from fusion.data import ArrayTiles
from fusion.embed import decode, embed_map, read_embeddings
from fusion.embed.formats import geozarr
from fusion.embed.formats.chunks import chunk_side
from fusion.embed.formats.geozarr import write_geozarr
from fusion.embed.formats.temporary import replacing_folder
from fusion.embed.working import WorkingRaster

from .conftest import Places, tile_at
from .ground import CLASSES, cut, finetuned, scene

TRANSFORM = Affine(20, 0, 500, 0, -20, 900)


@pytest.fixture
def quilt() -> Places:
    corners = [(3, 6), (0, 0), (3, 0), (0, 6), (3, 3)]  # the place of one tile is empty
    return Places([tile_at(*corner) for corner in corners])


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(geozarr, "chunk_side", lambda dim, itemsize: 16)


def opened(path: Path) -> xarray.Dataset:
    """As anybody opens it: without this package, and without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xarray.open_zarr(path, chunks=None)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_numbers_are_those_of_the_geotiff(dtype, quilt, model, tmp_path):
    [raster] = embed_map(model, quilt, tmp_path / "map.tif", dtype=dtype)
    [written] = embed_map(model, quilt, tmp_path / "map.zarr", dtype=dtype)
    wanted, found = read_embeddings(raster.path), opened(written.path)
    values = found.embedding.values
    assert (found.embedding.dims, values.dtype) == (("feature", "y", "x"), dtype)
    np.testing.assert_array_equal(decode(values) if dtype == "int8" else values, wanted.values)
    assert (written.shape, written.error) == (raster.shape, raster.error)
    assert np.isnan(wanted.values[:, :3, 3:6]).all(), "the place without a tile"
    empty = zarr.open_array(written.path, path="embedding").fill_value
    assert empty == (-128 if dtype == "int8" else pytest.approx(np.nan, nan_ok=True))


def test_xarray_and_rioxarray_find_place_and_names(quilt, model, tmp_path):
    pytest.importorskip("rioxarray")
    [written] = embed_map(model, quilt, tmp_path / "map.zarr")
    found = opened(written.path)
    assert found.rio.crs == CRS.from_epsg(32632)
    assert found.embedding.rio.crs == CRS.from_epsg(32632)
    assert tuple(found.rio.transform())[:6] == (20, 0, 500, 0, -20, 900)
    np.testing.assert_array_equal(found.x, 500 + 20 * (np.arange(9) + 0.5))
    np.testing.assert_array_equal(found.y, 900 - 20 * (np.arange(6) + 0.5))
    # the model embeds x and y: each vector lies where it says
    np.testing.assert_allclose(found.embedding[0, 5, :6], found.x[:6] / 1000, rtol=1e-5, err_msg="x")
    clipped = found.embedding.rio.clip_box(500, 840, 560, 900)
    assert clipped.shape == (4, 3, 3)


def test_the_conventions_of_geozarr_are_kept(quilt, model, tmp_path):
    [written] = embed_map(model, quilt, tmp_path / "map.zarr", dtype="int8")
    meta = json.loads((written.path / "zarr.json").read_text())
    assert (meta["zarr_format"], meta["node_type"]) == (3, "group")
    known = meta["attributes"]
    named = {convention["name"]: convention["uuid"] for convention in known["zarr_conventions"]}
    assert named["proj:"] == "f17cb550-5864-4468-aeb7-f3180cfb622f"
    assert named["spatial:"] == "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4"
    assert known["proj:code"] == "EPSG:32632"
    assert CRS.from_wkt(known["proj:wkt2"]) == CRS.from_epsg(32632)
    assert known["spatial:dimensions"] == ["y", "x"]
    assert known["spatial:shape"] == [6, 9]
    assert known["spatial:transform"] == [20, 0, 500, 0, -20, 900]
    assert known["spatial:bbox"] == [500, 780, 680, 900]
    assert known["FUSION_DECODE"] == "value = sign(v) * (v / 127.5)^2"
    array = json.loads((written.path / "embedding" / "zarr.json").read_text())
    assert array["dimension_names"] == ["feature", "y", "x"]
    assert array["attributes"]["grid_mapping"] == "spatial_ref"


class Lazy:
    """Values that are made when they are asked for; keeps the size of the largest window."""

    def __init__(self, rows: int, columns: int, dim: int) -> None:
        self.shape, self.largest = (rows, columns, dim), 0

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = (np.arange(n)[part] for part, n in zip(window, self.shape, strict=False))
        self.largest = max(self.largest, len(rows) * len(columns))
        place = 1 + rows[:, None] * self.shape[1] + columns
        return (place[..., None] * np.arange(1, 1 + self.shape[2])).astype(np.float32)


def test_large_maps_lie_in_shards_and_are_written_one_at_a_time(small_chunks, tmp_path):
    values = Lazy(150, 70, 3)
    error = write_geozarr(tmp_path / "map.zarr", values, TRANSFORM, "EPSG:32632", "float32", {})
    array = zarr.open_array(tmp_path / "map.zarr", path="embedding", mode="r")
    assert (array.chunks, array.shards) == ((3, 16, 16), (3, 64, 64))
    assert values.largest == 64 * 64
    np.testing.assert_array_equal(array[:], np.moveaxis(values[:, :], -1, 0))
    assert error.mean_cosine == pytest.approx(1)
    files = [p for p in (tmp_path / "map.zarr" / "embedding" / "c").rglob("*") if p.is_file()]
    assert len(files) == 3 * 2


@pytest.mark.parametrize(
    ("dim", "itemsize", "side"), [(64, 1, 256), (128, 1, 256), (64, 4, 128), (768, 4, 32), (768, 1, 64), (10**6, 4, 16)]
)
def test_a_chunk_is_8_mib_at_most(dim, itemsize, side):
    assert chunk_side(dim, itemsize) == side


def test_several_rasters_are_a_folder_of_stores(model, tmp_path):
    places = Places([tile_at(0, 0), tile_at(0, 0, crs="EPSG:32633")])
    maps = embed_map(model, places, tmp_path / "map.zarr")
    assert [w.path for w in maps] == [tmp_path / "map" / "tile0.zarr", tmp_path / "map" / "tile1.zarr"]
    assert opened(maps[1].path).attrs["proj:code"] == "EPSG:32633"


def test_ground_in_degrees_has_degrees(model, tmp_path):
    places = Places([tile_at(0, 0, crs="EPSG:4326", x0=8, y0=48)])
    [written] = embed_map(model, places, tmp_path / "map.zarr")
    found = opened(written.path)
    assert (found.x.standard_name, found.y.units) == ("longitude", "degrees_north")


def test_what_is_no_map_of_embeddings_is_not_replaced(quilt, model, tmp_path):
    cube = xarray.Dataset({"reflectance": ("y", np.arange(4))})
    cube.to_zarr(tmp_path / "map.zarr")
    with pytest.raises(ValueError, match=r"map\.zarr is in the way: it is no map of embeddings"):
        embed_map(model, quilt, tmp_path / "map.zarr")
    assert "reflectance" in xarray.open_zarr(tmp_path / "map.zarr")
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(ValueError, match="in the way"):
        embed_map(model, quilt, tmp_path / "folder.zarr")


def test_a_map_that_was_there_stays_until_the_new_one_is_whole(quilt, model, tmp_path, monkeypatch):
    path = tmp_path / "map.zarr"
    embed_map(model, quilt, path)
    before = opened(path).embedding.values
    with monkeypatch.context() as patch:
        patch.setattr(geozarr, "decoded", lambda kept: kept + 1)  # as if the disk were faulty
        with pytest.raises(RuntimeError, match="differs from what was written"):
            embed_map(model, quilt, path, restart=True)
    np.testing.assert_array_equal(opened(path).embedding, before)
    embed_map(model, quilt, path, dtype="int8", restart=True)
    assert opened(path).embedding.dtype == np.int8
    assert [p.name for p in tmp_path.glob("*.zarr*")] == ["map.zarr"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_folder_that_cannot_take_its_place_is_put_back(tmp_path, monkeypatch):
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "old").touch()
    renamed = Path.rename

    def rename(self, target):
        if self.suffix != ".former" and not str(target).endswith(".former"):
            raise OSError("no")
        return renamed(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(RuntimeError, match="nothing was replaced"), replacing_folder(tmp_path / "map"):
        pass
    assert [p.name for p in (tmp_path / "map").iterdir()] == ["old"]


def test_an_unknown_suffix_is_refused_before_anything_is_computed(quilt, model, tmp_path):
    with pytest.raises(ValueError, match=r"map\.nc ends in '\.nc'; files that end in \.tif, \.zarr"):
        embed_map(model, quilt, tmp_path / "map.nc")


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_map_that_was_stopped_has_the_values_of_one_that_was_not(dtype, tmp_path, monkeypatch):
    tiles: ArrayTiles = cut(scene(4 * 150, 16), (4, 4), missing=(7,))
    model = finetuned(tiles, "multiclass", CLASSES).model
    [whole] = embed_map(model, tiles, tmp_path / "whole.zarr", dtype=dtype, batch_size=5)
    noted, path = WorkingRaster._note, tmp_path / "map.zarr"

    def note(self, entry):
        if entry.get("strip") == 1:
            raise KeyboardInterrupt
        noted(self, entry)

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    for target, name, stopping in ((WorkingRaster, "_note", note), (geozarr, "consolidate", stop)):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, stopping)
            with pytest.raises(KeyboardInterrupt):
                embed_map(model, tiles, path, dtype=dtype, batch_size=5)
        assert not path.exists()
        assert (tmp_path / "map.zarr.partial").is_dir()
    monkeypatch.setattr(model, "forward", lambda batch: pytest.fail("a tile is encoded again"))
    [written] = embed_map(model, tiles, path, dtype=dtype, batch_size=5)
    np.testing.assert_array_equal(opened(path).embedding, opened(whole.path).embedding)
    assert (written.error, written.seams) == (whole.error, whole.seams)
    assert not list(tmp_path.glob(".map*"))
    assert not (tmp_path / "map.zarr.partial").exists()
