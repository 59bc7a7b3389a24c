"""Labels beside the images: vector files, tables of points and maps of codes."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
from shapely.geometry import box

from fusion.data.describe import describe

from .describing import comment, described, questions, values
from .rasters import CRS, DATES, NORTH, WEST, image, write
from .test_describe_rasters import SIDE, named


@pytest.fixture
def folder(tmp_path):
    for k, date in enumerate(DATES):
        named(write(tmp_path / f"{date}.tif", image(k, 2, SIDE)), ["B04", "B08"])
    return tmp_path


def fields(folder, name="fields.gpkg", **columns):
    halves = [box(WEST, NORTH - 240, WEST + 120, NORTH), box(WEST + 120, NORTH - 240, WEST + 240, NORTH)]
    table = {"geometry": [*halves, halves[0]]} | columns
    geopandas.GeoDataFrame(table, crs=CRS).to_file(folder / name)


def test_the_field_of_a_vector_file_that_names_classes_is_the_label(folder):
    fields(folder, fid_1=[1, 2, 3], parcel_id=["a", "b", "c"], crop=["maize", "wheat", "maize"])
    guess, data = described(folder)
    assert guess.description["labels"] == {"vector": "fields.gpkg", "field": "crop"}
    assert "2 classes: maize, wheat" in comment(guess, "labels", "field")
    assert data.classes == ("maize", "wheat")
    np.testing.assert_array_equal(np.unique(data[0].label), [0, 1])
    np.testing.assert_array_equal(values(data, "s2")[0], image(0, 2, SIDE))


def test_fractions_of_a_vector_file_are_a_quantity(folder):
    fields(folder, "yield.geojson", biomass=[1.25, 2.5, 1.25])
    guess, data = described(folder)
    assert guess.description["labels"] == {"vector": "yield.geojson", "field": "biomass", "kind": "quantity"}
    assert comment(guess, "labels", "kind") == "numbers with fractions"
    assert data.task == "regression"


def test_several_fields_that_could_be_meant_are_asked_for(folder):
    fields(folder, crop=["maize", "wheat", "maize"], soil_type=["a", "b", "a"])
    guess = describe(folder)
    assert "labels" not in guess.description
    assert "which field of fields.gpkg is the label? It could be crop, soil_type; describe labels" in questions(guess)
    assert not guess.open_questions


def test_points_of_a_table_are_labels_and_their_crs_is_asked_for(folder):
    (folder / "points.csv").write_text(f"x,y,class\n{WEST + 5},{NORTH - 5},oak\n{WEST + 205},{NORTH - 5},beech\n")
    guess = describe(folder)
    assert guess.description["labels"] == {"table": "points.csv", "field": "class"}
    assert "the CRS of x and y in points.csv? Write it as crs, e.g. EPSG:32631" in questions(guess)


def test_points_in_degrees_are_read(folder):
    (folder / "points.csv").write_text("lon,lat,class\n3.0001,50.5514,oak\n3.0020,50.5510,beech\n")
    guess, data = described(folder)
    assert guess.description["labels"] == {"table": "points.csv", "field": "class"}
    assert data.classes == ("beech", "oak")


def test_a_table_without_coordinates_is_no_label(folder):
    (folder / "log.csv").write_text("name,size\na,1\nb,2\n")
    guess = describe(folder)
    assert "labels" not in guess.description
    assert not guess.questions


def test_a_raster_of_codes_called_labels_is_the_map(folder):
    codes = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 2 + 1).astype(np.uint8)
    write(folder / "labels.tif", codes)
    guess, data = described(folder)
    assert guess.description["labels"] == {
        "files": "labels.tif", "resolution": 10, "reduction": "none", "classes": {"class 1": 1, "class 2": 2},
    }  # fmt: skip
    assert comment(guess, "labels", "classes") == "the codes in 1 of 1 files; give them names"
    np.testing.assert_array_equal(data[0].label, codes - 1)
    assert [m.name for m in data.modalities] == ["s2"]


def test_a_folder_of_maps_goes_with_the_scenes_of_the_images(tmp_path):
    for scene, north in (("a", NORTH), ("b", NORTH - 5000)):
        for k, date in enumerate(DATES):
            named(write(tmp_path / "images" / f"{scene}_{date}.tif", image(k, 2, SIDE), north=north), ["B04", "B08"])
        codes = np.full((SIDE, SIDE), 1 if scene == "a" else 2, np.uint8)
        write(tmp_path / "labels" / f"{scene}.tif", codes, north=north, nodata=0)
    guess, data = described(tmp_path)
    assert guess.description["labels"]["files"] == "labels/{scene}.tif"
    assert data.classes == ("class 1", "class 2")  # the codes of all files, though each has one
    assert [int(np.unique(data[k].label).item()) for k in range(2)] == [0, 1]


def test_a_raster_called_like_a_quantity_is_what_is_to_be_predicted(folder):
    write(folder / "biomass.tif", np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE) / 4)
    guess, data = described(folder)
    assert guess.description["labels"] == {"files": "biomass.tif", "reduction": "none"}
    assert "a quantity to be predicted by its name" in comment(guess, "labels", "files")
    assert data.task == "regression"
    assert float(data[0].label[2, 3]) == (2 * SIDE + 3) / 4


def test_a_raster_of_many_numbers_is_asked_about(folder):
    write(folder / "labels.tif", np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16))
    guess = describe(folder)
    assert "labels" not in guess.description
    assert "what are the 576 different numbers of labels.tif?" in questions(guess)
