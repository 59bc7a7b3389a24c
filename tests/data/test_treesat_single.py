"""TreeSatAI with one image a tile: of one date, or medians of the series."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import rasterio
import torch

from fusion.data import TreeSatDataset, fit_statistics
from fusion.data.check import check
from fusion.data.treesat_images import STORED

NAME = "Abies_alba_1_1_WEFL_NLF"
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
# Two dates in winter, one in spring, three in summer, none in autumn.
DATES = ("20200105", "20201220", "20200410", "20200601", "20200702", "20200831")


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=count, dtype=str(values.dtype), crs="EPSG:25832",
        transform=rasterio.transform.from_origin(0, 0, 10, 10),
    ) as image:  # fmt: skip
        image.write(values)


def number(band):
    """1000, 1010, ..., 1110 by the number in the name of the band."""
    return 1000 + 10 * sorted(STORED).index(band)


@pytest.fixture
def folder(tmp_path):
    """One tile; Sentinel-2 of one date tells its band, the series its date."""
    pixels = np.arange(36).reshape(6, 6)
    write(tmp_path / f"s2/60m/{NAME}.tif", np.stack([number(band) + 0 * pixels for band in STORED]).astype(np.uint16))
    radar = np.stack([-10 - 0.1 * pixels, -17 - 0.1 * pixels, np.full((6, 6), 0.6)])
    write(tmp_path / f"s1/60m/{NAME}.tif", radar.astype(np.float32))
    (tmp_path / "sentinel-ts").mkdir()
    with h5py.File(tmp_path / f"sentinel-ts/{NAME}_2020.h5", "w") as file:
        values = (
            np.array([100, 200, 300, 400, 500, 900])[:, None, None, None] + np.arange(10)[:, None, None]
        ) * np.ones((6, 6))
        file["sen-2-data"] = values.astype(np.float32)
        file["sen-2-products"] = [f"S2A_MSIL2A_{date}T102421_N0213" for date in DATES]
        file["sen-2-masks"] = np.zeros((6, 2, 6, 6), np.float32)
        linear = np.array([0.01, 0.02, 0.04, 0.1, 0.2, 0.4])[:, None, None, None] * np.ones((2, 6, 6))
        file["sen-1-asc-data"] = linear.astype(np.float32)
        file["sen-1-asc-products"] = [f"S1A_IW_GRDH_1SDV_{date}T170841" for date in DATES]
    (tmp_path / "train_filenames.lst").write_text(f"{NAME}.tif\n")
    (tmp_path / "labels").mkdir()
    table = {f"{NAME}.tif": [["Abies", 1.0]]}
    (tmp_path / "labels/TreeSatBA_v9_60m_multi_labels.json").write_text(json.dumps(table))
    return tmp_path


def edit(folder):
    return h5py.File(folder / f"sentinel-ts/{NAME}_2020.h5", "a")


def test_one_date_of_sentinel_2_has_the_bands_of_the_series_in_their_order(folder):
    data = TreeSatDataset(folder, ["s2-mono"])
    (modality,) = data.modalities
    assert (modality.kind, modality.bands, modality.patch_size, modality.unit) == (
        "image",
        BANDS,
        1,
        "reflectance x 10000",
    )
    assert data.grid == (6, 6)
    values = data[0].values["s2-mono"]
    assert values.shape == (10, 6, 6)
    assert values[:, 3, 3].tolist() == [number(band) for band in BANDS]
    assert data[0, 5].values["s2-mono"].equal(values)


def test_one_date_of_sentinel_1_is_in_decibels_without_the_ratio(folder):
    for radar in ("dB", "linear"):
        data = TreeSatDataset(folder, ["s1-mono"], radar=radar)
        assert (data.modalities[0].bands, data.modalities[0].unit) == (("VV", "VH"), "dB")
        expected = np.stack([-10 - 0.1 * np.arange(36), -17 - 0.1 * np.arange(36)]).reshape(2, 6, 6)
        assert data[0].values["s1-mono"].numpy() == pytest.approx(expected, rel=1e-6)


def test_linear_backscatter_of_one_date_is_converted(folder):
    values = np.stack([np.full((6, 6), 0.1), np.full((6, 6), 0.01), np.full((6, 6), 10)]).astype(np.float32)
    values[0, 0, 0] = 0
    write(folder / f"s1/60m/{NAME}.tif", values)
    found = TreeSatDataset(folder, ["s1-mono"])[0].values["s1-mono"]
    assert found[0].numpy() == pytest.approx(-10, rel=1e-5)  # the pixel without backscatter takes the mean
    assert found[1].numpy() == pytest.approx(-20, rel=1e-5)


def test_pixels_far_below_any_echo_are_filled_and_a_tile_of_them_has_no_radar(folder):
    values = np.full((3, 6, 6), -12, np.float32)
    values[:, 2, 2] = -9999
    write(folder / f"s1/60m/{NAME}.tif", values)
    assert TreeSatDataset(folder, ["s1-mono"])[0].values["s1-mono"].unique().tolist() == [-12]
    write(folder / f"s1/60m/{NAME}.tif", np.full((3, 6, 6), -9999, np.float32))
    assert list(TreeSatDataset(folder, ["s1-mono", "s2-mono"])[0].values) == ["s2-mono"]


def test_medians_by_season(folder):
    data = TreeSatDataset(folder, ["s2-median", "s1-asc-median"])
    s2, s1 = data.modalities
    assert s2.bands[:2] == ("B02 winter", "B03 winter")
    assert s2.bands[10] == "B02 spring"
    assert s1.bands == tuple(f"{b} {s}" for s in ("winter", "spring", "summer", "autumn") for b in ("VV", "VH"))
    tile = data[0]
    by_season = tile.values["s2-median"].reshape(4, 10, 6, 6)
    assert by_season[:3, 0, 2, 4].tolist() == [150, 300, 500]
    assert by_season[3, 0, 2, 4] == 350  # no autumn: the median of the year
    assert by_season[2, :, 0, 0].tolist() == [500 + k for k in range(10)]
    observed = tile.observed["s2-median"].reshape(4, 10, 6, 6)
    assert observed[:3].all()
    assert not observed[3].any()
    decibels = tile.values["s1-asc-median"].reshape(4, 2, 6, 6)[:, 0, 0, 0].tolist()
    assert decibels[1:3] == pytest.approx([10 * np.log10(0.04), 10 * np.log10(0.2)], rel=1e-5)
    assert decibels[0] == pytest.approx((10 * np.log10(0.01) + 10 * np.log10(0.02)) / 2, rel=1e-5)
    linear = TreeSatDataset(folder, ["s1-asc-median"], radar="linear")
    assert linear.modalities[0].unit == "linear"
    assert linear[0].values["s1-asc-median"].reshape(4, 2, 6, 6)[0, 0, 0, 0] == pytest.approx(0.015)


def test_medians_of_the_year(folder):
    data = TreeSatDataset(folder, ["s2-median"], medians="year")
    assert data.modalities[0].bands == BANDS
    assert data[0].values["s2-median"][:, 1, 1].tolist() == [350 + k for k in range(10)]
    assert not data[0].observed


def test_what_is_under_cloud_is_no_part_of_a_median(folder):
    with edit(folder) as file:
        masks = file["sen-2-masks"][()]
        masks[0, 1] = 90  # the first of winter
        masks[2, 1, 0, 0] = 90  # a pixel of spring
        masks[3:, 0, 5, 5] = 90  # a pixel of all summer
        del file["sen-2-masks"]
        file["sen-2-masks"] = masks
    tile = TreeSatDataset(folder, ["s2-median"])[0]
    by_season = tile.values["s2-median"].reshape(4, 10, 6, 6)[:, 0]
    observed = tile.observed["s2-median"].reshape(4, 10, 6, 6)[:, 0]
    assert by_season[0].unique().tolist() == [200]
    assert (by_season[1, 0, 0], by_season[1, 0, 1]) == (450, 300)  # of 200, 400, 500, 900
    assert (by_season[2, 5, 5], by_season[2, 5, 4]) == (250, 500)
    assert observed[1].sum() == 35
    assert not observed[2, 5, 5]
    assert list(TreeSatDataset(folder, ["s2-median"], max_cloud=1)[0].observed) == ["s2-median"]


def test_a_series_without_a_clear_date_has_no_median(folder):
    with edit(folder) as file:
        del file["sen-2-masks"]
        file["sen-2-masks"] = np.full((6, 2, 6, 6), 100, np.float32)
    assert list(TreeSatDataset(folder, ["s2-median", "s1-asc-median"])[0].values) == ["s1-asc-median"]


def test_medians_of_real_tiles_are_forest(data_dir):
    data = TreeSatDataset(data_dir("treesatai_ts_mini"), ["s2-median", "s1-asc-median", "s1-des-median"])
    bands = data.modalities[0].bands
    s2 = fit_statistics(data)[0]
    summer, winter = s2.mean[bands.index("B08 summer")], s2.mean[bands.index("B08 winter")]
    assert 2000 < summer < 5000
    assert winter < summer
    assert s2.mean[bands.index("B04 summer")] < 600
    report = check(data)
    assert report.ok, report
    assert all(torch.isfinite(v).all() for i in range(len(data)) for v in data[i].values.values())


def test_single_dates_do_without_the_series(folder):
    (folder / f"sentinel-ts/{NAME}_2020.h5").unlink()
    assert list(TreeSatDataset(folder, ["s1-mono", "s2-mono"])[0].values) == ["s1-mono", "s2-mono"]
    with pytest.raises(ValueError, match=f"{NAME}_<year>.h5"):
        TreeSatDataset(folder, ["s2-median"])
    (folder / f"s1/60m/{NAME}.tif").unlink()
    with pytest.raises(ValueError, match=rf"1 files are missing.*\n.*s1/60m/{NAME}.tif"):
        TreeSatDataset(folder, ["s1-mono"])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("s2", np.ones((10, 6, 6), np.uint16), "10 bands of 6 x 6 pixels; 12 .B02, B03, B04, B08, B05"),
        ("s2", np.ones((12, 20, 20), np.uint16), "12 bands of 20 x 20 pixels; 12 .* of 6 x 6 wanted"),
        ("s1", np.ones((1, 6, 6), np.float32), "1 bands of 6 x 6 pixels; 3 .VV, VH and their ratio"),
        ("s1", np.full((3, 6, 6), 3000, np.float32), "look like reflectance x 10000; backscatter in dB wanted"),
    ],
)
def test_files_of_one_date_that_are_something_else(folder, name, values, message):
    write(folder / f"{name}/60m/{NAME}.tif", values)
    with pytest.raises(ValueError, match=message) as error:
        TreeSatDataset(folder, [f"{name}-mono"])[0]
    assert f"{name}/60m/{NAME}.tif" in str(error.value)


def test_what_medians_are_of_is_checked(folder):
    with pytest.raises(ValueError, match="medians is 'season' or 'year', not 'month'"):
        TreeSatDataset(folder, medians="month")
