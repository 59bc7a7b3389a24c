"""Bands that lie in files or variables of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion.data.folder.calendar import parse_dates
from fusion.data.folder.patterns import find_files

from .rasters import NORTH, SIDE, WEST, image, opened, write

BANDS = ["B02", "B03", "B04"]
SERIES = {"files": "{scene}_{date}_{band}.tif", "bands": BANDS, "resolution": 10}


def write_bands(folder: Path, pattern: str, dates: list[str], bands: list[str] = BANDS, **options: Any) -> None:
    for k, date in enumerate(dates):
        for c, band in enumerate(bands):
            write(folder / pattern.format(date=date, band=band), image(k, len(bands))[c], **options)


def whole(seed: int, bands: int = 3) -> np.ndarray:
    """(bands, 4, 4) of the first tile."""
    return image(seed, bands)[:, :4, :4]


def test_a_file_a_band_and_date(tmp_path):
    write_bands(tmp_path, "a_{date}_{band}.tif", ["20200410", "20200510"], [*BANDS, "B08", "SCL"])
    data = opened(tmp_path, {"s2": SERIES})
    assert data.storage("s2") == (6, "uint16")
    assert data[0].days["s2"].tolist() == [100, 130]
    np.testing.assert_array_equal(data[0].values["s2"], [whole(0), whole(1)])
    np.testing.assert_array_equal(data[3].values["s2"][1], image(1, 3)[:, 4:, 4:])


def test_bands_are_in_the_order_of_the_description_and_use_narrows(tmp_path):
    write_bands(tmp_path, "a_{date}_{band}.tif", ["20200410"])
    data = opened(tmp_path, {"s2": SERIES | {"bands": ["B04", "B02"]}})
    np.testing.assert_array_equal(data[0].values["s2"][0], whole(0)[[2, 0]])
    (tmp_path / "a_20200410_B03.tif").write_text("no raster")  # is not opened
    data = opened(tmp_path, {"s2": SERIES | {"use": ["B04", "B02"]}})
    assert data.modalities[0].bands == ("B04", "B02")
    np.testing.assert_array_equal(data[0].values["s2"][0], whole(0)[[2, 0]])


def test_a_missing_band_is_named_with_its_date(tmp_path):
    write_bands(tmp_path, "a_{date}_{band}.tif", ["20200410", "20200510"])
    (tmp_path / "a_20200510_B03.tif").unlink()
    with pytest.raises(ValueError, match=r"a_20200510_B02.tif: 's2': no file of band B03 of 20200510 beside it; copy"):
        opened(tmp_path, {"s2": SERIES})
    data = opened(tmp_path, {"s2": SERIES | {"missing_bands": True}})
    layer = data.scenes[0].layers["s2"]
    values = layer.values(np.array([0, 1]), (0, 0, 4, 4))
    assert np.isnan(values[1, 1]).all()
    np.testing.assert_array_equal(values[0], whole(0))
    np.testing.assert_array_equal(values[1, [0, 2]], whole(1)[[0, 2]])
    assert data[0].valid["s2"].tolist() == [True, False]
    one = opened(tmp_path, {"s2": SERIES | {"missing_bands": True, "use": ["B03"]}})
    assert one[0].days["s2"].tolist() == [100]


def test_an_image_and_arrays_with_a_file_a_band(tmp_path):
    for c, band in enumerate(("red", "nir")):
        np.save(tmp_path / f"a_{band}.npy", np.stack([image(k)[c] for k in range(2)]))
        write(tmp_path / f"photo_a_{band}.tif", image(5)[c])
    data = opened(
        tmp_path,
        {
            "s2": {
                "files": "{scene}_{band}.npy", "bands": ["red", "nir"], "resolution": 10,
                "dates": ["2020-04-10", "2020-05-10"],
            },
            "photo": {
                "files": "photo_{scene}_{band}.tif", "axes": ["band", "y", "x"], "bands": ["nir", "red"],
                "resolution": 10,
            },
        },
    )  # fmt: skip
    np.testing.assert_array_equal(data[0].values["s2"], [whole(0, 2), whole(1, 2)])
    np.testing.assert_array_equal(data[0].values["photo"], whole(5, 2)[::-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"missing_bands": True, "files": "{scene}_{date}.tif"}, "missing_bands: .* has no {band}"),
        ({"bands": "names"}, r"{band} in .*: a file a band needs bands: \[...\]"),
        ({"bands": ["B02", "B03"], "variable": ["a", "b"]}, r"{band} in .*: a file a band needs"),
        ({"resample": "cubic"}, "resample is nearest, bilinear or average, not 'cubic'"),
        ({"mask": {"files": "{date}_{band}.tif", "classes": [4]}}, "a mask is one band; write its name"),
        ({"mask": {"variable": "SCL", "classes": [4]}}, "mask 'SCL': a file a band has no variables; give the files"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path, changes, message):
    write_bands(tmp_path, "a_{date}_{band}.tif", ["20200410"])
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, {"s2": SERIES | changes})


def test_a_file_that_calls_its_band_otherwise_is_refused(tmp_path):
    import rasterio

    write_bands(tmp_path, "a_{date}_{band}.tif", ["20200410"])
    with rasterio.open(tmp_path / "a_20200410_B03.tif", "r+") as file:
        file.descriptions = ("B3",)
    assert opened(tmp_path, {"s2": SERIES}).notes() == []
    with rasterio.open(tmp_path / "a_20200410_B03.tif", "r+") as file:
        file.descriptions = ("B4",)
    with pytest.raises(ValueError, match=r"B03.tif: 's2': the band is B4 by the file and B03 by its name"):
        opened(tmp_path, {"s2": SERIES})


def test_a_stack_of_bands_is_no_file_of_one(tmp_path):
    write_bands(tmp_path, "a_{date}_{band}.tif", ["20200410"])
    write(tmp_path / "a_20200410_B03.tif", image())
    with pytest.raises(ValueError, match=r"B03.tif: 's2': 2 bands in the file of B03, one is wanted; leave {band} out"):
        opened(tmp_path, {"s2": SERIES})


# Names of products.


def test_harmonised_landsat_sentinel(tmp_path):
    write_bands(tmp_path, "HLS.S30.T31UFS.{date}T104031.v2.0.{band}.tif", ["2020001", "2020101"], [*BANDS, "Fmask"])
    fmask = np.zeros((SIDE, SIDE), np.uint8)
    fmask[:4, :4] = 0b10  # cloud
    fmask[:4, 4:] = 0b11000000  # only the level of aerosol
    for date in ("2020001", "2020101"):
        write(tmp_path / f"HLS.S30.T31UFS.{date}T104031.v2.0.Fmask.tif", fmask, nodata=255)
    source = {
        "files": "HLS.*.{date}T*.{band}.tif", "bands": BANDS, "resolution": 10,
        "mask": {"files": "HLS.*.{date}T*.Fmask.tif", "bad_bits": [1, 2, 3, 4]},
    }  # fmt: skip
    data = opened(tmp_path, {"hls": source})
    assert data.scenes[0].layers["hls"].dates.astype(str).tolist() == ["2020-01-01", "2020-04-10"]
    np.testing.assert_array_equal(data[1].values["hls"], [image(k, 3)[:, :4, 4:] for k in range(2)])
    assert "hls" not in data[0].values


def test_landsat_collection_2(tmp_path):
    bands = ["B4", "B5", "B10"]
    name = "LC08_L2SP_197024_{date}_20200908_02_T1_SR_{band}.TIF"
    write_bands(tmp_path, name, ["20200801"], bands)
    flags = np.full((SIDE, SIDE), 21824, np.uint16)  # clear, with low confidence of all
    flags[:4, :4] |= 1 << 3
    flags[4:, :4] = 1  # fill
    write(tmp_path / "LC08_L2SP_197024_20200801_20200908_02_T1_QA_PIXEL.TIF", flags, nodata=1)
    source = {
        "files": "LC0*_L2SP_*_{date}_*_SR_{band}.TIF", "bands": ["B4", "B5"], "resolution": 10,
        "mask": {"files": "LC0*_L2SP_*_{date}_*_QA_PIXEL.TIF", "bad_bits": [1, 2, 3, 4]},
    }  # fmt: skip
    data = opened(tmp_path, {"l8": source})
    assert data.scenes[0].layers["l8"].dates.astype(str).tolist() == ["2020-08-01"]
    np.testing.assert_array_equal(data[1].values["l8"][0], image(0, 3)[:2, :4, 4:])
    assert [bool(len(data[i].days.get("l8", ()))) for i in range(4)] == [False, True, False, True]


SAFE = "S2A_MSIL2A_20200410T104031_N0214_{tile}_20200410T1.SAFE/GRANULE/L2A_{tile}_A02_20200410T104031/IMG_DATA"
SAFE_BANDS = "**/GRANULE/*/IMG_DATA/R*m/*_{date}T*_{band}_*m.jp2"


def write_safe(folder: Path, tile: str = "T31UFS", seed: int = 0) -> None:
    """B02 at 10, 20 and 60 m, B05 at 20 and 60 m, B01 at 60 m: values 1000 (seed + 1) + metres, by rows."""
    lossless = {"driver": "JP2OpenJPEG", "quality": "100", "reversible": "YES"}
    for band, sizes in {"B02": (10, 20, 60), "B05": (20, 60), "B01": (60,), "SCL": (20, 60)}.items():
        for size in sizes:
            side = 240 // size
            values = (1000 * (seed + 1) + size + np.arange(side)[:, None].repeat(side, 1)).astype(np.uint16)
            if band == "SCL":
                values = np.where(np.arange(side) < side // 2, 4, 9)[None].repeat(side, 0).astype(np.uint8)
            name = f"R{size}m/{tile}_20200410T104031_{band}_{size}m.jp2"
            write(folder / SAFE.format(tile=tile) / name, values, size=size, **lossless)


def test_products_with_bands_in_pixels_of_several_sizes(tmp_path):
    write_safe(tmp_path)
    mask = {"files": "**/R20m/*_{date}T*_SCL_20m.jp2", "classes": [4, 5, 6]}
    source = {"files": SAFE_BANDS, "bands": ["B02", "B05", "B01"], "resolution": 20, "mask": mask}
    data = opened(tmp_path, {"s2": source}, tile=120, patch=60)
    values = data.scenes[0].layers["s2"].values(np.array([0]), (0, 0, 12, 12))[0]
    np.testing.assert_array_equal(values[0, :, 0], 1020 + np.arange(12))  # at 20 m, not the mean of 10 m
    np.testing.assert_array_equal(values[1, :, 0], 1020 + np.arange(12))
    np.testing.assert_array_equal(values[2, :, 0], 1060 + np.arange(4).repeat(3))
    assert [len(data[i].days.get("s2", ())) for i in range(4)] == [1, 0, 1, 0]  # the east is cloud
    notes = data.notes()
    told = "s2: B01 of 60 m, in 1 file(s), laid onto pixels of 20 m (resample: nearest, the value of the nearest pixel)"
    assert told in notes
    assert any("B02 B05 lie there in pixels of several sizes" in note for note in notes)
    fine = opened(tmp_path, {"s2": source | {"resolution": 10}}, tile=120, patch=60)
    values = fine.scenes[0].layers["s2"].values(np.array([0]), (1, 0, 2, 2))[0, :, :, 0]
    assert values.tolist() == [[1011, 1012], [1020, 1021], [1060, 1060]]
    assert fine.scenes[0].geo.transform == (1, 0, WEST, 0, -1, NORTH)


def test_two_products_of_one_date_and_place_stay_two(tmp_path):
    write_safe(tmp_path)
    write_safe(tmp_path, "T31UGS", seed=1)
    mask = {"files": "**/R20m/*_{date}T*_SCL_20m.jp2", "classes": [4]}
    source = {"files": SAFE_BANDS, "bands": ["B02", "B05"], "resolution": 20, "mask": mask}
    data = opened(tmp_path, {"s2": source}, tile=120, patch=60)
    assert data[0].days["s2"].tolist() == [100, 100]
    np.testing.assert_array_equal(data[0].values["s2"][:, :, 0, 0], [[1020, 1020], [2020, 2020]])
    of_scenes = source | {"files": SAFE_BANDS.replace("/*_{date}", "/{scene}_{date}")}
    with pytest.raises(ValueError, match=r"2 masks for 1 acquisitions of 2020-04-10, e.g. .*; one each is wanted"):
        opened(tmp_path, {"s2": of_scenes}, tile=120, patch=60)
    of_scenes["mask"] = mask | {"files": "**/R20m/{scene}_{date}T*_SCL_20m.jp2"}
    named = opened(tmp_path, {"s2": of_scenes}, tile=120, patch=60)
    np.testing.assert_array_equal(named[4].values["s2"][0, :, 0, 0], [2020, 2020])
    assert [scene.name for scene in named.scenes] == ["T31UFS", "T31UGS"]


def test_days_of_the_year_in_names_and_lists(tmp_path):
    for name in ("x.2020001.tif", "x.2021366.tif", "x.20200410.tif", "x.202004.tif", "x.2019365T10.tif"):
        (tmp_path / name).touch()
    found = {file.path.name: file.date for file in find_files(tmp_path, "x.{date}*tif")[tmp_path.name]}
    assert found["x.2020001.tif"] == "2020-01-01"
    assert found["x.2019365T10.tif"] == "2019-12-31"
    assert found["x.20200410.tif"] == "20200410"
    assert found["x.202004.tif"] == "202004"
    assert parse_dates(["2020366", "2021-001"])[0].astype(str).tolist() == ["2020-12-31", "2021-01-01"]
    with pytest.raises(ValueError, match="'2021366' is not a date"):
        parse_dates(["2021366"])


def test_a_band_beside_a_wildcard_is_a_whole_word(tmp_path):
    for name in ("a_B1_x.tif", "a_B10_x.tif", "a_B11.tif"):
        (tmp_path / name).touch()
    found = find_files(tmp_path, "a_{band}*.tif", ["B1", "B11"])[tmp_path.name]
    assert [(file.path.name, file.band) for file in found] == [("a_B11.tif", "B11"), ("a_B1_x.tif", "B1")]


def test_every_file_of_a_band_is_opened_once(tmp_path, monkeypatch):
    import rasterio

    write_safe(tmp_path)
    files: list[str] = []
    own = rasterio.open
    monkeypatch.setattr(rasterio, "open", lambda path, **more: files.append(str(path)) or own(path, **more))
    source = {"files": SAFE_BANDS, "bands": ["B02", "B05"], "resolution": 20}
    data = opened(tmp_path, {"s2": source}, tile=120, patch=60)
    _ = [data[i] for i in range(4)]
    assert sorted(Path(file).name[-11:] for file in files) == ["B02_20m.jp2", "B05_20m.jp2"]


# Pixels of other sizes.


def test_whole_stacks_are_resampled_where_the_description_says_how(tmp_path):
    for k, date in enumerate(("20200410", "20200510")):
        write(tmp_path / f"a_{date}.tif", image(k, side=8 // (k + 1)), size=10 * (k + 1))
    source = {"files": "{scene}_{date}.tif", "bands": ["B04", "B08"], "resolution": 10}
    with pytest.raises(
        ValueError, match=r"pixels are 20 x 20 m, the description says 10 m; correct .* or write resamp"
    ):
        opened(tmp_path, {"s2": source})
    data = opened(tmp_path, {"s2": source | {"resample": "nearest"}})
    np.testing.assert_array_equal(data[3].values["s2"][0], image(0)[:, 4:, 4:])
    np.testing.assert_array_equal(data[3].values["s2"][1], image(1, side=4)[:, 2:, 2:].repeat(2, 1).repeat(2, 2))
    coarse = opened(tmp_path, {"s2": source | {"resample": "average", "resolution": 20}}, patch=20)
    np.testing.assert_array_equal(
        coarse[0].values["s2"][0, 0], image(0)[0, :4, :4].reshape(2, 2, 2, 2).mean(axis=(1, 3))
    )
    assert coarse.scenes[0].geo.transform == (1, 0, WEST, 0, -1, NORTH)


@pytest.mark.parametrize(("size", "west", "said"), [(15, WEST, "pixels of 15 x 15"), (20, WEST - 17, "origin")])
def test_pixels_that_are_no_multiples_are_warped_or_refused(tmp_path, size, west, said):
    write_bands(tmp_path, "a_{date}_{band}.tif", ["20200410"])
    write(tmp_path / "a_20200410_B05.tif", np.full((12, 12), 7, np.uint16), size=size, west=west)
    source = SERIES | {"bands": ["B02", "B05"]}
    with pytest.raises(ValueError, match=rf"B05.tif: 's2' has {said}.*align: true") as error:
        opened(tmp_path, {"s2": source})
    assert "gdalwarp" in str(error.value)
    if size == 20:
        data = opened(tmp_path, {"s2": source}, align=True)
        np.testing.assert_array_equal(data[3].values["s2"][0, 0], image(0, 3)[0, 4:, 4:])
        np.testing.assert_array_equal(data[3].values["s2"][0, 1], np.full((4, 4), 7))


def test_sizes_of_pixels_in_degrees_are_compared_with_each_other(tmp_path):
    place = {"crs": "EPSG:4326", "west": 5.0, "north": 50.0}
    write(tmp_path / "a_20200410_B05.tif", image(0, 1, 4), size=2e-4, **place)
    write(tmp_path / "a_20200410_B02.tif", image(1, 1), size=1e-4, **place)
    data = opened(tmp_path, {"s2": SERIES | {"bands": ["B05", "B02"]}})
    np.testing.assert_array_equal(data[0].values["s2"][0, 1], image(1, 1)[0, :4, :4])
    np.testing.assert_array_equal(data[0].values["s2"][0, 0], image(0, 1, 4)[0, :2, :2].repeat(2, 0).repeat(2, 1))
    assert data.scenes[0].tiles.grid.pixel_width == pytest.approx(1e-4)
