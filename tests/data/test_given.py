"""What users and files hand over arrives as it is meant: masks, other byte orders, half precision, missing values."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import zarr

from fusion.data import ArrayTiles, Cube, Modality, SensorCube, fit_statistics
from fusion.data.cubes import observed_statistics, smooth_backscatter
from fusion.data.flux_sites import read_flux_sites
from fusion.data.given import calendar_dates, numbers, tile_numbers
from fusion.data.table import read_series
from fusion.embed import encode, read_embeddings, stack_geotiffs
from fusion.embed.raster import write_geotiff
from fusion.evaluation.diagnostics import effective_rank, retrieval
from fusion.evaluation.features import Features
from fusion.evaluation.metrics import score
from fusion.token_fusion.counterfactual import season

S2 = Modality("s2", "series", ("B04", "B08"), 10.0, 1)
MAP = Modality("s2", "image", ("B04", "B08"), 10.0, 2)
DAYS = np.array([10, 50, 90])


def masked_series(dtype: str = "float32") -> np.ma.MaskedArray:
    """Four tiles of three dates (N, L, C); of each the second date is masked and holds -9999."""
    values = np.ma.array(np.arange(24).reshape(4, 3, 2) + 1, dtype=dtype)
    values[:, 1] = -9999
    return np.ma.masked_equal(values, -9999)


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4", "<f8", "int16", ">i2", "int32"])
def test_a_masked_date_is_missing_and_the_others_keep_their_values(dtype: str) -> None:
    tile = ArrayTiles([S2], {"s2": masked_series(dtype)}, days={"s2": DAYS})[1]
    assert tile.valid["s2"].tolist() == [True, False, True]
    assert tile.values["s2"].flatten().tolist() == [7, 8, 0, 0, 11, 12]


def test_statistics_leave_out_what_is_masked() -> None:
    fitted = fit_statistics(ArrayTiles([S2], {"s2": masked_series()}, days={"s2": DAYS}))[0]
    kept = masked_series().data[:, [0, 2]].reshape(-1, 2)
    np.testing.assert_allclose(fitted.mean, kept.mean(0))
    np.testing.assert_allclose(fitted.std, kept.std(0))


def test_masked_pixels_take_the_mean_of_those_that_are_there() -> None:
    values = np.ma.array(np.full((1, 2, 2, 2), 5.0))
    values[0, 0, 0] = [1, -9999]
    values[0, 0, 0, 1] = np.ma.masked
    filled = ArrayTiles([MAP], {"s2": values})[0].values["s2"]
    assert filled[0].flatten().tolist() == [1, pytest.approx(11 / 3), 5, 5]


@pytest.mark.parametrize("dtype", ["float16", ">f4", "uint16", ">u2", "int64", "float64"])
def test_numbers_of_every_type_and_byte_order_are_the_same_numbers(dtype: str) -> None:
    plain = np.arange(12).reshape(2, 3, 2)
    tile = ArrayTiles([S2], {"s2": plain.astype(dtype)}, days={"s2": DAYS.astype(">i8")})[1]
    assert tile.values["s2"].dtype == torch.float32
    assert tile.values["s2"].flatten().tolist() == [6, 7, 8, 9, 10, 11]
    assert tile.days["s2"].tolist() == [10, 50, 90]


def test_arrays_of_xarray_pandas_and_torch_are_their_numbers() -> None:
    relief = Modality("relief", "image", ("elevation", "slope"), 10.0, 1)
    frame = pd.DataFrame({"elevation": [1.0, 2.0, 3.0], "slope": pd.array([4, pd.NA, 6], dtype="Int64")})
    for given in (frame, frame.to_numpy(dtype=object), frame.to_numpy(dtype=float, na_value=np.nan)):
        tiles = ArrayTiles([relief], {"relief": given})
        assert list(tiles[1].values) == []  # pd.NA
        assert tiles[2].values["relief"].flatten().tolist() == [3, 6]
    array = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("tile", "band"))
    assert ArrayTiles([relief], {"relief": array})[1].values["relief"].flatten().tolist() == [2, 3]
    half = torch.arange(6, dtype=torch.bfloat16).reshape(3, 2)
    assert ArrayTiles([relief], {"relief": half})[1].values["relief"].flatten().tolist() == [2, 3]


@pytest.mark.parametrize("attributes", [{"scale_factor": 1e-4}, {"add_offset": -0.1}, {"_FillValue": -9999}])
def test_packed_values_that_nobody_unpacked_are_refused(attributes: dict[str, float], tmp_path: Path) -> None:
    packed = xr.DataArray(np.zeros((2, 3, 2), np.int16), attrs=attributes)
    with pytest.raises(ValueError, match=rf"ArrayTiles: 's2': its attribute {next(iter(attributes))} = -?\d"):
        ArrayTiles([S2], {"s2": packed}, days={"s2": DAYS})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["s2"] = np.zeros((3, 2, 4, 4), np.int16)
        file["s2"].attrs.update({name: np.array([value]) for name, value in attributes.items()})
        with pytest.raises(ValueError, match=r"sensor 's2': its attribute .* was not applied"):
            SensorCube(S2, DAYS, file["s2"])
    array = zarr.create_array(tmp_path / "a.zarr", shape=(3, 2, 4, 4), dtype="i2", attributes=attributes)
    with pytest.raises(ValueError, match=r"sensor 's2': its attribute .* was not applied"):
        SensorCube(S2, DAYS, array)


def test_attributes_that_change_nothing_are_no_obstacle() -> None:
    plain = xr.DataArray(np.ones((2, 3, 2)), attrs={"scale_factor": 1.0, "add_offset": 0, "_FillValue": np.nan})
    assert ArrayTiles([S2], {"s2": plain}, days={"s2": DAYS})[0].values["s2"].eq(1).all()


def test_a_masked_day_is_a_date_that_is_not_there() -> None:
    days = np.ma.array([[10, 50, 90], [20, 60, 999]], mask=[[0, 0, 0], [0, 0, 1]])
    tiles = ArrayTiles([S2], {"s2": np.ones((2, 3, 2))}, days={"s2": days})
    assert tiles[0].valid["s2"].tolist() == [True, True, True]
    assert tiles[1].valid["s2"].tolist() == [True, True, False]
    assert 999 not in tiles[1].days["s2"].tolist()


def test_values_too_large_for_float32_are_infinite_and_refused() -> None:
    values = np.ones((2, 3, 2))
    values[0, 0, 0] = 1e300
    with pytest.raises(ValueError, match="'s2' has 1 infinite values"):
        ArrayTiles([S2], {"s2": values}, days={"s2": DAYS})


# Labels.


def labelled(labels: object, task: str = "multiclass", classes: tuple[str, ...] = ("a", "b"), **more: object):
    count = len(labels)  # type: ignore[arg-type]
    return ArrayTiles([MAP], {"s2": np.ones((count, 2, 2, 2))}, task=task, classes=classes, labels=labels, **more)


@pytest.mark.parametrize("dtype", ["uint8", ">i4", "int64", "float32"])
def test_masked_pixels_of_a_map_are_no_label(dtype: str) -> None:
    maps = np.ma.array([[[0, 1], [1, 77]]], mask=[[[0, 0], [1, 1]]], dtype=dtype)
    assert labelled(maps).labels().tolist() == [[[0, 1], [-1, -1]]]
    assert labelled(maps, ignore_index=255).labels().tolist() == [[[0, 1], [255, 255]]]
    heights = labelled(maps, "regression", ("height",)).labels()
    assert heights.isnan().tolist() == [[[False, False], [True, True]]]
    assert heights[0, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "task", "told"),
    [
        (
            np.ma.array([0, 1, 1], mask=[0, 1, 0]),
            "multiclass",
            "tile 1 has no label .masked or NaN.; leave such tiles out",
        ),
        (np.array([0, np.nan, 1]), "multiclass", "tile 1 has no label"),
        (np.array([1, 2, 1]), "multiclass", "label 2 is none of 2 classes, which are 0 to 1"),
        (np.array([0.5, 1, 1]), "multiclass", "label 0.5 is none of 2 classes"),
        (np.ma.array([[0, 1], [1, 0]], mask=[[0, 1], [0, 0]]), "multilabel", "1 of 4 labels are masked"),
        (np.array([[1.0], [np.inf]]), "regression", "1 of 2 labels are masked, NaN or infinite"),
        (np.array(["a", "b"]), "multiclass", "labels is of type <U1; numbers are wanted"),
    ],
)
def test_labels_that_are_none_are_refused(labels: np.ndarray, task: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        labelled(labels, task)


def test_labels_of_every_whole_type_are_the_same_classes() -> None:
    for dtype in ("uint8", "uint16", ">i2", "float64", "bool"):
        labels = labelled(np.array([0, 1, 1]).astype(dtype)).labels()
        assert (labels.tolist(), labels.dtype) == ([0, 1, 1], torch.int64)
    assert labelled(torch.tensor([False, True, True])).labels().tolist() == [0, 1, 1]


# Masks of tiles instead of their numbers.


def test_a_mask_of_tiles_chooses_the_tiles_it_marks() -> None:
    mask = np.array([False, False, True, True])
    tiles = ArrayTiles([S2], {"s2": masked_series()}, days={"s2": DAYS}, splits={"train": ~mask, "test": mask})
    assert tiles.split("train").names == ["0", "1"]
    assert tiles.split("test").names == ["2", "3"]
    for given in (mask, torch.from_numpy(mask), pd.Series(mask), mask.tolist(), np.array([2.0, 3.0])):
        assert tiles.subset(given).names == ["2", "3"]


def test_a_mask_of_rows_chooses_features() -> None:
    features = Features(np.arange(8.0).reshape(4, 2), np.arange(4), tuple("abcd"), "multiclass", tuple("wxyz"))
    assert features.subset(np.array([False, True, False, True])).x.tolist() == [[2, 3], [6, 7]]
    assert features.subset([3, 1]).names == ("d", "b")
    with pytest.raises(ValueError, match="features: a mask of 2 for 4 rows"):
        features.subset([True, False])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([True, False], "a mask of 2 for 4 tiles"),
        ([0.5], "indices of 4 tiles wanted, 0.5..0.5 given"),
        ([np.nan], "indices of 4 tiles wanted"),
        ([4], "4..4 given"),
        (["0"], "numbers of tiles are wanted"),
    ],
)
def test_numbers_of_tiles_that_are_none_are_refused(given: list[object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tile_numbers(given, 4, "subset")
    with pytest.raises(ValueError, match=rf"split 'train': .*{told}"):
        ArrayTiles([S2], {"s2": masked_series()}, days={"s2": DAYS}, splits={"train": given})


# Dates.


@pytest.mark.parametrize(
    "given",
    [
        ["2020-04-10", "2020-05-01"],
        ["20200410", "20200501"],
        np.array([b"2020-04-10", b"20200501"]),
        np.array(["2020-04-10T11:00", "2020-05-01"], "datetime64[ns]"),
        pd.DatetimeIndex(["2020-04-10", "2020-05-01"]),
        [pd.Timestamp("2020-04-10"), pd.Timestamp("2020-05-01")],
        np.array([18362, 18383], ">i4"),
        np.array([18362.0, 18383.0]),
    ],
)
def test_dates_are_dates_in_every_form(given: object) -> None:
    assert calendar_dates(given, "sensor").astype(str).tolist() == ["2020-04-10", "2020-05-01"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([np.datetime64("NaT"), np.datetime64("2020-01-01")], r"1 of 2 dates are missing \(NaT or masked\)"),
        ([pd.NaT, pd.Timestamp("2020-01-01")], "1 of 2 dates are missing"),
        (np.ma.array([18000, 18001], mask=[0, 1]), "1 of 2 dates are missing"),
        (np.array([20200410]), "20200410 would be a date of the year 57276; numbers are days since 1970-01-01"),
        (np.array([1586476800]), "would be a date of the year"),
        (np.array([18362.5]), "is no date"),
        (np.array([np.nan, 1.0]), "1 of 2 dates are missing"),
        (["10.04.2020"], "is no date"),
    ],
)
def test_dates_that_are_none_are_refused(given: object, told: str) -> None:
    with pytest.raises(ValueError, match=rf"sensor: .*{told}"):
        calendar_dates(given, "sensor")
    with pytest.raises(ValueError, match=told):
        SensorCube(S2, given, np.zeros((len(given), 2, 4, 4)))  # type: ignore[arg-type]


# Cubes.


class Masking:
    """As a variable of netCDF4: what is sliced comes masked, and nothing says so before."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape = values, values.shape

    def __getitem__(self, index: object) -> np.ma.MaskedArray:
        return np.ma.masked_equal(self.values[index], -9999)


@pytest.mark.parametrize("dtype", ["float32", "int16", ">f4"])
def test_what_a_cube_masks_was_not_observed(dtype: str) -> None:
    stored = np.arange(3 * 2 * 4 * 4).reshape(3, 2, 4, 4).astype(dtype)
    stored[0, :, :2] = -9999
    stored[1] = -9999
    clear = np.ma.array(np.ones((3, 4, 4), bool), mask=np.zeros((3, 4, 4), bool))
    clear[2, 0] = np.ma.masked
    cube = Cube("a", {"s2": SensorCube(S2, DAYS, Masking(stored), clear)})
    west = np.ma.array(np.ones((4, 4), bool), mask=np.arange(4)[None].repeat(4, 0) > 1)
    values, observed = cube.sensors["s2"].read(slice(0, 4), slice(0, 4))
    wanted = stored != -9999
    wanted[2, :, 0] = False
    np.testing.assert_array_equal(observed, wanted)
    np.testing.assert_array_equal(values, np.where(wanted, stored, 0))
    assert values.dtype == np.float32
    fitted = observed_statistics([cube], S2)
    np.testing.assert_allclose(fitted.mean, [stored[:, k][wanted[:, k]].mean() for k in range(2)], rtol=1e-6)
    halved = observed_statistics([cube], S2, allowed=west)
    np.testing.assert_allclose(
        halved.mean, [stored[:, k, :, :2][wanted[:, k, :, :2]].mean() for k in range(2)], rtol=1e-6
    )
    assert cube.without_empty_dates().skipped["s2"] == [np.datetime64("1970-02-20")]


@pytest.mark.parametrize("fill", [1e20, 9.969209968386869e36, -3.4028235e38])
def test_statistics_of_fill_values_are_refused(fill: float) -> None:
    values = np.ones((3, 2, 4, 4), np.float32)
    values[1, 0, 2, 2] = fill
    told = rf"modality 's2': 1 values such as {np.float32(fill):.6g} in".replace("+", r"\+")
    with pytest.raises(ValueError, match=f"{told} cube a: an undeclared nodata value"):
        observed_statistics([Cube("a", {"s2": SensorCube(S2, DAYS, values)})], S2)
    series = Modality("s2", "series", ("B04", "B08"), 10.0, 4)
    tiles = ArrayTiles([series], {"s2": values[None]}, {"s2": DAYS})
    with pytest.raises(ValueError, match=f"{told} tile 0: an undeclared nodata value"):
        fit_statistics(tiles)


def test_masked_backscatter_is_absent_from_the_mean() -> None:
    decibel = np.ma.masked_equal(np.array([-10.0, -9999, -20.0])[:, None], -9999)
    smooth = smooth_backscatter(decibel)[:, 0]
    assert np.isnan(smooth[1])
    np.testing.assert_allclose(smooth[[0, 2]], [-10, -20], rtol=1e-6)


# Embeddings, scores, tables.


def test_masked_components_of_embeddings_are_no_data() -> None:
    assert encode(np.ma.array([1.0, 0.5], mask=[False, True])).tolist() == [127, -128]


def test_other_nodata_values_of_an_embedding_raster_are_nan(tmp_path: Path) -> None:
    import rasterio

    values = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    values[0, 0] = np.nan
    write_geotiff(tmp_path / "a.tif", values, rasterio.Affine(10, 0, 0, 0, -10, 0), "EPSG:32632", "float32", {})
    with rasterio.open(tmp_path / "a.tif") as ours:
        profile, stored = ours.profile, np.nan_to_num(ours.read(), nan=-9999)
    with rasterio.open(tmp_path / "b.tif", "w", **(profile | {"nodata": -9999})) as theirs:
        theirs.write(stored)
    np.testing.assert_array_equal(
        read_embeddings(tmp_path / "b.tif").values, read_embeddings(tmp_path / "a.tif").values
    )
    with rasterio.open(tmp_path / "c.tif", "w", **(profile | {"nodata": 0, "dtype": "uint8", "predictor": 2})) as other:
        other.write(np.ones_like(stored, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"c\.tif: embeddings are float32 or int8, not uint8"):
        read_embeddings(tmp_path / "c.tif")


def test_rasters_are_stacked_in_the_order_of_their_dates(tmp_path: Path) -> None:
    import rasterio

    paths = {}
    for k, date in enumerate(("2020-05-01", "20200410")):
        paths[date] = tmp_path / f"{k}.tif"
        values = np.full((2, 2, 2), k, dtype=np.float32)
        write_geotiff(paths[date], values, rasterio.Affine(10, 0, 0, 0, -10, 0), "EPSG:32632", "float32", {})
    store = stack_geotiffs(paths, tmp_path / "stack")
    assert store.read(slice(None), slice(0, 2), slice(0, 2))[:, 0, 0, 0].tolist() == [1, 0]
    with pytest.raises(ValueError, match="20200410 and 2020-04-10 are the same date"):
        stack_geotiffs(paths | {"2020-04-10": paths["20200410"]}, tmp_path / "twice")


def test_scores_of_what_is_no_label_are_refused() -> None:
    for target in (np.array([0, -1, 1]), np.array([0, np.nan, 1])):
        with pytest.raises(ValueError, match="score: 1 of 3 targets are no label"):
            score("multiclass", target, np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="score: 1 targets are masked"):
        score("regression", np.ma.array([1.0, 2, 3], mask=[0, 1, 0]), np.ones(3))


def test_features_that_are_not_finite_are_not_found_again() -> None:
    a = np.random.default_rng(0).normal(size=(9, 3))
    assert retrieval(a, a) == 1
    lost = a.copy()
    lost[4] = np.nan
    with pytest.raises(ValueError, match="retrieval: 1 rows hold values that are not finite"):
        retrieval(lost, a)
    with pytest.raises(ValueError, match="effective_rank"):
        effective_rank(np.ma.masked_greater(a, 1))


def test_the_season_of_a_masked_profile_is_that_of_what_is_seen() -> None:
    days = np.arange(0, 365, 15)
    profile = 5 + np.cos(2 * np.pi * days / 365.25)
    masked = np.ma.array(np.where(days == 45, -9999, profile), mask=days == 45)
    wanted = season(np.where(days == 45, np.nan, profile), days)
    found = season(masked, days)
    assert float(found.mean) == pytest.approx(float(wanted.mean))
    assert float(found.amplitude) == pytest.approx(1)


@pytest.mark.parametrize("value", ["-9999", "inf", "-1e400", "9.969209968386869e36", "-3.4028235e38"])
def test_marks_of_missing_values_in_tables_are_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "warm.csv"
    path.write_text(f"id,d1,d2\na,1,2\nb,{value},3\n")
    with pytest.raises(ValueError, match=r"warm\.csv, line 3: .* is no measured value; leave the field empty"):
        read_series([path])
    np.savez(tmp_path / "warm.npz", warm=np.array([[float(value)], [1.0]]))
    with pytest.raises(ValueError, match=r"warm\.npz: warm: .* is no measured value"):
        read_series([tmp_path / "warm.npz"], "warm")


def test_a_table_with_other_separators_or_a_placeholder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;d1;d2\na;1;2\n")
    with pytest.raises(ValueError, match=r"a\.csv: its header 'id;d1;d2' is a single field; .* commas"):
        read_series([tmp_path / "a.csv"])
    (tmp_path / "b.npz").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"b\.npz: is a pointer of Git LFS"):
        read_series([tmp_path / "b.npz"], "x")


FLUX = (
    "SITE_ID,year,date,GPP,b2,b3,b4,b5,b6,b7,T2MIN,T2MAX,T2MEAN,TSMDEWMEAN,GWETROOT,LHLAND,SHLAND,SWLAND,PARDFLAND,"
    "PRECTOTLAND"
)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["A,2020,2020-04-10,-9999" + ",1" * 16], r"row 2 has no value of GPP \(-9999 means missing\)"),
        (["A,2020,2020-04-10,1" + ",1" * 15 + ",inf"], "row 2 has no value of PRECTOTLAND"),
        (["A,2020,2020-04-10,1" + ",1" * 15 + ",warm"], "is no number"),
        (["A,2020,10.4.2020,1" + ",1" * 16], "column date: .* is no date"),
        (["A,2020,2020-04-10,1" + ",1" * 16, "B,2020,2020-04-10,2" + ",2" * 16, "A,2020,2020-04-10,1" + ",1" * 16],
         "rows 2 and 4 are both A on 2020-04-10; keep one"),
        ([], "has no row below its header"),
    ],
)  # fmt: skip
def test_flux_sites_refuse_what_was_not_measured(tmp_path: Path, rows: list[str], told: str) -> None:
    (tmp_path / "hls_merra_gpp_sites.csv").write_text("\n".join([FLUX, *rows]) + "\n")
    with pytest.raises(ValueError, match=rf"hls_merra_gpp_sites\.csv: .*{told}"):
        read_flux_sites(tmp_path)


def test_flux_sites_without_a_column_name_it(tmp_path: Path) -> None:
    (tmp_path / "hls_merra_gpp_sites.csv").write_text("SITE_ID,year,date\nA,2020,2020-04-10\n")
    with pytest.raises(ValueError, match="no 'GPP', 'b2'"):
        read_flux_sites(tmp_path)


def test_numbers_keep_their_type_where_nothing_is_missing() -> None:
    for dtype in (np.float32, np.float64, np.int16, np.uint8):
        assert numbers(np.ones(3, dtype), "x").dtype == dtype
    given = np.ones(3, np.float32)
    assert np.shares_memory(numbers(given, "x"), given)
