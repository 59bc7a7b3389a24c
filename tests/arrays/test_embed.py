"""Embeddings of xarray: those of the same ground in files, whatever the layout, on the right coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import torch
import xarray as xr

import fusion
from fusion.arrays import ArrayModel
from fusion.embed import embed_map, read_embeddings
from fusion.token_fusion import TokenFusion, TokenFusionConfig
from fusion.training import load_model, save_model

from .ground import AERIAL, BANDS, CRS, GRID, NORTH, S1, S2, WEST, as_folder, encoder, optical, picture, radar, saved


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ArrayModel:
    return fusion.load(saved(tmp_path_factory.mktemp("run"), encoder(S2)))


@pytest.fixture(scope="module")
def of_three(tmp_path_factory) -> ArrayModel:
    return fusion.load(saved(tmp_path_factory.mktemp("three"), encoder(AERIAL, S2, S1)))


@pytest.fixture(scope="module")
def cube() -> xr.DataArray:
    return optical()


@pytest.fixture(scope="module")
def embedded(model, cube) -> xr.DataArray:
    return model.embed(cube)


def test_it_says_what_it_was_trained_on(model):
    assert "s2 (B02 B03 B04 B08, 10 m, reflectance x 10000)" in repr(model)
    assert model.modalities[0].bands == BANDS
    assert (model.task, model.classes) == (None, ())


def test_the_same_ground_in_files_gives_the_same_numbers(model, cube, embedded, tmp_path):
    tiles = as_folder(cube, tmp_path / "data").covering()
    (written,) = embed_map(model._placed.encoder, tiles, tmp_path / "map.tif")
    found = read_embeddings(written.path)
    np.testing.assert_array_equal(model.embed(cube, batch_size=32).values, found.values)
    np.testing.assert_allclose(embedded.values, found.values, rtol=1e-5, atol=1e-6)
    assert embedded.rio.transform() == found.transform
    assert embedded.rio.crs == CRS


def test_rows_and_columns_are_patches_where_they_lie(embedded):
    assert (embedded.dims, embedded.shape) == (("feature", "y", "x"), (16, 12, 18))
    np.testing.assert_allclose(embedded.y[:2], [NORTH - 10, NORTH - 30])
    np.testing.assert_allclose(embedded.x[:2], [WEST + 10, WEST + 30])
    assert embedded.attrs["modalities"] == "s2 (B02 B03 B04 B08)"
    assert np.isfinite(embedded.values).all()


LAYOUTS = {
    "a variable a band": lambda c: c.to_dataset("band"),
    "other names of axes, another order": lambda c: c.rename(time="t", y="lat", x="lon").transpose(
        "lon", "lat", "band", "t"
    ),
    "names of a catalogue": lambda c: c.assign_coords(band=["blue", "green", "red", "nir"]),
    "short names in another order": lambda c: c.assign_coords(band=["B2", "b3", "B4", "b8"])[:, [2, 0, 3, 1]],
    "more bands": lambda c: xr.concat([c, c[:, :1].assign_coords(band=["SCL"])], "band"),
    "a coordinate with common names": lambda c: c.assign_coords(
        common_name=("band", ["blue", "green", "red", "nir"]), band=[1, 2, 3, 4]
    ),
    "descriptions of a GeoTIFF": lambda c: c.drop_vars("band").assign_attrs(long_name=BANDS),
    "a variable called like the modality": lambda c: xr.Dataset({"s2": c, "other": c.isel(band=0)}),
    "a mapping": lambda c: {"s2": c},
    "a mapping of variables": lambda c: {"s2": c.to_dataset("band")},
    "variables of several bands": lambda c: xr.Dataset(
        {"visible": c[:, :3].rename(band="bands"), "B08": c.isel(band=3, drop=True)}
    ),
    "times unsorted": lambda c: c.isel(time=[3, 1, 0, 5, 2, 4]),
    "packed by attributes": lambda c: c.copy(data=np.where(np.isnan(c), -9999, c * 2)).assign_attrs(
        _FillValue=-9999.0, scale_factor=0.5
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_numbers(model, cube, embedded, layout):
    found = model.embed(LAYOUTS[layout](cube))
    axes = ["feature", *(next(d for d in found.dims if d in names) for names in (("y", "lat"), ("x", "lon")))]
    np.testing.assert_allclose(found.transpose(*axes).values, embedded.values, rtol=1e-5, atol=1e-6)


def test_rows_from_south_to_north_stay_so(model, cube, embedded):
    found = model.embed(cube.isel(y=slice(None, None, -1)))
    np.testing.assert_array_equal(found.y, embedded.y[::-1])
    xr.testing.assert_equal(
        found.sortby("y", ascending=False).drop_vars("spatial_ref"), embedded.drop_vars("spatial_ref")
    )
    assert found.rio.transform().f == NORTH - 240


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, np.ma.masked_invalid])
def test_plain_arrays_with_dates_and_a_transform(model, cube, embedded, kind):
    found = model.embed(
        kind(cube.values), dates=cube.time.values, transform=(10, 0, WEST, 0, -10, NORTH), crs=CRS
    )  # fmt: skip
    xr.testing.assert_equal(found, embedded)
    with pytest.warns(
        UserWarning, match="the arrays have no CRS: their pixels are taken to be as large as the model.s .s2 10 m"
    ):
        bare = model.embed({"s2": kind(cube.values)}, dates={"s2": list(map(str, cube.time.values.astype("M8[D]")))})
    np.testing.assert_array_equal(bare.values, embedded.values)
    assert "y" not in bare.coords


def test_modalities_of_several_resolutions_share_the_ground(of_three, tmp_path):
    x = {"s1": radar(), "aerial": picture(), "s2": optical()}
    found = of_three.embed(x)
    assert found.shape == (16, 12, 18)
    np.testing.assert_allclose(found.y[:2], [NORTH - 10, NORTH - 30])
    fewer = of_three.embed({"s1": x["s1"], "s2": x["s2"]})
    assert fewer.attrs["modalities"] == "s2 (B02 B03 B04 B08); s1 (VV VH)"
    assert abs(fewer - found).max() > 1e-3
    turned = of_three.embed(x | {"s1": x["s1"].isel(y=slice(None, None, -1))})
    np.testing.assert_array_equal(turned.values, found.values)


def test_one_dataset_may_hold_all_sensors_of_one_grid(tmp_path):
    fine = S1.__class__("s1", "series", ("VV", "VH"), 10.0, 2, "dB", S1.mean, S1.std)
    model = fusion.load(saved(tmp_path, encoder(S2, fine)))
    s2, s1 = optical(dates=5), radar(24, 36, 5, 10).assign_coords(time=optical(dates=5).time)
    joined = xr.concat([s2, s1], "band")
    np.testing.assert_array_equal(model.embed(joined).values, model.embed({"s2": s2, "s1": s1}).values)


@pytest.mark.parametrize("overlap", [None, 0.25, 0.5])
def test_larger_patches_lie_where_they_are(model, cube, overlap):
    """Three tiles of 2 x 2 larger patches, each of which overlaps the next by one of them."""
    found = model.embed(cube[..., :8, :16], patch_scale=2, overlap=overlap)
    west, centre, east = (model.embed(cube[..., :8, left : left + 8], patch_scale=2).values for left in (0, 4, 8))
    assert found.shape == (16, 2, 4)
    np.testing.assert_allclose(found.y, [NORTH - 20, NORTH - 60])
    middle = [(west[..., 1] + centre[..., 0]) / 2, (centre[..., 1] + east[..., 0]) / 2]
    by_hand = np.stack([west[..., 0], *middle, east[..., 1]], axis=-1)
    np.testing.assert_allclose(found.values, by_hand, rtol=1e-4, atol=1e-5)


def test_a_scale_that_the_model_has_not_is_refused_before_anything_is_read(model, cube):
    with pytest.raises(ValueError, match="patch_scale 3 does not divide a tile of 4 x 4 patches; 1, 2, 4 do"):
        model.embed(cube.chunk({"y": 8}), patch_scale=3)


def test_what_was_never_seen_is_nan_and_nothing_else_is(model, cube):
    found = model.embed(cube.where((cube.x > WEST + 160) | (cube.y < NORTH - 160)))
    assert np.isnan(found.values[:, :4, :4]).all()
    assert np.isfinite(found.values[:, 8:, 8:]).all()


def test_a_part_of_a_patch_at_the_border_is_left_out(model, cube):
    found = model.embed(cube[..., :23, :35])
    assert found.shape == (16, 11, 17)
    assert np.isfinite(found.values).all()


def test_token_fusion_too(tmp_path, cube):
    torch.manual_seed(0)
    config = TokenFusionConfig.preset("tiny", [S2], GRID, dim=16, depth=1, heads=2, mlp_dim=16)
    own = TokenFusion(config).eval()
    tiles = as_folder(cube, tmp_path / "data").covering()
    own.tokenizer.fit(tiles)
    save_model(tmp_path / "best.safetensors", own)
    (written,) = embed_map(load_model(tmp_path), tiles, tmp_path / "map.tif")
    found = fusion.load(tmp_path).embed(cube, batch_size=32)
    np.testing.assert_array_equal(found.values, read_embeddings(written.path).values)


def test_values_of_attributes_survive_a_round_trip_through_files(embedded, tmp_path):
    embedded.to_netcdf(tmp_path / "e.nc", engine="h5netcdf")
    again = xr.open_dataarray(tmp_path / "e.nc", engine="h5netcdf", decode_coords="all")
    assert again.rio.crs == CRS
    np.testing.assert_array_equal(again.values, embedded.values)
    embedded.rio.to_raster(tmp_path / "e.tif")
    assert read_embeddings(tmp_path / "e.tif").transform == embedded.rio.transform()
