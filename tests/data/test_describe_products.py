"""Products as their producers name them: Sentinel-2 SAFE, Landsat Collection 2, HLS; exports of bands; odc-stac."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import xarray as xr

from fusion.data.describe import describe

from .describing import comment, described, questions, values
from .rasters import DATES, DAYS, NORTH, WEST, image, write
from .test_describe_arrays import TIMES, UTM, X, Y, series

TEN, TWENTY = ("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12")
SIDE = 24


def pixels(seed, band, size):
    """(rows, columns) of 240 m in pixels of a size."""
    return image(seed, band + 1, int(240 // size))[band]


def jp2(path, array, size):
    """As Sentinel-2 products have it: lossless JPEG 2000."""
    return write(path, array, size=float(size), driver="JP2OpenJPEG", REVERSIBLE="YES", QUALITY=100)


def write_safe(folder, date, baseline, seed, level="L2A"):
    """One product of tile 31UFS with the folders and names of ESA."""
    stamp = f"{date}T105031"
    product = f"S2A_MSI{level}_{stamp}_N{baseline}_R051_T31UFS_{date}T140812.SAFE"
    inside = folder / product / "GRANULE" / f"{level}_T31UFS_A026690_{date}T105532" / "IMG_DATA"
    (folder / product).mkdir(parents=True)
    (folder / product / f"MTD_MSI{level}.xml").write_text("<xml/>")
    for k, band in enumerate((*TEN, *TWENTY)):
        sizes = ([10, 20] if band in TEN else [20]) if level == "L2A" else [10 if band in TEN else 20]
        for size in sizes:
            name = f"R{size}m/T31UFS_{stamp}_{band}_{size}m.jp2" if level == "L2A" else f"T31UFS_{stamp}_{band}.jp2"
            jp2(inside / name, pixels(seed, k, size), size)
    if level == "L2A":
        classes = np.full((12, 12), 4, np.uint8)
        classes[0, 0] = 9  # cloud
        jp2(inside / f"R20m/T31UFS_{stamp}_SCL_20m.jp2", classes, 20)
        jp2(inside / f"R10m/T31UFS_{stamp}_AOT_10m.jp2", pixels(seed, 0, 10), 10)
        jp2(inside.parent / "QI_DATA" / "MSK_CLDPRB_20m.jp2", classes, 20)
    return folder / product


@pytest.fixture(scope="module")
def safes(tmp_path_factory):
    """Two products from before and one from after processing baseline 04.00."""
    folder = tmp_path_factory.mktemp("safes")
    for k, (date, baseline) in enumerate((("20200801", "0214"), ("20210816", "0301"), ("20220811", "0400"))):
        write_safe(folder, date, baseline, k)
    return folder


def test_products_of_level_2a_are_two_modalities_with_mask_and_offset(safes):
    guess, data = described(safes)
    assert [(m.name, m.bands, m.resolution) for m in data.modalities] == [("s2", TEN, 10), ("s2-20m", TWENTY, 20)]
    source = guess.description["modalities"]["s2"]
    assert source["offset"] == {"2022-08-11": -1000}
    assert "processing baseline 02.14, 03.01, 04.00" in comment(guess, "modalities", "s2", "offset")
    assert source["unit"] == "reflectance x 10000"
    assert data[0].days["s2"].tolist() == [213, 593, 953]
    seen = values(data, "s2")
    for date in range(3):
        wanted = np.stack([pixels(date, k, 10) for k in range(4)]) - 1000.0 * (date == 2)
        np.testing.assert_array_equal(seen[date][:, 2:, 2:], wanted[:, 2:, 2:])
        assert (seen[date][:, 0, 0] != wanted[:, 0, 0]).all()  # under the cloud: the mean of the rest
    twenty = values(data, "s2-20m")
    np.testing.assert_array_equal(twenty[0][:, 1:], np.stack([pixels(0, 4 + k, 20) for k in range(6)])[:, 1:])
    assert not guess.questions
    assert [scene.name for scene in data.scenes] == ["T31UFS"]


def test_a_single_product_is_described_from_inside(safes):
    (product,) = safes.glob("*N0400*.SAFE")
    guess, data = described(product)
    assert guess.description["modalities"]["s2"]["offset"] == -1000
    assert len(data[0].days["s2"]) == 1
    np.testing.assert_array_equal(values(data, "s2")[0][0, 2:], pixels(2, 0, 10)[2:] - 1000.0)


def test_products_of_level_1c_have_no_mask(tmp_path):
    write_safe(tmp_path, "20200801", "0209", 0, level="L1C")
    guess, data = described(tmp_path)
    assert [m.name for m in data.modalities] == ["s2", "s2-20m"]
    assert "mask" not in guess.description["modalities"]["s2"]
    assert "offset" not in guess.description["modalities"]["s2"]
    np.testing.assert_array_equal(values(data, "s2")[0], np.stack([pixels(0, k, 10) for k in range(4)]))


def test_a_date_from_before_and_after_the_new_baseline_is_a_question(tmp_path):
    write_safe(tmp_path, "20200801", "0214", 0)
    write_safe(tmp_path, "20200801", "0500", 0)
    assert "which product of 20200801 is to be used?" in describe(tmp_path).open_questions[0]


def test_landsat_is_scaled_and_masked_by_its_flags(tmp_path):
    for k, date in enumerate(("20200801", "20200817")):
        product = f"LC08_L2SP_199024_{date}_20200908_02_T1"
        for band in range(1, 8):
            write(tmp_path / product / f"{product}_SR_B{band}.TIF", pixels(k, band, 10) + 7000, size=30.0)
        flags = np.full((SIDE, SIDE), 1 << 6, np.uint16)  # clear
        flags[:2, :2] = 1 << 3  # cloud
        write(tmp_path / product / f"{product}_QA_PIXEL.TIF", flags, size=30.0)
        write(tmp_path / product / f"{product}_ST_B10.TIF", pixels(k, 0, 10), size=30.0)
    guess, data = described(tmp_path)
    (modality,) = data.modalities
    assert (modality.name, modality.resolution, modality.unit) == ("landsat", 30, "reflectance")
    assert modality.bands == tuple(f"SR_B{k}" for k in range(1, 8))
    assert (guess.description["tile"], guess.description["patch"]) == (720, 120)
    assert guess.description["modalities"]["landsat"]["mask"]["bad_bits"] == [0, 1, 2, 3, 4]
    wanted = np.stack([pixels(1, band, 10) + 7000 for band in range(1, 8)]) * 0.0000275 - 0.2
    np.testing.assert_allclose(values(data, "landsat")[1][:, 2:], wanted[:, 2:], rtol=1e-5)
    assert (abs(values(data, "landsat")[1][:, 0, 0] - wanted[:, 0, 0]) > 1e-6).all()
    assert comment(guess, "modalities", "landsat", "scale") == "of Collection 2 Level 2 (USGS)"
    assert not guess.questions


def test_harmonized_products_are_two_modalities_with_days_of_the_year(tmp_path):
    for product, bands, days in (("S30", ("B02", "B8A", "B10"), (214, 219)), ("L30", ("B02", "B05", "B10"), (216,))):
        for k, day in enumerate(days):
            name = f"HLS.{product}.T31UFS.2020{day}T105031.v2.0"
            for number, band in enumerate(bands):
                path = tmp_path / name / f"{name}.{band}.tif"
                write(path, pixels(k, number, 10).astype(np.int16), size=30.0, nodata=-9999)
                with rasterio.open(path, "r+") as file:
                    file.scales = (0.0001,)
            flags = np.full((SIDE, SIDE), 64, np.uint8)
            flags[:2, :2] = 2  # cloud
            write(tmp_path / name / f"{name}.Fmask.tif", flags, size=30.0, nodata=255)
    guess, data = described(tmp_path)
    assert [(m.name, m.bands) for m in data.modalities] == [("hls-s30", ("B02", "B8A")), ("hls-l30", ("B02", "B05"))]
    assert data[0].days["hls-s30"].tolist() == [213, 218]
    assert data[0].days["hls-l30"].tolist() == [215]
    wanted = np.stack([pixels(1, band, 10) for band in range(2)]) * 1e-4
    np.testing.assert_allclose(values(data, "hls-s30")[1][:, 2:], wanted[:, 2:], rtol=1e-5)
    assert data.modalities[0].unit == "reflectance"
    assert guess.description["modalities"]["hls-s30"]["mask"]["bad_bits"] == [1, 2, 3]
    assert "cloud, adjacent to cloud, shadow" in comment(guess, "modalities", "hls-s30", "mask")


def test_exports_of_a_file_a_band_and_date_are_told_apart_by_pixel_size(tmp_path):
    for k, date in enumerate(DATES):
        stamp = date.replace("-", "")
        for number, (band, size) in enumerate((("B02", 10), ("B8A", 20), ("B11", 20))):
            write(tmp_path / f"S2_{stamp}_{band}.tif", pixels(k, number, size), size=float(size))
        write(tmp_path / f"S2_{stamp}_SCL.tif", np.full((12, 12), 5, np.uint8), size=20.0)
    guess, data = described(tmp_path)
    assert [(m.name, m.bands) for m in data.modalities] == [("s2", ("B02",)), ("s2-20m", ("B8A", "B11"))]
    np.testing.assert_array_equal(values(data, "s2")[:, 0], np.stack([pixels(k, 0, 10) for k in range(3)]))
    np.testing.assert_array_equal(values(data, "s2-20m")[:, 0], np.stack([pixels(k, 1, 20) for k in range(3)]))
    assert data[0].days["s2"].tolist() == DAYS
    assert comment(guess, "modalities", "s2-20m", "bands") == "from names of files; pixels of 20 m"
    assert guess.description["modalities"]["s2"]["mask"]["files"] == "S2_{date}_SCL.tif"


def test_a_folder_a_product_is_one_modality_of_several_scenes(tmp_path):
    """As BigEarthNet has them; bands of 60 m are left out."""
    for scene in ("87_48", "3_12"):
        for k, date in enumerate(("20170613", "20220617")):
            product = f"S2A_MSIL2A_{date}T101031_{scene}"
            for number, (band, size) in enumerate((("B02", 10), ("B03", 10), ("B01", 60))):
                write(tmp_path / product / f"{product}_{band}.tif", pixels(k, number, size), size=float(size))
    guess, data = described(tmp_path)
    assert [(m.name, m.bands) for m in data.modalities] == [("s2", ("B02", "B03"))]
    assert [scene.name for scene in data.scenes] == ["3_12", "87_48"]
    assert "B01 of 60 m and more left out" in comment(guess, "modalities", "s2", "bands")
    np.testing.assert_array_equal(values(data, "s2", 1)[1], np.stack([pixels(1, k, 10) for k in range(2)]))
    asked = "are values of Sentinel-2 since 2022-01-25 (1 of 2 dates) 1000 higher, as ESA delivers them, or harmonized?"
    assert questions(guess).startswith(asked)
    assert not guess.open_questions


def test_a_file_of_each_band_in_a_folder_a_date_is_read(tmp_path):
    """As Sentinel Hub delivers them."""
    for scene in ("north", "south"):
        for k, date in enumerate(DATES):
            for number, band in enumerate(("B04", "B08")):
                write(tmp_path / scene / date / f"{band}.tif", pixels(k, number, 10))
    guess, data = described(tmp_path)
    assert guess.description["files"] == "{scene}/{date}/{band}.tif"
    assert len(data) == 2
    np.testing.assert_array_equal(values(data, "s2", 1)[2], np.stack([pixels(2, k, 10) for k in range(2)]))


def test_a_band_that_some_dates_lack_is_told(tmp_path):
    for k, date in enumerate(DATES):
        for number, band in enumerate(("B02", "B08")):
            if (k, band) != (1, "B08"):
                write(tmp_path / f"a_{date}_{band}.tif", pixels(k, number, 10))
    guess, data = described(tmp_path)
    assert comment(guess, "modalities", "s2", "missing_bands") == "1 of 3 dates lack a band"
    np.testing.assert_array_equal(values(data, "s2")[0], np.stack([pixels(0, k, 10) for k in range(2)]))


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_one_variable_a_band_is_one_modality(tmp_path, suffix):
    """As odc.stac.load returns it and xarray writes it."""
    axes = ("time", "y", "x")
    clear = np.full((3, SIDE, SIDE), 4, np.uint8)
    clear[1] = 9
    bands = {name: (axes, series(k), {"grid_mapping": "spatial_ref", "nodata": 0}) for k, name in enumerate(TEN)}
    cube = xr.Dataset(
        bands | {"SCL": (axes, clear, {"grid_mapping": "spatial_ref"})},
        coords={"time": TIMES, "y": Y, "x": X, "spatial_ref": ((), 32631, {"crs_wkt": UTM, "spatial_ref": UTM})},
    )
    if suffix == "nc":
        cube.to_netcdf(tmp_path / "cube.nc", engine="h5netcdf")
    else:
        cube.to_zarr(tmp_path / "cube.zarr", consolidated=False)
    guess, data = described(tmp_path)
    (modality,) = data.modalities
    assert (modality.name, modality.bands) == ("s2", TEN)
    assert guess.description["modalities"]["s2"]["nodata"] == 0
    assert comment(guess, "modalities", "s2", "variable") == "one variable a band"
    assert data[0].days["s2"].tolist() == [DAYS[0], DAYS[2]]  # 9 is cloud
    np.testing.assert_array_equal(values(data, "s2")[1], np.stack([series(k)[2] for k in range(4)]))
    assert data[0].geo.transform[2] == WEST
    assert data[0].geo.transform[5] == NORTH
    assert not questions(guess)
