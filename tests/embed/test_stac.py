"""The STAC items beside maps: by the rules of the core specification, without a network."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.warp import transform_bounds

from fusion.embed import embed_map, predict_map
from fusion.embed.formats.stac import Asset, item_path, write_item

from .conftest import Places, Positions, tile_at
from .ground import CLASSES, HEIGHT, WIDTH, cut, finetuned, scene
from .test_about import Means, tiles

UTM1 = "EPSG:32601"  # begins at the antimeridian


def checked(path: Path) -> dict:
    """The item, if it is one: https://github.com/radiantearth/stac-spec/blob/v1.1.0/item-spec/item-spec.md"""
    item = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert {"type", "stac_version", "id", "geometry", "properties", "links", "assets"} <= set(item)
    assert (item["type"], item["stac_version"]) == ("Feature", "1.1.0")
    assert all(re.fullmatch(r"https://stac-extensions\.github\.io/.*/schema\.json", e) for e in item["stac_extensions"])
    assert isinstance(item["links"], list)
    when = item["properties"]["datetime"]
    times = [when] if when else [item["properties"][f"{end}_datetime"] for end in ("start", "end")]
    parsed = [datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ") for time in times]
    assert parsed == sorted(parsed)
    for asset in item["assets"].values():
        file = path.parent / asset["href"]
        assert file.exists()
        if file.is_file():
            content = file.read_bytes()
            assert asset["file:size"] == len(content)
            assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
        assert isinstance(asset["roles"], list)
    if item["geometry"] is None:
        assert "bbox" not in item
        return item
    west, south, east, north = item["bbox"]
    assert -90 <= south < north <= 90
    polygons = item["geometry"]["coordinates"]
    for polygon in [polygons] if item["geometry"]["type"] == "Polygon" else polygons:
        for ring in polygon:
            assert ring[0] == ring[-1], "closed"
            assert len(ring) >= 4
            x, y = np.array(ring).T
            assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0, "counterclockwise"
            assert ((y >= south) & (y <= north)).all()
            inside = (x >= west) & (x <= east) if west <= east else (x >= west) | (x <= east)
            assert inside.all(), "the box contains the ring"
    return item


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_a_map_of_embeddings_has_its_item(suffix, tmp_path):
    [written] = embed_map(Means(), tiles(), tmp_path / f"map{suffix}", dtype="int8", licence="cc-by-4.0")
    item = checked(tmp_path / "map.json")
    known, asset = item["properties"], item["assets"]["embeddings"]
    assert (known["start_datetime"], known["end_datetime"]) == ("2021-08-30T00:00:00Z", "2021-09-10T23:59:59Z")
    assert (known["proj:code"], known["proj:shape"]) == ("EPSG:32632", [8, 2])
    assert known["proj:transform"] == [20, 0, 500, 0, -20, 9000]
    assert known["proj:bbox"] == [500, 8840, 540, 9000]
    assert known["license"] == "cc-by-4.0"
    assert set(known["emb:quantization"]) == {"method", "original_dtype", "quantized_dtype", "link"}
    assert known["emb:runtime_parameters"]["FUSION_DECODE"] == "value = sign(v) * (v / 127.5)^2"
    assert (asset["href"], asset["data_type"], asset["nodata"]) == (f"./{written.path.name}", "int8", -128)
    assert asset["bands"] == [{"name": "E00"}, {"name": "E01"}]
    assert asset["raster:spatial_resolution"] == 20
    assert {e.split("/")[3] for e in item["stac_extensions"]} == {
        "projection",
        "raster",
        *(["file"] if suffix == ".tif" else []),
    }
    wanted = transform_bounds("EPSG:32632", "EPSG:4326", 500, 8840, 540, 9000)
    np.testing.assert_allclose(item["bbox"], wanted, atol=1e-8)


def test_every_raster_of_several_has_its_own(model, tmp_path):
    places = Places([tile_at(0, 0), tile_at(0, 0, crs="EPSG:32633")])
    embed_map(model, places, tmp_path / "map.tif")
    items = [checked(tmp_path / "map" / f"tile{k}.json") for k in range(2)]
    assert [item["properties"]["proj:code"] for item in items] == ["EPSG:32632", "EPSG:32633"]
    assert items[0]["properties"]["fusion:datetime"] == "of writing; the data have no dates"
    assert items[0]["assets"]["embeddings"]["nodata"] == "nan"


def test_a_map_of_predictions_has_its_item_with_all_that_lies_beside_it(tmp_path):
    ground = cut(scene(), (HEIGHT, WIDTH))
    module = finetuned(ground, "multiclass", CLASSES, label_shape=(HEIGHT, WIDTH))
    [written] = predict_map(module, ground, tmp_path / "map.tif", probabilities=True, entropy=True)
    item = checked(tmp_path / "map.json")
    assert {"prediction", "probabilities", "entropy", "thumbnail", "prediction_style"} <= set(item["assets"])
    asset = item["assets"]["prediction"]
    assert asset["classification:classes"][1] == {"value": 1, "name": "oak_beech", "title": "oak & beech"}
    assert (asset["data_type"], asset["nodata"]) == ("uint8", 255)
    assert item["assets"]["probabilities"]["raster:scale"] == 1 / 254
    assert [band["name"] for band in item["assets"]["probabilities"]["bands"]] == list(CLASSES)
    assert item["assets"]["thumbnail"]["proj:code"] is None
    assert {e.split("/")[3] for e in item["stac_extensions"]} == {"projection", "file", "raster", "classification"}
    with rasterio.open(written.path) as file:
        assert item["properties"]["proj:shape"] == list(file.shape)
        np.testing.assert_allclose(item["bbox"], transform_bounds(file.crs, "EPSG:4326", *file.bounds), atol=1e-7)


def item_of(path: Path, crs: str, transform: Affine, shape=(100, 100), **options) -> dict:
    path.touch()
    place = {"crs": crs, "transform": transform, "shape": shape}
    return checked(write_item(path, {"data": Asset(path)}, **place, **options))


def test_ground_at_the_antimeridian_is_cut_there(tmp_path):
    item = item_of(tmp_path / "a.tif", UTM1, Affine(1000, 0, 260_000, 0, -1000, 6_000_000))
    assert item["geometry"]["type"] == "MultiPolygon"
    west, _, east, _ = item["bbox"]
    assert 170 < west <= 180
    assert -180 <= east < -170


def test_straight_borders_become_curves(tmp_path):
    item = item_of(tmp_path / "a.tif", "EPSG:3035", Affine(20_000, 0, 3_000_000, 0, -20_000, 4_000_000))
    assert len(item["geometry"]["coordinates"][0]) > 40
    bounds = transform_bounds("EPSG:3035", "EPSG:4326", 3_000_000, 2_000_000, 5_000_000, 4_000_000, densify_pts=101)
    np.testing.assert_allclose(item["bbox"], bounds, atol=0.02)


def test_without_a_crs_there_is_no_geometry(tmp_path):
    item = item_of(tmp_path / "a.tif", "", Affine(1, 0, 0, 0, -1, 0), first="2021-01-01", last="2021-01-02")
    assert item["geometry"] is None
    assert item["properties"]["proj:code"] is None


def test_other_files_and_items_of_other_maps_are_not_replaced(model, tmp_path):
    (tmp_path / "fields.json").write_text('{"type": "FeatureCollection", "features": []}')
    for suffix in (".tif", ".zarr"):
        embed_map(model, Places([tile_at(0, 0)]), tmp_path / f"map{suffix}")
        embed_map(model, Places([tile_at(0, 0)]), tmp_path / f"fields{suffix}")
    assert json.loads((tmp_path / "fields.json").read_text())["type"] == "FeatureCollection"
    for name in ("fields.tif.json", "fields.zarr.json", "map.json", "map.zarr.json"):
        checked(tmp_path / name)
    assert item_path(tmp_path / "map.tif").name == "map.json", "its own is replaced"


def test_the_item_is_written_last(tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fusion.embed.map.write_sections", stop)
        with pytest.raises(KeyboardInterrupt):
            embed_map(Positions(), Places([tile_at(0, 0)]), tmp_path / "map.tif")
    assert not (tmp_path / "map.json").exists()
    embed_map(Positions(), Places([tile_at(0, 0)]), tmp_path / "map.tif")
    checked(tmp_path / "map.json")
