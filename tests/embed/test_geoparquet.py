"""Embeddings of patches as GeoParquet: what geopandas finds in it, scattered tiles, several CRS, going on."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from affine import Affine

from fusion.data import Geo
from fusion.embed import decode, embed_map, open_embeddings, read_embeddings
from fusion.embed.formats import geoparquet
from fusion.embed.formats.geoparquet import Part, write_geoparquet
from fusion.embed.working import WorkingRaster

from .conftest import Places, Positions, tile_at
from .ground import CLASSES, cut, finetuned, scene
from .test_stac import checked

gpd = pytest.importorskip("geopandas")
pq = pytest.importorskip("pyarrow.parquet")

QUILT = [(3, 6), (0, 0), (3, 0), (0, 6), (3, 3)]
FAR = [tile_at(*at) for at in [(0, 0), (900, 40), (90, 4000), (3, 0), (5000, 3)]]  # the fourth adjoins the first


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_geopandas_finds_each_patch_where_it_lies(dtype, model, tmp_path):
    places = Places([tile_at(*corner) for corner in QUILT], absent=frozenset({1}))
    [written] = embed_map(model, places, tmp_path / "map.parquet", dtype=dtype)
    found = gpd.read_parquet(written.path)
    assert found.crs.to_epsg() == 32632
    assert (len(found), written.shape) == (4 * 9, (36, 4)), "neither the hole nor the tile without an observation"
    assert found.geometry.is_valid.all()
    assert found.geometry.exterior.is_ccw.all()
    assert (found.geometry.area == 20 * 20).all()
    np.testing.assert_allclose(found.geometry.centroid.x, found.x)
    vectors = np.stack(found.embedding.to_numpy())
    assert vectors.dtype == dtype
    wanted = np.stack([found.x / 1000, found.y / 1000, np.ones(36), np.zeros(36)], axis=1)
    if dtype == "int8":
        vectors = decode(vectors)
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, wanted, rtol=1e-5 if dtype == "float32" else 0.02, atol=1e-6)
    for name, rows in found.groupby("tile"):
        corner = QUILT[int(str(name).removeprefix("tile"))]
        assert rows.x.min() == 500 + 20 * corner[1] + 10
        assert rows.y.max() == 900 - 20 * corner[0] - 10
    inside = gpd.read_parquet(written.path, bbox=(501, 781, 559, 839))
    assert set(inside.tile) == {"tile2"}


def test_the_file_keeps_the_rules_of_geoparquet(model, tmp_path):
    [written] = embed_map(model, Places([tile_at(*c) for c in QUILT]), tmp_path / "map.parquet", dtype="int8")
    schema = pq.read_schema(written.path)
    geo = json.loads(schema.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert (column["encoding"], column["geometry_types"]) == ("WKB", ["Polygon"])
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32632}
    assert column["bbox"] == [500, 780, 680, 900]
    assert column["covering"]["bbox"]["xmax"] == ["bbox", "xmax"]
    assert (schema.field("embedding").type.list_size, str(schema.field("embedding").type.value_type)) == (4, "int8")
    assert schema.metadata[b"FUSION_DECODE"] == b"value = sign(v) * (v / 127.5)^2"
    assert schema.metadata[b"GEOEMB_TYPE"] == b"chip"
    item = checked(tmp_path / "map.json")
    assert item["assets"]["embeddings"]["type"] == "application/vnd.apache.parquet"
    assert item["properties"]["proj:bbox"] == column["bbox"]


def test_scattered_tiles_are_one_table_in_whole_batches(model, tmp_path, monkeypatch):
    sizes = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda batch: sizes.append(len(batch)) or forward(batch))
    [written] = embed_map(model, Places(FAR), tmp_path / "map.parquet", batch_size=8)
    assert sizes[-2:] == [2, 3], "the two that adjoin, and those that lie alone"
    found = open_embeddings(written.path)
    assert found.embedding.dims == ("patch", "feature")
    assert set(found.tile.values) == {f"tile{k}" for k in range(5)}
    np.testing.assert_allclose(found.embedding[:, 0], found.x / 1000, rtol=1e-5)
    np.testing.assert_allclose(found.embedding[:, 1], found.y / 1000, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found.bounds.sel(side="east") - found.bounds.sel(side="west"), 20)
    np.testing.assert_array_equal((found.bounds.sel(side="north") + found.bounds.sel(side="south")) / 2, found.y)


def test_rows_that_run_north_lie_where_they_are(model, tmp_path):
    south_up = [Geo((10.0, 0, 500 + 900.0 * k, 0, 10.0, 300), "EPSG:32632") for k in range(2)]
    [written] = embed_map(model, Places(south_up), tmp_path / "map.parquet")
    found = open_embeddings(written.path)
    np.testing.assert_allclose(found.embedding[:, 1], found.y / 1000, rtol=1e-5)


def test_tiles_of_several_crs_are_in_longitude_and_latitude(model, tmp_path):
    places = [tile_at(0, 0, x0=500_000, y0=5_600_000), tile_at(0, 0, x0=500_000, y0=5_600_000, crs="EPSG:32633")]
    [written] = embed_map(model, Places(places), tmp_path / "map.parquet")
    found = gpd.read_parquet(written.path)
    assert found.crs.is_geographic
    east = found.groupby("tile").x.mean()
    assert (east["tile0"], east["tile1"]) == (pytest.approx(9, abs=0.01), pytest.approx(15, abs=0.01))
    assert found.geometry.is_valid.all()
    assert found.geometry.to_crs(32633)[found.tile == "tile1"].area.to_numpy() == pytest.approx(400, rel=1e-3)
    checked(tmp_path / "map.json")
    assert "WGS 84" in open_embeddings(written.path).attrs["crs"]


def test_overlapping_tiles_are_averaged_as_in_a_raster(tmp_path):
    tiles = cut(scene(), (4, 8))
    model = finetuned(tiles, "multiclass", CLASSES).model
    [raster] = embed_map(model, tiles, tmp_path / "map.tif")
    [written] = embed_map(model, tiles, tmp_path / "map.parquet")
    wanted = read_embeddings(raster.path).values
    np.testing.assert_array_equal(open_embeddings(written.path).embedding, wanted.reshape(len(wanted), -1).T)


def test_row_groups_are_small_and_what_is_read_back_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(geoparquet, "_GROUP_ROWS", 20)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 7, 3)).astype(np.float32)
    values[4:6] = np.nan
    place = Affine(10, 0, 0, 0, -10, 0)
    parts = [Part(values, np.ones((30, 7), dtype=np.int32), ["a"], [(0, 10, place), (10, 20, place)], "EPSG:32632")]
    table = write_geoparquet(tmp_path / "a.parquet", parts, "float32", {})
    file = pq.ParquetFile(tmp_path / "a.parquet")
    sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
    assert (table.rows, sum(sizes)) == (28 * 7, 28 * 7)
    assert max(sizes) <= 20
    found = open_embeddings(tmp_path / "a.parquet")
    np.testing.assert_array_equal(found.embedding, values[~np.isnan(values).any(-1)])
    before = (tmp_path / "a.parquet").read_bytes()
    monkeypatch.setattr(geoparquet, "decoded", lambda kept: kept + 1)
    with pytest.raises(RuntimeError, match="differs from what was written"):
        write_geoparquet(tmp_path / "a.parquet", parts, "float32", {})
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_a_table_that_was_stopped_has_the_rows_of_one_that_was_not(tmp_path, monkeypatch):
    places, path = Places(FAR, absent=frozenset({2})), tmp_path / "map.parquet"
    embed_map(Positions(), places, tmp_path / "whole.parquet")
    noted, seen = WorkingRaster._note, []

    def note(self, entry):
        seen.append(entry)
        if len(seen) == 2:
            raise KeyboardInterrupt
        noted(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(WorkingRaster, "_note", note)
        with pytest.raises(KeyboardInterrupt):
            embed_map(Positions(), places, path)
    assert not path.exists()
    embed_map(Positions(), places, path)
    assert open_embeddings(path).identical(open_embeddings(tmp_path / "whole.parquet"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.json", "map.parquet", "whole.json", "whole.parquet"]


def test_where_nothing_was_observed_there_is_no_table(model, tmp_path):
    with pytest.raises(ValueError, match="none of the 2 tiles has an observation: there is no table"):
        embed_map(model, Places(FAR[:2], absent=frozenset({0, 1})), tmp_path / "map.parquet")
    assert not list(tmp_path.iterdir())


def test_without_pyarrow_nothing_is_computed(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(model, "forward", lambda batch: pytest.fail("computed"))
    with pytest.raises(ValueError, match=r"pyarrow, which is not installed: pip install 'eo-fusion\[vector\]'"):
        embed_map(model, Places(FAR), tmp_path / "map.parquet")


def test_what_is_no_such_table_is_refused(tmp_path):
    import pyarrow as pa

    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="columns bbox, embedding, tile, y are missing, it has x"):
        open_embeddings(tmp_path / "a.parquet")
    place = Affine(10, 0, 0, 0, -10, 0)
    parts = [
        Part(np.ones((2, 2, 3)), np.ones((2, 2), dtype=int), ["a"], [(0, 2, place)], crs) for crs in ("", "EPSG:4326")
    ]
    with pytest.raises(ValueError, match="the CRS of some tiles is unknown, others have EPSG:4326"):
        write_geoparquet(tmp_path / "b.parquet", parts, "float32", {})
    write_geoparquet(tmp_path / "c.parquet", parts[:1], "int8", {"FUSION_DECODE": "mine"})
    with pytest.raises(ValueError, match=r"holds int8 codes .* FUSION_DECODE is 'mine'"):
        open_embeddings(tmp_path / "c.parquet")
    assert open_embeddings(tmp_path / "c.parquet", decoded=False).embedding.dtype == np.int8
    assert "crs" not in open_embeddings(tmp_path / "c.parquet", decoded=False).attrs
