"""GeoTIFFs of any names: a file a date with all bands."""

from __future__ import annotations

import re

import numpy as np
import pytest
import rasterio

from fusion.data.describe import NotNeededError, describe

from .describing import comment, described, questions, values
from .rasters import DATES, DAYS, image, write

SIDE = 24  # pixels of 10 m: one tile of 240 m
BANDS = ["B02", "B03", "B04", "B08"]


def named(path, bands):
    with rasterio.open(path, "r+") as file:
        for number, band in enumerate(bands, 1):
            file.set_band_description(number, band)


def write_stacks(folder, scenes=("north", "south"), bands=BANDS, **options):
    for s, scene in enumerate(scenes):
        for k, date in enumerate(DATES):
            path = write(folder / f"{scene}_{date}.tif", image(k, len(bands) or 4, SIDE) + s, **options)
            named(path, bands)


def test_stacks_a_date_are_read_with_the_bands_of_their_descriptions(tmp_path):
    write_stacks(tmp_path)
    guess, data = described(tmp_path)
    assert guess.description["modalities"]["s2"]["files"] == "{scene}_{date}.tif"
    assert [m.bands for m in data.modalities] == [tuple(BANDS)]
    assert len(data) == 2
    assert data.grid == (6, 6)
    np.testing.assert_array_equal(values(data, "s2", 1), np.stack([image(k, 4, SIDE) + 1 for k in range(3)]))
    assert data[0].days["s2"].tolist() == DAYS
    assert not guess.questions
    assert comment(guess, "modalities", "s2", "bands") == "from the descriptions in the files"
    assert "2 scenes such as north, 3 dates 2020-04-10..2020-06-10" in comment(guess, "modalities", "s2", "files")
    assert comment(guess, "modalities", "s2", "unit").startswith("from values 1")
    assert data.modalities[0].unit == "reflectance x 10000"


def test_bands_without_names_are_numbered_and_asked_for(tmp_path):
    write_stacks(tmp_path, bands=[])
    guess, data = described(tmp_path)
    assert data.modalities[0].bands == ("B1", "B2", "B3", "B4")
    assert guess.open_questions == [
        "the names of the 4 bands of north_2020-04-10.tif and its like, in the order of the file? The files do not say "
        "them; replace B1, B2, ... in bands"
    ]
    assert comment(guess, "modalities", "image", "bands").startswith("numbered")
    np.testing.assert_array_equal(values(data, "image"), np.stack([image(k, 4, SIDE) for k in range(3)]))


def test_files_that_order_their_bands_otherwise_are_asked_about(tmp_path):
    write_stacks(tmp_path)
    named(tmp_path / "south_2020-06-10.tif", BANDS[::-1])
    guess = describe(tmp_path)
    assert "Some files say B02, B03, B04, B08, others B08, B04, B03, B02" in questions(guess)
    assert guess.open_questions


def test_a_classification_among_the_bands_is_the_mask(tmp_path):
    write_stacks(tmp_path, bands=["B04", "B08", "SCL"])
    for path in tmp_path.glob("*.tif"):
        with rasterio.open(path, "r+") as file:
            file.write(np.full((SIDE, SIDE), 4 if "05-10" not in path.name else 9, np.uint16), 3)
    guess, data = described(tmp_path)
    assert guess.description["modalities"]["s2"]["mask"] == {"band": "SCL", "classes": [4, 5, 6, 7]}
    assert data.modalities[0].bands == ("B04", "B08")
    assert data[0].days["s2"].tolist() == [DAYS[0], DAYS[2]]  # 9 is cloud
    assert "by the name SCL" in comment(guess, "modalities", "s2", "mask")


def test_zeros_in_every_band_are_guessed_to_be_nodata(tmp_path):
    write_stacks(tmp_path)
    with rasterio.open(tmp_path / "north_2020-04-10.tif", "r+") as file:
        values_ = file.read()
        values_[:, :6] = 0
        file.write(values_)
    guess, data = described(tmp_path)
    assert guess.description["modalities"]["s2"]["nodata"] == 0
    assert "not declared" in comment(guess, "modalities", "s2", "nodata")
    rest = image(0, 4, SIDE)[:, 6:]
    np.testing.assert_array_equal(values(data, "s2")[0][:, 6:], rest)
    np.testing.assert_allclose(values(data, "s2")[0][:, 0, 0], rest.mean(axis=(1, 2)), rtol=1e-5)


def test_sensors_in_folders_of_their_own_are_modalities(tmp_path):
    for k, date in enumerate(DATES):
        for scene in ("a", "b"):
            named(write(tmp_path / "s2" / f"{scene}_{date}.tif", image(k, 2, SIDE)), ["B04", "B08"])
            named(write(tmp_path / "s1" / f"{scene}_{date}.tif", image(k, 2, SIDE) / np.float32(-100)), ["VV", "VH"])
    for scene in ("a", "b"):
        write(tmp_path / "dem" / f"{scene}.tif", image(0, 1, SIDE).astype(np.float32) / 10)
    guess, data = described(tmp_path)
    assert [m.name for m in data.modalities] == ["s2", "s1", "dem"]
    assert [m.unit for m in data.modalities] == ["reflectance x 10000", "dB", "m"]
    np.testing.assert_array_equal(values(data, "s1")[2], image(2, 2, SIDE) / np.float32(-100))
    np.testing.assert_array_equal(values(data, "dem"), image(0, 1, SIDE).astype(np.float32) / 10)
    assert not guess.questions


def test_sensors_told_by_the_beginning_of_names_are_modalities(tmp_path):
    for k, date in enumerate(DATES):
        named(write(tmp_path / f"S2_site_{date}.tif", image(k, 2, SIDE)), ["B04", "B08"])
        named(write(tmp_path / f"S1_site_{date}.tif", image(k, 2, SIDE) / np.float32(-100)), ["VV", "VH"])
    _, data = described(tmp_path)
    assert [m.name for m in data.modalities] == ["s2", "s1"]
    np.testing.assert_array_equal(values(data, "s2"), np.stack([image(k, 2, SIDE) for k in range(3)]))


def test_dates_whose_corners_differ_are_aligned(tmp_path):
    for k, date in enumerate(DATES):
        named(write(tmp_path / f"{date}.tif", image(k, 2, 40), west=500000.0 + 30 * k), ["B04", "B08"])
    guess, data = described(tmp_path)
    assert guess.description["align"] is True
    assert "corners or sizes differ" in comment(guess, "align")
    np.testing.assert_array_equal(values(data, "s2")[0], image(0, 2, 40)[:, :24, :24])
    np.testing.assert_allclose(values(data, "s2")[1][:, :, 3:], image(1, 2, 40)[:, :24, :21], rtol=1e-6)


def test_a_fourth_band_that_a_file_calls_transparency_is_asked_about(tmp_path):
    write(tmp_path / "ortho.tif", (image(0, 4, SIDE) % 251).astype(np.uint8))  # GDAL's default for four bands of 8 bit
    (asked,) = describe(tmp_path).open_questions
    assert asked.startswith("is band 4 of ortho.tif and its like transparency, as the file says, or near infrared")


def test_pixels_in_degrees_have_nominal_metres(tmp_path):
    place = rasterio.transform.from_origin(5, 50, 0.0000898315, 0.0000898315)
    named(write(tmp_path / "a_20200410.tif", image(0, 2, SIDE), crs="EPSG:4326", transform=place), ["B04", "B08"])
    guess, data = described(tmp_path)
    assert comment(guess, "modalities", "s2", "resolution") == "nominal, of pixels of 8.98315e-05 degrees"
    np.testing.assert_array_equal(values(data, "s2")[0], image(0, 2, SIDE))


def test_tiles_are_no_larger_than_the_ground(tmp_path):
    named(write(tmp_path / "a_20200410.tif", image(0, 2, 10)), ["B04", "B08"])
    guess, data = described(tmp_path)
    assert (guess.description["tile"], guess.description["patch"]) == (80, 40)
    assert "2 x 2 patches of the 100 x 100 m that there are" in comment(guess, "tile")
    assert len(data) == 1


def test_tiles_are_small_where_few_large_ones_lie_on_the_ground(tmp_path):
    """640 m: 8 x 8 tiles of 80 m; 2 x 2 of 240 m would be too few to deal among splits."""
    named(write(tmp_path / "a_20200410.tif", image(0, 2, 64)), ["B04", "B08"])
    guess, data = described(tmp_path)
    assert (guess.description["tile"], guess.description["patch"]) == (80, 20)
    assert "4 x 4 patches of the 640 x 640 m that there are" in comment(guess, "tile")
    assert len(data) == 64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, b"", "an empty folder (0 files)"),
        (
            "S2A.zip",
            b"PK",
            "none of 1 files is an image or array (1 .zip); GeoTIFF, .jp2, .vrt, NetCDF, Zarr, HDF5, .npz "
            "and .npy are read; unpack archives first",
        ),
        ("notes.docx", b"x", "none of 1 files is an image or array (1 .docx); GeoTIFF"),
        ("a_20200410.tif", b"II*\0garbage", "a_20200410.tif: cannot be read, the file is damaged or incomplete"),
    ],
)
def test_what_cannot_be_described_is_told_with_paths_and_numbers(tmp_path, name, content, message):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        describe(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_images_that_a_pattern_mixes_with_others_are_refused_with_the_way_out(tmp_path):
    for scene in ("a", "b", "c"):
        write(tmp_path / f"{scene}.tif", image(0, 2, SIDE))
    write(tmp_path / "labels.tif", np.ones((SIDE, SIDE), np.uint8))
    with pytest.raises(ValueError, match=r"it takes labels.tif, too. Put files of one kind into a folder of their own"):
        describe(tmp_path)


def test_one_file_of_a_series_is_described_with_the_rest(tmp_path):
    write_stacks(tmp_path, scenes=["a"])
    guess, data = described(tmp_path / "a_2020-04-10.tif")
    assert comment(guess, "modalities", "s2", "files") == "1 file, 2020-04-10; takes 2 more, e.g. a_2020-05-10.tif"
    assert data[0].days["s2"].tolist() == DAYS


def test_a_yaml_needs_no_description(tmp_path):
    with pytest.raises(NotNeededError, match=r"mine.yaml is a description already"):
        describe(tmp_path / "mine.yaml")


def test_names_that_repeat_a_scene_and_date_are_refused(tmp_path):
    for k in range(2):
        write(tmp_path / f"a_20200410T{k}00000_x.tif", image(k, 2, SIDE))
    with pytest.raises(ValueError, match="several files have the same scene, date and band"):
        describe(tmp_path)


def test_files_of_other_bands_in_one_folder_are_told(tmp_path):
    write_stacks(tmp_path, bands=[])
    write(tmp_path / "south_2020-06-10.tif", image(0, 3, SIDE))
    with pytest.raises(ValueError, match=r"south_2020-06-10.tif: 3 bands where others of .* have 4"):
        describe(tmp_path)


def test_six_digits_that_vary_in_every_name_are_months(tmp_path):
    for k, month in enumerate(("202008", "202009", "202010")):
        named(write(tmp_path / f"S2_{month}.tif", image(k, 4, SIDE)), BANDS)
    guess, data = described(tmp_path)
    assert guess.description["modalities"]["s2"]["files"] == "S2_{date}.tif"
    assert len(data) == 1
    assert data[0].days["s2"].tolist() == [227, 258, 288]  # the 15th of August, September and October
    np.testing.assert_array_equal(values(data, "s2"), np.stack([image(k, 4, SIDE) for k in range(3)]))


def test_six_digits_beside_a_date_or_alike_in_every_name_are_no_months(tmp_path):
    for k, date in enumerate(DATES):
        named(write(tmp_path / "dated" / f"L_{199001 + k}_{date}.tif", image(k, 4, SIDE)), BANDS)
        named(write(tmp_path / "alike" / f"L_199001_{'abc'[k]}.tif", image(k, 4, SIDE)), BANDS)
    assert described(tmp_path / "dated")[0].description["files"] == "L_{scene}_{date}.tif"
    assert described(tmp_path / "alike")[0].description["files"] == "L_199001_{scene}.tif"


def test_a_layer_without_dates_is_asked_whether_it_is_the_target(tmp_path):
    for k, date in enumerate(DATES):
        named(write(tmp_path / "s2" / f"north_{date}.tif", image(k, 4, SIDE)), BANDS)
    write(tmp_path / "wet" / "north_wet.tif", image(7, 1, SIDE).astype(np.float32) / 50)
    guess, _ = described(tmp_path)
    (asked,) = [question.text for question in guess.questions if "predicted" in question.text]
    assert asked.startswith("is wet in wet/north_wet.tif an image, as is written here, or what is to be predicted?")
    assert "write labels: {files: wet/north_wet.tif, reduction: none}" in asked


def test_terrain_is_not_taken_for_a_target(tmp_path):
    for k, date in enumerate(DATES):
        named(write(tmp_path / "s2" / f"north_{date}.tif", image(k, 4, SIDE)), BANDS)
    write(tmp_path / "dem" / "north_dem.tif", image(7, 1, SIDE).astype(np.float32) / 50)
    assert not any("predicted" in question.text for question in described(tmp_path)[0].questions)
