"""Labels from vector files and tables of points, pixel by pixel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from rasterio.warp import transform as to_crs
from shapely.geometry import LineString, MultiPoint, MultiPolygon, Point, Polygon, box
from shapely.ops import transform as of_geometry

from fusion.data import FolderDataset
from fusion.data.check import check

from .rasters import CRS, NORTH, SERIES, WEST, opened, write_series

FIELD = {"field": "crop"}


def ground(left: float, top: float, right: float, bottom: float) -> Polygon:
    """A rectangle in pixels of 10 m, columns and rows from the upper left corner of the image."""
    return box(WEST + 10 * left, NORTH - 10 * bottom, WEST + 10 * right, NORTH - 10 * top)


def at(column: float, row: float) -> Point:
    return Point(WEST + 10 * column, NORTH - 10 * row)


def vectors(path: Path, shapes: list[Any], values: list[Any] | None, crs: str | None = CRS, **options: Any) -> Path:
    table = {} if values is None else {"crop": values}
    geopandas.GeoDataFrame(table, geometry=shapes, crs=crs).to_file(path, **options)
    return path


def labelled(folder: Path, labels: dict[str, Any], **changes: Any) -> FolderDataset:
    if not (folder / "s2").exists():
        write_series(folder)
    given = {"vector": "labels.gpkg"} if "table" not in labels and "vector" not in labels else {}
    return opened(folder, {"s2": SERIES}, labels=given | FIELD | labels, **changes)


def whole(data: FolderDataset, fill: float = -1, side: int = 8) -> np.ndarray:
    """(side, side) the labels of the image, tile by tile where they were read."""
    found = np.full((side, side), fill, dtype=float)
    for name, label in zip(data.names, data.labels().numpy(), strict=True):
        top, left = (int(part[1:]) // 10 for part in name.split("_")[1:])
        found[top : top + 4, left : left + 4] = label
    return found


def pixels(*parts: tuple[int, int, int, int, float], fill: float = -1, side: int = 8) -> np.ndarray:
    """(side, side) of left, top, right, bottom, value."""
    found = np.full((side, side), fill, dtype=float)
    for left, top, right, bottom, value in parts:
        found[top:bottom, left:right] = value
    return found


TWO = [ground(1, 1, 3, 6), MultiPolygon([ground(4.4, 0, 8, 1.4), ground(6, 6, 7.6, 8)])]
# The centre of pixel 4 lies at 4.5, inside of 4.4; that of row 1 at 1.5, outside of 1.4; of column 7 at 7.5, inside.
DRAWN = pixels((1, 1, 3, 6, 1), (4, 0, 8, 1, 0), (6, 6, 8, 8, 0))
TOUCHED = pixels((1, 1, 3, 6, 1), (4, 0, 8, 2, 0), (6, 6, 8, 8, 0))


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet"])
def test_polygons_label_the_pixels_whose_centre_they_hold(tmp_path, suffix):
    frame = geopandas.GeoDataFrame({"crop": ["wheat", "maize"]}, geometry=TWO, crs=CRS)
    path = tmp_path / f"labels{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path, driver="GeoJSON" if "json" in suffix else None)
    data = labelled(tmp_path, {"vector": path.name})
    assert (data.task, data.classes, data.dense, data.ignore_index) == ("multiclass", ("maize", "wheat"), True, -1)
    assert data.labels().dtype.is_floating_point is False
    np.testing.assert_array_equal(whole(data), DRAWN)


def test_all_touched_labels_every_pixel_that_a_polygon_touches(tmp_path):
    inset = [shape.buffer(-0.01, join_style="mitre") for shape in TWO]  # edges on a border of pixels touch both sides
    vectors(tmp_path / "labels.gpkg", inset, ["wheat", "maize"])
    np.testing.assert_array_equal(whole(labelled(tmp_path, {"all_touched": True})), TOUCHED)


def in_degrees(shape: Any) -> Any:
    return of_geometry(lambda x, y: tuple(np.array(v) for v in to_crs(CRS, "EPSG:4326", list(x), list(y))), shape)


def test_degrees_are_reprojected_into_the_zone_of_the_tiles(tmp_path):
    vectors(tmp_path / "labels.gpkg", [in_degrees(shape) for shape in TWO], ["wheat", "maize"], "EPSG:4326")
    np.testing.assert_array_equal(whole(labelled(tmp_path, {})), DRAWN)


def test_points_label_the_pixel_that_they_fall_into(tmp_path):
    shapes = [at(0.1, 0.1), at(2.9, 3.99), MultiPoint([at(7.5, 7.01), at(5, 6)])]
    vectors(tmp_path / "labels.gpkg", shapes, [5, 7, 5])
    data = labelled(tmp_path, {})
    assert data.classes == ("5", "7")
    assert whole(data).tolist() == pixels(
        (0, 0, 1, 1, 0), (2, 3, 3, 4, 1), (7, 7, 8, 8, 0), (5, 6, 6, 7, 0)
    ).tolist()  # fmt: skip
    assert data.names == ["a_r0000_c0000", "a_r0040_c0040"]  # of the four tiles those with a label


def points(folder: Path, head: str, degrees: bool = True, name: str = "points.csv", by: str = ",") -> None:
    lines = [head.replace(",", by)]
    for column, row, crop in ((0.5, 0.5, "wheat"), (6.2, 1.8, "maize"), (3.5, 7.5, "wheat")):
        place = at(column, row)
        x, y = (v[0] for v in to_crs(CRS, "EPSG:4326", [place.x], [place.y])) if degrees else (place.x, place.y)
        lines.append(by.join([f"{x:.9f}", f"{y:.9f}", crop]))
    (folder / name).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("head", "degrees", "more"),
    [
        ("lon,lat,crop", True, {}),
        ("Longitude,Latitude,crop", True, {}),
        ("x,y,crop", False, {"crs": CRS}),
        ("x,y,crop", True, {"crs": 4326}),
        ("east,north,crop", False, {"x": "east", "y": "north", "crs": CRS}),
        ("lon,lat,crop", True, {"x": "lon", "y": "lat"}),
    ],
)
def test_a_table_labels_the_pixels_of_its_points(tmp_path, head, degrees, more):
    points(tmp_path, head, degrees)
    data = labelled(tmp_path, {"table": "points.csv"} | more)
    assert data.classes == ("maize", "wheat")
    np.testing.assert_array_equal(whole(data), pixels((0, 0, 1, 1, 1), (6, 1, 7, 2, 0), (3, 7, 4, 8, 1)))


@pytest.mark.parametrize(("name", "by"), [("points.csv", ";"), ("points.tsv", "\t"), ("points.parquet", ",")])
def test_tables_of_other_kinds_are_read(tmp_path, name, by):
    points(tmp_path, "lon,lat,crop", by=by, name=name.replace("parquet", "csv"))
    if name.endswith("parquet"):
        import pandas as pd

        pd.read_csv(tmp_path / "points.csv").to_parquet(tmp_path / name)
    data = labelled(tmp_path, {"table": name})
    np.testing.assert_array_equal(whole(data), pixels((0, 0, 1, 1, 1), (6, 1, 7, 2, 0), (3, 7, 4, 8, 1)))


def test_classes_come_in_the_order_given_and_by_their_values(tmp_path):
    vectors(tmp_path / "labels.gpkg", [*TWO, ground(0, 7, 2, 8)], ["wheat", "maize", "rye"])
    data = labelled(tmp_path, {"classes": ["wheat", "rye", "oat", "maize"]})
    assert data.classes == ("wheat", "rye", "oat", "maize")
    expected = pixels((1, 1, 3, 6, 0), (4, 0, 8, 1, 3), (6, 6, 8, 8, 3), (0, 7, 2, 8, 1))
    np.testing.assert_array_equal(whole(data), expected)
    data = labelled(tmp_path, {"classes": {"cereals": ["wheat", "rye"]}})
    np.testing.assert_array_equal(whole(data), pixels((1, 1, 3, 6, 0), (0, 7, 2, 8, 0)))
    assert any(
        "1 of 3 features of labels.gpkg have a crop that classes do not list, e.g. maize" in n for n in data.notes()
    )
    with pytest.raises(ValueError, match="field 'crop' has maize, rye, not among classes wheat, oat"):
        labelled(tmp_path, {"classes": ["wheat", "oat"]})


def test_whole_numbers_are_classes_and_fractions_a_quantity(tmp_path):
    vectors(tmp_path / "labels.gpkg", TWO, [20.0, 3.0])
    assert labelled(tmp_path, {}).classes == ("3", "20")
    np.testing.assert_array_equal(whole(labelled(tmp_path, {"nodata": 3})), pixels((1, 1, 3, 6, 0)))
    vectors(tmp_path / "labels.gpkg", TWO, [2.5, 0.25])
    with pytest.raises(ValueError, match=r"field 'crop' holds fractions, e.g. 2.5, which are no classes; say kind"):
        labelled(tmp_path, {})
    data = labelled(tmp_path, {"kind": "quantity"})
    assert (data.task, data.classes) == ("regression", ("crop",))
    expected = pixels((1, 1, 3, 6, 2.5), (4, 0, 8, 1, 0.25), (6, 6, 8, 8, 0.25), fill=np.nan)
    np.testing.assert_array_equal(whole(data, np.nan), expected)


def test_labels_of_tiles_are_reduced_as_those_of_maps(tmp_path):
    vectors(tmp_path / "labels.gpkg", TWO, ["wheat", "maize"])
    data = labelled(tmp_path, {"reduction": "majority"})
    assert dict(zip(data.names, data.labels().tolist(), strict=True)) == {
        "a_r0000_c0000": 1, "a_r0000_c0040": 0, "a_r0040_c0000": 1, "a_r0040_c0040": 0,
    }  # fmt: skip
    assert labelled(tmp_path, {"reduction": "majority", "min_labelled": 0.25}).names == [
        "a_r0000_c0000", "a_r0000_c0040", "a_r0040_c0000", "a_r0040_c0040",
    ]  # fmt: skip
    assert labelled(tmp_path, {"reduction": "majority", "min_labelled": 0.3}).names == ["a_r0000_c0000"]
    vectors(tmp_path / "labels.gpkg", TWO, [2.0, 4.0])
    assert labelled(tmp_path, {"reduction": "mean"}).labels()[:, 0].tolist() == [2, 4, 2, 4]


def test_labels_may_have_other_pixels_than_the_images(tmp_path):
    vectors(tmp_path / "labels.gpkg", [ground(0, 0, 0.5, 1)], ["wheat"])
    data = labelled(tmp_path, {"resolution": 5})
    assert data.label_shape == (8, 8)
    assert data.labels()[0].ge(0).nonzero().tolist() == [[0, 0], [1, 0]]


def test_pixels_where_polygons_disagree_have_no_label_and_are_counted(tmp_path):
    shapes = [ground(0, 0, 4, 4), ground(2, 2, 6, 6), ground(3, 0, 5, 1)]
    vectors(tmp_path / "labels.gpkg", shapes, ["wheat", "maize", "wheat"])
    data = labelled(tmp_path, {}, stride=20)  # each pixel is counted once, in whatever number of tiles it is
    expected = pixels((0, 0, 4, 4, 1), (2, 2, 6, 6, 0), (2, 2, 4, 4, -1), (3, 0, 5, 1, 1))
    np.testing.assert_array_equal(whole(data), expected)
    assert any(n.startswith("labels: 4 pixels, 0.14 of those that features of labels.gpkg cover") for n in data.notes())


def test_what_labels_nothing_is_counted(tmp_path):
    shapes = [ground(0, 0, 4, 4), ground(100, 0, 104, 4), ground(8, 0, 9, 1), ground(5.6, 5.6, 5.9, 5.9)]
    vectors(tmp_path / "labels.gpkg", [*shapes, ground(5, 0, 6, 2)], ["wheat", "maize", "maize", "rye", None])
    notes = "\n".join(labelled(tmp_path, {}).notes())
    assert "labels: 1 of 5 features of labels.gpkg have no crop and are left out" in notes
    assert "labels: 2 of 4 features of labels.gpkg lie outside the images" in notes  # one beside the image's border
    assert "labels: 1 of 2 features of labels.gpkg inside the images label no pixel of 10 m" in notes
    assert "labels: 2 of 3 classes have a single feature, rye, wheat" in notes
    assert "! labels: 2 of 4 features of labels.gpkg lie outside" in str(check(labelled(tmp_path, {})))


def test_invalid_polygons_are_mended_and_counted(tmp_path):
    tie = Polygon([(WEST, NORTH), (WEST + 40, NORTH - 40), (WEST + 40, NORTH), (WEST, NORTH - 40)])  # crosses itself
    vectors(tmp_path / "labels.gpkg", [tie, ground(4, 4, 8, 8)], ["wheat", "maize"])
    data = labelled(tmp_path, {})
    assert whole(data)[:4, 0].tolist() == [1, 1, 1, 1]  # both triangles, which meet in the middle
    assert whole(data)[1, 3] == 1
    assert whole(data)[0, 1] == whole(data)[3, 1] == -1
    assert any("1 of 2 features of labels.gpkg had an invalid geometry" in note for note in data.notes())


def test_labels_of_all_features_outside_are_refused_with_both_extents(tmp_path):
    vectors(tmp_path / "labels.gpkg", [box(10, 50, 11, 51)], ["wheat"], "EPSG:4326")
    with pytest.raises(ValueError, match=r"all 1 features lie outside") as error:
        labelled(tmp_path, {})
    assert "within (10, 50, 11, 51) in EPSG:4326" in str(error.value)
    assert "the images within (500000, 5599920, 500080, 5600000) in EPSG:32631" in str(error.value)


def test_labels_of_no_pixel_are_refused(tmp_path):
    vectors(tmp_path / "labels.gpkg", [ground(0.6, 0.6, 0.9, 0.9)], ["wheat"])
    with pytest.raises(ValueError, match=r"none of 4 tiles has a label: 1 features meet the images and label 0 pixels"):
        labelled(tmp_path, {})
    assert (whole(labelled(tmp_path, {"all_touched": True})) == pixels((0, 0, 1, 1, 0))).all()
    with pytest.raises(ValueError, match=r"none has 50% labelled pixels"):
        labelled(tmp_path, {"all_touched": True, "min_labelled": 0.5})


def test_a_layer_is_named_where_there_are_several(tmp_path):
    vectors(tmp_path / "labels.gpkg", [TWO[1]], ["maize"], layer="fields")
    vectors(tmp_path / "labels.gpkg", [TWO[0]], ["wheat"], layer="plots", mode="a")
    with pytest.raises(ValueError, match="has 2 layers, fields, plots; say which as layer: fields"):
        labelled(tmp_path, {})
    with pytest.raises(ValueError, match="no layer 'trees'; it has fields, plots"):
        labelled(tmp_path, {"layer": "trees"})
    assert labelled(tmp_path, {"layer": "plots"}).classes == ("wheat",)


def test_files_that_cannot_be_used_say_why(tmp_path):
    file = tmp_path / "labels.gpkg"
    with pytest.raises(ValueError, match=r"labels.gpkg: no such file of labels"):
        labelled(tmp_path, {})
    vectors(file, TWO, ["a", "b"])
    with pytest.raises(ValueError, match=r"no field 'kind'; it has crop"):
        labelled(tmp_path, {"field": "kind"})
    vectors(file, TWO, ["a", "b"], None)
    with pytest.raises(ValueError, match=r"does not say its CRS; give it, e.g. crs: EPSG:4326"):
        labelled(tmp_path, {})
    np.testing.assert_array_equal(whole(labelled(tmp_path, {"crs": CRS})) >= 0, DRAWN >= 0)
    vectors(file, TWO, ["a", "b"])
    with pytest.raises(ValueError, match=r"says its CRS is EPSG:32631, the description EPSG:4326"):
        labelled(tmp_path, {"crs": "EPSG:4326"})
    with pytest.raises(ValueError, match="crs: EPSG:xy is no coordinate reference system"):
        labelled(tmp_path, {"crs": "EPSG:xy"})
    vectors(file, [TWO[0], LineString([(WEST, NORTH), (WEST + 9, NORTH)])], ["a", "b"])
    with pytest.raises(ValueError, match=r"1 LineString of 2 features; labels are points and polygons"):
        labelled(tmp_path, {})
    vectors(file, [None, Polygon()], ["a", "b"])
    with pytest.raises(ValueError, match="no feature has a geometry"):
        labelled(tmp_path, {})
    vectors(file, TWO, [None, None])
    with pytest.raises(ValueError, match="field 'crop' has no value in any feature"):
        labelled(tmp_path, {})
    vectors(file, [], [])
    with pytest.raises(ValueError, match=r"labels.gpkg: holds no feature"):
        labelled(tmp_path, {})
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"labels.gpkg: cannot be read, the file is damaged or incomplete"):
        labelled(tmp_path, {})
    with pytest.raises(ValueError, match=r"labels are read from .gpkg, .*, not '.kml'"):
        labelled(tmp_path, {"vector": "labels.kml"})


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("x,y,crop\n1,2,a\n", {}, "the CRS of columns x and y is not known; give it"),
        ("lon,lat,x,y,crop\n1,2,3,4,a\n", {}, "has columns x/y and lon/lat; say which"),
        ("east,north,crop\n1,2,a\n", {}, "has columns east, north, crop; say which"),
        ("lon,lat,crop\n1,2,a\n", {"x": "lon", "y": "north"}, "no column for y, 'north'; it has lon, lat, crop"),
        ("lon,lat,kind\n1,2,a\n", {}, "no field 'crop'; it has lon, lat, kind"),
        ("lon,lat,crop\n1,2,a\nw,2,b\n", {}, "column lon holds 1 values that are no number, e.g. w"),
        ("lon,lat,crop\n50,100,a\n", {}, "lat reaches 100, beyond 90 degrees; are x and y swapped"),
        ("lon,lat,crop\n", {}, "holds no row"),
        ("", {}, "points.csv: "),
    ],
)
def test_tables_that_cannot_be_used_say_why(tmp_path, text, more, message):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        labelled(tmp_path, {"table": "points.csv"} | more)


def test_rows_without_coordinates_are_left_out_and_counted(tmp_path):
    points(tmp_path, "lon,lat,crop")
    with (tmp_path / "points.csv").open("a") as file:
        file.write(",,wheat\n")
    assert any(
        "1 of 4 features of points.csv have no geometry" in n
        for n in labelled(tmp_path, {"table": "points.csv"}).notes()
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"kind": "class"}, "labels: kind is classes or quantity, not 'class'"),
        ({"kind": "quantity", "classes": ["a"]}, "a quantity has no classes"),
        ({"reduction": "majority", "kind": "quantity"}, "a quantity has no reduction: majority"),
        ({"classes": ["a", "a"]}, "classes a, a: every name once"),
        ({"all_touched": "yes"}, "all_touched is true or false"),
        ({"variable": "v"}, "unknown key 'variable'; known are"),
        ({"table": "p.csv", "vector": "a.gpkg"}, "vector and table are two kinds of labels"),
        ({"table": "p.csv", "x": "lon"}, "y is missing: give both columns"),
        ({"field": 3}, "field is a name, not 3"),
        ({"resolution": 30}, "patch 20 m is no multiple of its resolution 30 m"),
        ({"reduction": "mode"}, "reduction is mean, majority, any or none"),
    ],
)
def test_descriptions_that_cannot_be_say_why(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        labelled(tmp_path, labels)


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    vectors(tmp_path / "labels.gpkg", TWO, ["a", "b"])
    monkeypatch.setitem(sys.modules, "geopandas", None)
    with pytest.raises(ValueError, match=r"need the package geopandas: pip install 'eo-fusion\[vector\]'"):
        labelled(tmp_path, {})


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ({"year": [2016, 2016]}, "year in labels.gpkg says 2016, the images are of 2020"),
        ({"Survey_Date": ["2017-05-01", "2018-06-02"]}, "Survey_Date in labels.gpkg says 2017 and 2018, the images"),
        ({"seen": np.array(["2011-05-01", "2011-06-02"], "datetime64[s]")}, "seen in labels.gpkg says 2011"),
        ({"year": [2016, 2020]}, ""),
        ({"year": [7, 8]}, ""),  # no years
        ({"yearling": [2016, 2016]}, ""),
        ({"harvest_date": ["soon", "late"]}, ""),
    ],
)
def test_labels_of_another_year_are_noted(tmp_path, column, told):
    table = {"crop": ["a", "b"]} | column
    geopandas.GeoDataFrame(table, geometry=TWO, crs=CRS).to_file(tmp_path / "labels.gpkg")
    notes = [note for note in labelled(tmp_path, {}).notes() if "the images are of" in note]
    assert len(notes) == bool(told)
    assert all(told in note for note in notes)
