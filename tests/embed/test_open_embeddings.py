"""One function opens every format: our own, and small files in the layouts of published embeddings."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray
from affine import Affine
from rasterio.crs import CRS

from fusion.embed import NODATA, decode, embed_map, encode, open_embeddings, read_embeddings, unit
from fusion.embed.formats import rasters

from .conftest import Places, tile_at

UTM = CRS.from_epsg(32631)


@pytest.fixture
def quilt() -> Places:
    return Places([tile_at(*corner) for corner in [(3, 6), (0, 0), (3, 0), (0, 6), (3, 3)]])


def ground(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """(rows, columns, features) of unit length."""
    return unit(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def write_alphaearth(path: Path, values: np.ndarray, **options) -> np.ndarray:
    """As published: int8, 64 bands, rows from south to north (positive height of a pixel). Returns the codes, north up.

    Args:
        values: (rows, columns, 64), the first row in the north.
    """
    codes = np.moveaxis(encode(values), -1, 0)
    profile = {
        "driver": "GTiff",
        "count": codes.shape[0],
        "height": codes.shape[1],
        "width": codes.shape[2],
        "dtype": "int8",
        "nodata": NODATA,
        "crs": UTM,
        "transform": Affine(10, 0, 500_000, 0, 10, 5_700_000),
    }
    with rasterio.open(path, "w", **profile | options) as file:
        file.write(codes[:, ::-1])
        file.descriptions = [f"A{k:02d}" for k in range(codes.shape[0])]
    return codes


def write_tessera(base: Path, codes: np.ndarray, scales: np.ndarray, *, place: bool = True) -> Path:
    name = "grid_0.15_52.05"
    path = base / "global_0.1_degree_representation" / "2024" / name / f"{name}.npy"
    path.parent.mkdir(parents=True)
    np.save(path, codes)
    np.save(path.with_name(f"{name}_scales.npy"), scales)
    if place:
        mask = base / "global_0.1_degree_tiff_all" / f"{name}.tiff"
        mask.parent.mkdir()
        rows, columns = codes.shape[:2]
        profile = {"driver": "GTiff", "count": 1, "height": rows, "width": columns, "dtype": "uint8", "crs": UTM}
        with rasterio.open(mask, "w", **profile, transform=Affine(10, 0, 300_000, 0, -10, 5_770_000)) as file:
            file.write(np.ones((1, rows, columns), dtype=np.uint8))
    return path


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_maps_come_back_decoded_and_in_place(suffix, dtype, quilt, model, tmp_path):
    [written] = embed_map(model, quilt, tmp_path / f"map{suffix}", dtype=dtype)
    [raster] = embed_map(model, quilt, tmp_path / "plain.tif", dtype=dtype)
    found, wanted = open_embeddings(written.path), read_embeddings(raster.path)
    assert (found.embedding.dims, found.embedding.dtype) == (("feature", "y", "x"), np.float32)
    np.testing.assert_array_equal(found.embedding, wanted.values)
    assert found.feature.values.tolist() == ["E00", "E01", "E02", "E03"]
    np.testing.assert_array_equal(found.x, 500 + 20 * (np.arange(9) + 0.5))
    np.testing.assert_array_equal(found.y, 900 - 20 * (np.arange(6) + 0.5))
    assert CRS.from_wkt(found.spatial_ref.attrs["crs_wkt"]) == CRS.from_epsg(32632)
    assert found.attrs["FUSION_MODEL"] == wanted.tags["FUSION_MODEL"]
    stored = open_embeddings(written.path, decoded=False).embedding
    assert stored.dtype == dtype
    if dtype == "int8":
        np.testing.assert_array_equal(decode(stored.values), wanted.values)


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_only_what_is_used_is_read_whatever_is_asked_for(suffix, quilt, model, tmp_path, monkeypatch):
    [written] = embed_map(model, quilt, tmp_path / f"map{suffix}", dtype="int8")
    values = open_embeddings(written.path).embedding
    whole = open_embeddings(written.path).embedding.values
    seen = []
    read = rasters.decode
    for module in ("rasters", "zarr_values"):
        monkeypatch.setattr(
            f"fusion.embed.formats.{module}.decode", lambda codes: seen.append(codes.size) or read(codes)
        )
    for key in (
        (2, slice(None), slice(None)),
        (slice(None), 3, 8),
        (slice(1, 3), slice(5, 0, -2), slice(8, None)),
        (slice(None), -1, slice(0, 0)),
        ([3, 1], [0, 4], slice(None)),
        (slice(None, None, 3), slice(None, None, -1), slice(-4, -1)),
    ):
        seen.clear()
        found = values[key].values
        np.testing.assert_array_equal(found, xarray.DataArray(whole, dims=values.dims)[key].values, err_msg=str(key))
        assert sum(seen) < whole.size or key[0] == slice(None, None, 3), key
    again = pickle.loads(pickle.dumps(values))
    np.testing.assert_array_equal(again, whole)
    pytest.importorskip("dask")
    np.testing.assert_array_equal(values.chunk({"y": 2, "x": 4}).mean("feature"), values.mean("feature"))


def test_tiles_without_a_place_come_back_by_name(model, tmp_path):
    [written] = embed_map(model, Places([None, None]), tmp_path / "map.tif")
    found = open_embeddings(written.path)
    assert (found.embedding.dims, found.tile.values.tolist()) == (("tile", "feature", "y", "x"), ["tile0", "tile1"])
    np.testing.assert_array_equal(found.embedding, read_embeddings(written.path).values)


def test_alphaearth_is_decoded_and_turned_north_up(tmp_path):
    values = ground((5, 4, 64))
    values[1, 2] = np.nan
    codes = write_alphaearth(tmp_path / "aef.tiff", values)
    found = open_embeddings(tmp_path / "aef.tiff")
    assert found.embedding.shape == (64, 5, 4)
    assert (found.feature.values[0], found.feature.values[63]) == ("A00", "A63")
    np.testing.assert_array_equal(found.y, 5_700_000 + 10 * (np.arange(5)[::-1] + 0.5))
    np.testing.assert_array_equal(found.x, 500_000 + 10 * (np.arange(4) + 0.5))
    v = codes.astype(np.float64)
    formula = np.where(codes == -128, np.nan, (v / 127.5) ** 2 * np.sign(v))  # as Google's page states it
    np.testing.assert_allclose(found.embedding, formula, rtol=1e-6)
    assert np.isnan(found.embedding[:, 1, 2]).all()
    np.testing.assert_array_equal(found.embedding[3:5, 4:0:-1, 1], found.embedding.values[3:5, 4:0:-1, 1])
    assert "Google" in found.attrs["attribution"]
    # where a vector lies does not depend on the order of rows
    north = found.embedding.sel(x=500_015, y=5_700_045).values
    np.testing.assert_allclose(north, decode(encode(values[0, 1])), atol=1e-6)
    stored = open_embeddings(tmp_path / "aef.tiff", decoded=False).embedding
    np.testing.assert_array_equal(stored, codes)


def test_a_vrt_that_turns_alphaearths_file_over_gives_the_same(tmp_path):
    write_alphaearth(tmp_path / "aef.tiff", ground((5, 4, 64)))
    from rasterio.shutil import copy
    from rasterio.vrt import WarpedVRT

    with rasterio.open(tmp_path / "aef.tiff") as file, WarpedVRT(file, dtype="int8") as turned:
        assert turned.transform.e < 0
        copy(turned, tmp_path / "aef.vrt", driver="VRT")
    one, other = (open_embeddings(tmp_path / f"aef.{kind}") for kind in ("tiff", "vrt"))
    np.testing.assert_array_equal(one.embedding, other.embedding)
    np.testing.assert_array_equal(one.y, other.y)


def test_codes_without_a_rule_are_refused(tmp_path):
    values = ground((5, 4, 64))
    write_alphaearth(tmp_path / "a.tif", values[..., :63])
    with pytest.raises(ValueError, match=r"a\.tif holds int8 codes and nothing says how .* FUSION_DECODE is None.*A00"):
        open_embeddings(tmp_path / "a.tif")
    write_alphaearth(tmp_path / "b.tif", values, nodata=0)
    with pytest.raises(ValueError, match="nothing says how they are decoded"):
        open_embeddings(tmp_path / "b.tif")
    assert open_embeddings(tmp_path / "b.tif", decoded=False).embedding.dtype == np.int8
    np.save(tmp_path / "c.npy", np.zeros((3, 4, 8), dtype=np.int8))
    with pytest.raises(ValueError, match=r"nothing says how .* c_scales\.npy, the scale of each pixel"):
        open_embeddings(tmp_path / "c.npy")
    xarray.Dataset({"embedding": (("feature", "y", "x"), np.zeros((2, 3, 4), dtype=np.int8))}).to_zarr(
        tmp_path / "d.zarr", zarr_format=3, consolidated=False
    )
    with pytest.raises(ValueError, match=r"d\.zarr holds int8 codes .* decode is None"):
        open_embeddings(tmp_path / "d.zarr")
    assert open_embeddings(tmp_path / "d.zarr", decoded=False).embedding.dtype == np.int8


def test_other_rasters_and_stores_are_refused(tmp_path):
    profile = {"driver": "GTiff", "count": 1, "height": 2, "width": 2, "dtype": "uint16"}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, transform=Affine(1, 0, 5, 0, -1, 5)) as file:
        file.write(np.zeros((1, 2, 2), dtype=np.uint16))
    with pytest.raises(ValueError, match="embeddings are float32 or int8, not uint16"):
        open_embeddings(tmp_path / "a.tif")
    profile |= {"dtype": "float32", "transform": Affine(1, 0.5, 5, 0, -1, 5)}
    with rasterio.open(tmp_path / "b.tif", "w", **profile) as file:
        file.write(np.zeros((1, 2, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="rotated or mirrored"):
        open_embeddings(tmp_path / "b.tif")
    xarray.Dataset({"red": ("y", np.zeros(3))}).to_zarr(tmp_path / "c.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(ValueError, match=r"no map of embeddings; .* it has red"):
        open_embeddings(tmp_path / "c.zarr")
    with pytest.raises(ValueError, match="no such file"):
        open_embeddings(tmp_path / "d.tif")
    with pytest.raises(ValueError, match="no store of embeddings"):
        open_embeddings(tmp_path / "d.zarr")


def test_other_programs_no_data_is_nan(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    profile = {"driver": "GTiff", "count": 3, "height": 2, "width": 2, "dtype": "float32", "nodata": 5}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, transform=Affine(1, 0, 5, 0, -1, 5)) as file:
        file.write(values)
    found = open_embeddings(tmp_path / "a.tif").embedding.values
    np.testing.assert_array_equal(found, np.where(values == 5, np.nan, values))


@pytest.mark.parametrize("by_feature", [False, True])
def test_tessera_is_the_codes_times_the_scale_of_the_pixel(by_feature, tmp_path):
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, size=(6, 5, 128), dtype=np.int8)
    scales = rng.uniform(0.01, 0.1, size=(6, 5, 128) if by_feature else (6, 5)).astype(np.float32)
    scales[2, 3], scales[0, 0] = np.nan, np.inf
    path = write_tessera(tmp_path, codes, scales)
    found = open_embeddings(path)
    wanted = codes * (scales if by_feature else scales[..., None])
    wanted[2, 3] = wanted[0, 0] = np.nan
    assert (found.embedding.shape, found.embedding.dtype) == ((128, 6, 5), np.float32)
    np.testing.assert_allclose(found.embedding, np.moveaxis(wanted, -1, 0), rtol=1e-6)
    np.testing.assert_allclose(found.embedding[7, 5:1:-1, 2], wanted[5:1:-1, 2, 7], rtol=1e-6)
    np.testing.assert_array_equal(found.x, 300_000 + 10 * (np.arange(5) + 0.5))
    np.testing.assert_array_equal(found.y, 5_770_000 - 10 * (np.arange(6) + 0.5))
    assert CRS.from_wkt(found.spatial_ref.attrs["crs_wkt"]) == UTM
    stored = open_embeddings(path, decoded=False)
    np.testing.assert_array_equal(stored.embedding, np.moveaxis(codes, -1, 0))
    assert stored.scale.dims == (("feature", "y", "x") if by_feature else ("y", "x"))


def test_tessera_without_its_place_or_with_other_files_says_so(tmp_path):
    codes, scales = np.ones((6, 5, 128), dtype=np.int8), np.ones((6, 5), dtype=np.float32)
    path = write_tessera(tmp_path / "a", codes, scales, place=False)
    with pytest.warns(UserWarning, match=r"its land mask grid_0\.15_52\.05\.tiff is neither beside it"):
        found = open_embeddings(path)
    assert "spatial_ref" not in found.coords
    assert found.x.units == "pixel"
    with pytest.raises(ValueError, match=r"holds scales; give grid_0\.15_52\.05\.npy"):
        open_embeddings(path.with_name("grid_0.15_52.05_scales.npy"))
    np.save(path.with_name("grid_0.15_52.05_scales.npy"), np.ones((5, 6), dtype=np.float32))
    with pytest.raises(ValueError, match=r"\(6, 5\) is wanted for \(6, 5, 128\) codes"):
        open_embeddings(path)
    path = write_tessera(tmp_path / "b", codes, scales)
    np.save(path, codes[:4])
    np.save(path.with_name("grid_0.15_52.05_scales.npy"), scales[:4])
    with pytest.raises(ValueError, match=r"has \(6, 5\) pixels, the embeddings .* have \(4, 5\)"):
        open_embeddings(path)


def test_importing_the_package_imports_no_xarray():
    code = "import sys, fusion.embed; assert 'xarray' not in sys.modules and 'zarr' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])
