"""Every raster of a described folder is checked for its place: dates, modalities, masks and labels alike."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.warp
import xarray
from rasterio.transform import Affine, from_bounds
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as to_crs

from .rasters import CRS, DATES, NORTH, SERIES, SIDE, WEST, image, opened, write, write_series

DEM = {"files": "dem/{scene}.tif", "axes": ["band", "y", "x"], "bands": ["height"], "resolution": 10}
CROP = {
    "files": "crop/{scene}.tif",
    "resolution": 10,
    "reduction": "majority",
    "classes": {"a": 1, "b": 2, "c": 3, "d": 4},
}
MASKED = SERIES | {"mask": {"files": "scl/{scene}_{date}.tif", "classes": [4]}}
SOUTH_UP = Affine(10, 0, WEST, 0, 10, NORTH - 10 * SIDE)
QUARTERS = np.repeat(np.repeat(np.array([[1, 2], [3, 4]], np.uint8), 4, 0), 4, 1)

WRONG = [  # how a raster may lie elsewhere, and what is said of it
    ({"crs": "EPSG:32632"}, "CRS EPSG:32632 where the tiles have EPSG:32631"),
    ({"west": WEST + 3000}, r"origin \(503000, 5600000\) where the tiles have \(500000, 5600000\)"),
    ({"north": NORTH + 5}, r"origin \(500000, 5600005\) where"),
    ({"size": 20.0}, "pixels are 20 x 20 m, the description says 10 m"),
    ({"transform": Affine(9.7, 2.4, WEST, 2.4, -9.7, NORTH)}, "the raster is rotated"),
    ({"transform": Affine(-10, 0, WEST + 80, 0, -10, NORTH)}, "x runs west"),
    ({"crs": None, "transform": Affine.identity()}, "has neither CRS nor place"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "message"), WRONG)
@pytest.mark.parametrize("what", ["date", "modality", "mask"])
def test_a_raster_of_another_place_is_refused(tmp_path, what, where, message):
    write_series(tmp_path)
    given = {"s2": SERIES}
    if what == "date":
        write(tmp_path / "s2" / f"a_{DATES[1]}.tif", image(1), **where)
    elif what == "modality":
        write(tmp_path / "dem" / "a.tif", image(bands=1), **where)
        given["dem"] = DEM
    else:
        given = {"s2": SERIES | {"mask": {"files": "scl/{scene}_{date}.tif", "classes": [4], "resolution": 10}}}
        for date in DATES:
            write(tmp_path / "scl" / f"a_{date}.tif", np.full((SIDE, SIDE), 4, np.uint8), **where)
    with pytest.raises(ValueError, match=message) as error:
        opened(tmp_path, given)
    assert {"date": "s2", "modality": "dem/a.tif", "mask": "scl"}[what] in str(error.value)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            {"crs": "EPSG:32632"},
            r"labels have the bounds \(500000, 5599920, 500080, 5600000\) of EPSG:32632 and the ima",
        ),
        ({"west": WEST + 80}, r"\(500080, .* and the images \(500000, 5599920, 500080, 5600000\): they have no ground"),
        *WRONG[3:],
    ],
)
def test_labels_of_no_common_ground_or_another_size_than_said_are_refused(tmp_path, where, message):
    write_series(tmp_path)
    write(tmp_path / "crop" / "a.tif", QUARTERS, **where)
    with pytest.raises(ValueError, match=message) as error:
        opened(tmp_path, {"s2": SERIES}, labels=CROP)
    assert "crop/a.tif" in str(error.value)


def test_labels_elsewhere_are_laid_onto_the_tiles_by_the_nearest_pixel(tmp_path):
    write_series(tmp_path)
    labels = {key: value for key, value in CROP.items() if key != "resolution"}
    for size, west, north in ((30, WEST - 130, NORTH + 140), (5, WEST - 3, NORTH + 1)):
        rows, columns = np.mgrid[:60, :60]
        south, east = (north - (rows + 0.5) * size < NORTH - 40), (west + (columns + 0.5) * size > WEST + 40)
        write(tmp_path / "crop" / "a.tif", (1 + 2 * south + east).astype(np.uint8), size=size, west=west, north=north)
        data = opened(tmp_path, {"s2": SERIES}, labels=labels | {"reduction": "none"})
        centres = 5 + 10 * np.arange(8)
        columns, rows = (np.floor((centres + start) / size).astype(int) for start in (WEST - west, north - NORTH))
        wanted = (2 * south + east)[np.ix_(rows, columns)]
        np.testing.assert_array_equal(data.labels()[0], wanted[:4, :4])
        np.testing.assert_array_equal(data.labels()[3], wanted[4:, 4:])
        assert data.notes()[0].startswith("labels: 1 file(s) of another CRS, origin, pixel size or extent laid onto")


def test_labels_of_another_crs_are_those_of_the_place(tmp_path):
    write_series(tmp_path)
    east, north = rasterio.warp.transform(CRS, "EPSG:4326", [WEST + 40], [NORTH - 40])
    rows, columns = np.mgrid[:400, :400]
    values = 1 + 2 * (rows >= 200) + (columns >= 200)  # the quarters meet at the centre of the images
    write(
        tmp_path / "crop" / "a.tif", values.astype(np.uint8), crs="EPSG:4326", size=1e-5, west=east[0] - 2e-3,
        north=north[0] + 2e-3,
    )  # fmt: skip
    assert opened(tmp_path, {"s2": SERIES}, labels=CROP).labels().tolist() == [0, 1, 2, 3]


def test_where_a_map_of_labels_ends_nothing_is_labelled(tmp_path):
    write_series(tmp_path)
    write(tmp_path / "crop" / "a.tif", QUARTERS[:, 4:], west=WEST + 40)
    data = opened(tmp_path, {"s2": SERIES}, labels=CROP)
    assert data.names == ["a_r0000_c0040", "a_r0040_c0040"]
    assert data.labels().tolist() == [1, 3]


def test_the_command_of_the_message_mends_the_raster(tmp_path):
    write_series(tmp_path)
    write(
        tmp_path / "it's scl" / "a.tif", np.kron(QUARTERS, np.ones((2, 2), np.uint8)), west=WEST - 40, north=NORTH + 40
    )
    source = SERIES | {"mask": {"files": "it's scl/{scene}.tif", "classes": [1, 4]}}
    with pytest.raises(ValueError, match="gdalwarp") as error:
        opened(tmp_path, {"s2": source})
    command = shlex.split(re.search(r"gdalwarp.*", str(error.value))[0])
    assert command[:4] == ["gdalwarp", "-t_srs", CRS, "-te"]
    assert command[8:13] == ["-ts", "8", "8", "-r", "near"]
    path, warped = command[13:]
    assert path == str(tmp_path / "it's scl" / "a.tif")
    west, south, east, north = map(float, command[4:8])
    place = from_bounds(west, south, east, north, 8, 8)
    with rasterio.open(path) as file, WarpedVRT(file, crs=CRS, transform=place, width=8, height=8) as found:
        rasterio.shutil.copy(found, warped, driver="GTiff")  # what gdalwarp does: its program is in no wheel
    Path(warped).replace(path)
    data = opened(tmp_path, {"s2": source})
    assert [len(data[i].days.get("s2", ())) for i in range(4)] == [3, 0, 0, 3]


def test_rows_that_run_north_are_turned_raster_by_raster(tmp_path):
    write_series(tmp_path)
    write(tmp_path / "s2" / f"a_{DATES[1]}.tif", image(1)[:, ::-1], transform=SOUTH_UP)
    write(tmp_path / "dem" / "a.tif", image(bands=1)[:, ::-1], transform=SOUTH_UP)
    write(tmp_path / "crop" / "a.tif", QUARTERS[::-1], transform=SOUTH_UP)
    for k, date in enumerate(DATES):
        scl = np.full((SIDE, SIDE), 4, np.uint8)
        scl[:4] = 9 if k == 2 else 4  # the north is cloudy on the last date
        write(tmp_path / "scl" / f"a_{date}.tif", scl[::-1], transform=SOUTH_UP)
    data = opened(tmp_path, {"s2": MASKED, "dem": DEM}, labels=CROP)
    assert data.labels().tolist() == [0, 1, 2, 3]
    for tile, rows, columns in zip(data, (0, 0, 4, 4), (0, 4, 0, 4), strict=True):
        window = np.s_[:, rows : rows + 4, columns : columns + 4]
        assert np.array_equal(tile.values["dem"], image(bands=1)[window])
        assert np.array_equal(tile.values["s2"][1], image(1)[window])
        assert len(tile.days["s2"]) == (2 if rows == 0 else 3)


def test_a_first_raster_that_runs_north_gives_north_up_places(tmp_path):
    for k, date in enumerate(DATES):
        write(tmp_path / "s2" / f"a_{date}.tif", image(k)[:, ::-1], transform=SOUTH_UP)
    data = opened(tmp_path, {"s2": SERIES})
    assert data.places()[0].transform == (10.0, 0.0, WEST, 0.0, -10.0, NORTH)
    assert np.array_equal(data[2].values["s2"][0], image()[:, 4:, :4])


def test_a_coarser_raster_on_the_same_corner_is_taken_as_it_is(tmp_path):
    write_series(tmp_path)
    coarse = image(bands=1, side=4)
    write(tmp_path / "dem" / "a.tif", coarse, size=20.0)
    write(tmp_path / "crop" / "a.tif", np.pad(QUARTERS, ((0, 9), (0, 5))))  # reaches further south and east
    data = opened(tmp_path, {"s2": SERIES, "dem": DEM | {"resolution": 20}}, labels=CROP)
    assert np.array_equal(data[3].values["dem"], coarse[:, 2:, 2:])
    assert data.labels().tolist() == [0, 1, 2, 3]


def test_rounding_of_coordinates_is_no_other_place(tmp_path):
    write_series(tmp_path)
    write(tmp_path / "s2" / f"a_{DATES[1]}.tif", image(1), west=WEST + 1e-4)
    assert len(opened(tmp_path, {"s2": SERIES})) == 4


# Aligned on reading.


def test_aligned_rasters_keep_what_lies_on_the_grid_to_the_bit(tmp_path):
    """The same pixels, cut from a larger raster of whole pixels: nothing is interpolated."""
    write_series(tmp_path)
    write(
        tmp_path / "s2" / f"a_{DATES[1]}.tif",
        np.pad(image(1), ((0, 0), (3, 2), (4, 1))),
        west=WEST - 40,
        north=NORTH + 30,
    )
    write(tmp_path / "crop" / "a.tif", np.pad(QUARTERS, 5, constant_values=9), west=WEST - 50, north=NORTH + 50)
    data = opened(tmp_path, {"s2": SERIES}, labels=CROP, align=True)
    assert data.labels().tolist() == [0, 1, 2, 3]
    assert np.array_equal(data[3].values["s2"][1], image(1)[:, 4:, 4:])
    assert any("'s2': 1 files warped onto the grid of the tiles" in note for note in data.notes())


def test_what_an_aligned_raster_does_not_cover_is_not_observed(tmp_path):
    write_series(tmp_path)
    write(tmp_path / "s2" / f"a_{DATES[1]}.tif", image(1), west=WEST + 40)  # covers the eastern half alone
    data = opened(tmp_path, {"s2": SERIES | {"max_cloud": 0.0}}, align=True)
    assert data[0].valid["s2"].tolist() == [True, False, True]
    assert data[1].valid["s2"].all()
    assert np.array_equal(data[1].values["s2"][1], image(1)[:, :4, :4])
    write(tmp_path / "s2" / f"a_{DATES[1]}.tif", image(1), west=WEST + 4000)
    with pytest.raises(ValueError, match="does not touch the tiles"):
        opened(tmp_path, {"s2": SERIES}, align=True)


@pytest.mark.parametrize("container", ["tif", "nc"])
def test_aligned_values_of_another_crs_are_those_of_the_place(tmp_path, container):
    """A plane in the coordinates of UTM 31, stored in UTM 32: bilinear interpolation of a plane is exact."""
    write_series(tmp_path)

    def plane(easting, northing):
        return (easting - WEST) / 10 + (NORTH - northing) / 5

    side, size = 60, 10.0
    centre = [values[0] for values in to_crs(CRS, "EPSG:32632", [WEST + 40], [NORTH - 40])]
    west, north = centre[0] - side * size / 2, centre[1] + side * size / 2
    x, y = west + size * (np.arange(side) + 0.5), north - size * (np.arange(side) + 0.5)
    columns, rows = np.meshgrid(x, y)
    easting, northing = (np.array(v) for v in to_crs("EPSG:32632", CRS, columns.ravel(), rows.ravel()))
    values = plane(easting, northing).reshape(side, side).astype(np.float32)
    dem = DEM | {"files": f"dem/{{scene}}.{container}"}
    if container == "tif":
        write(tmp_path / "dem" / "a.tif", values, crs="EPSG:32632", west=west, north=north)
    else:
        dem |= {"variable": "height", "axes": ["y", "x"]}
        (tmp_path / "dem").mkdir()
        reference = xarray.Variable((), 0, {"crs_wkt": rasterio.CRS.from_epsg(32632).to_wkt()})
        xarray.Dataset(
            {"height": (("y", "x"), values, {"grid_mapping": "spatial_ref"}), "spatial_ref": reference},
            coords={"x": x, "y": y},
        ).to_netcdf(tmp_path / "dem" / "a.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="CRS EPSG:32632 where the tiles have EPSG:32631"):
        opened(tmp_path, {"s2": SERIES, "dem": dem})
    data = opened(tmp_path, {"s2": SERIES, "dem": dem}, align=True)
    for tile, top, left in zip(data, (0, 0, 4, 4), (0, 4, 0, 4), strict=True):
        east, south = np.meshgrid(left + np.arange(4) + 0.5, top + np.arange(4) + 0.5)
        wanted = plane(WEST + 10 * east, NORTH - 10 * south)
        assert tile.values["dem"][0].numpy() == pytest.approx(wanted, abs=0.02)


def test_aligned_values_take_nothing_from_missing_neighbours(tmp_path):
    write_series(tmp_path)
    half = np.full((20, 20), 500.0, np.float32)
    half[:, :10] = -9999
    write(tmp_path / "dem" / "a.tif", half, west=WEST - 65, north=NORTH + 65, nodata=-9999)  # half a pixel off
    tile = opened(tmp_path, {"s2": SERIES, "dem": DEM}, align=True)[1]
    assert tile.values["dem"].min() == tile.values["dem"].max() == 500


def test_aligned_codes_are_never_mixed(tmp_path):
    write_series(tmp_path)
    codes = np.where(np.arange(40) < 20, 4_000_000_001, 4_000_000_003).astype(np.uint32)[None].repeat(40, 0)
    write(tmp_path / "crop" / "a.tif", codes, west=WEST - 63, north=NORTH + 51, size=5.0)
    for date in DATES:
        scl = np.where(np.arange(20) < 10, 4, 9).astype(np.uint8)[None].repeat(20, 0)
        write(tmp_path / "scl" / f"a_{date}.tif", scl, west=WEST - 63, north=NORTH + 51)
    labels = CROP | {"classes": {"a": 4_000_000_001, "b": 4_000_000_003}, "reduction": "none"}
    data = opened(tmp_path, {"s2": MASKED | {"max_cloud": 0.6}}, labels=labels, align=True)
    assert data.labels()[0, 0].tolist() == [0, 0, 0, 0]
    assert data.labels()[1, 0].tolist() == [1, 1, 1, 1]
    assert "s2" in data[0].values
    assert "s2" not in data[1].values


def test_one_raster_for_all_scenes(tmp_path):
    """A map of the country under two scenes: a pattern that names no scene is of every scene."""
    for k, scene in enumerate("ab"):
        write(tmp_path / "s2" / f"{scene}_{DATES[0]}.tif", image(), west=WEST + 80 * k)
    write(tmp_path / "country.tif", np.pad(np.hstack([QUARTERS, QUARTERS.T]), 10), west=WEST - 100, north=NORTH + 100)
    data = opened(tmp_path, {"s2": SERIES}, labels=CROP | {"files": "country.tif"})
    assert data.names == [
        f"{scene}_r{row}_c{column}" for scene in "ab" for row in ("0000", "0040") for column in ("0000", "0040")
    ]
    assert data.labels().tolist() == [0, 1, 2, 3, 0, 2, 1, 3]


# Containers of variables.


def cube(folder, name, values, **options):
    """HDF5, NetCDF or Zarr of one variable with coordinates."""
    x = options.get("x", WEST + 10 * (np.arange(SIDE) + 0.5))
    y = options.get("y", NORTH - 10 * (np.arange(SIDE) + 0.5))
    path = folder / name
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["s2"], file["x"], file["y"], file["time"] = values, x, y, [d.encode() for d in DATES]
            for k, axis in enumerate(("time", "band", "y", "x")):
                if axis != "band":
                    file[axis].make_scale(axis)
                    file["s2"].dims[k].attach_scale(file[axis])
                file["s2"].dims[k].label = axis
        return
    times = np.array(DATES, "datetime64[ns]")
    dataset = xarray.Dataset({"s2": (("time", "band", "y", "x"), values)}, coords={"x": x, "y": y, "time": times})
    dataset.to_netcdf(path, engine="h5netcdf") if path.suffix == ".nc" else dataset.to_zarr(path, zarr_format=3)


STORED = {"variable": "s2", "bands": ["B04", "B08"], "resolution": 10, "dates": "time"}


@pytest.mark.parametrize("suffix", [".h5", ".nc", ".zarr"])
def test_coordinates_that_a_file_names_turn_and_place_its_arrays(tmp_path, suffix):
    values = np.stack([image(k) for k in range(3)])
    cube(tmp_path, f"a{suffix}", values[:, :, ::-1], y=NORTH - 10 * (np.arange(SIDE)[::-1] + 0.5))
    data = opened(tmp_path, {"s2": STORED}, files=f"{{scene}}{suffix}")
    assert np.array_equal(data[2].values["s2"], values[:, :, 4:, :4])
    cube(tmp_path, f"a_dem{suffix}", values, x=WEST + 3000 + 10 * (np.arange(SIDE) + 0.5))
    other = STORED | {"files": f"{{scene}}_dem{suffix}"}
    with pytest.raises(ValueError, match=r"origin \(503000, 5600000\) where the tiles have \(500000, 5600000\)"):
        opened(tmp_path, {"s2": STORED | {"files": f"a{suffix}"}, "dem": other | {"files": f"a_dem{suffix}"}})


def test_numbers_of_rows_are_no_coordinates(tmp_path):
    values = np.stack([image(k) for k in range(3)])
    cube(tmp_path, "a.nc", values, x=np.arange(SIDE), y=np.arange(SIDE))
    data = opened(tmp_path, {"s2": STORED}, files="{scene}.nc")
    assert np.array_equal(data[0].values["s2"], values[:, :, :4, :4])
    assert data.places()[0] is None


def test_axes_that_the_file_names_otherwise_are_refused(tmp_path):
    cube(tmp_path, "a.nc", np.stack([image(k) for k in range(3)]))
    turned = STORED | {"axes": ["time", "band", "x", "y"]}
    with pytest.raises(ValueError, match=r"write axes: \[time, band, y, x\]"):
        opened(tmp_path, {"s2": turned}, files="{scene}.nc")


def test_coordinates_that_are_no_grid_are_refused(tmp_path):
    y = NORTH - 10 * (np.arange(SIDE) + 0.5)
    y[3] += 4
    cube(tmp_path, "a.nc", np.stack([image(k) for k in range(3)]), y=y)
    with pytest.raises(ValueError, match="y of 's2' is not evenly spaced"):
        opened(tmp_path, {"s2": STORED}, files="{scene}.nc")
