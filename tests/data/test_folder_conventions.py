"""What files say of their numbers is obeyed in every container, unless the description says otherwise."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import rasterio
import xarray
import zarr
from rasterio.enums import ColorInterp

from fusion.data.check import check
from fusion.data.folder.conventions import Conventions, equals_any

from .rasters import CRS, DATES, SERIES, SIDE, image, opened, write, write_series

STORED = {"variable": "s2", "bands": ["B04", "B08"], "resolution": 10, "dates": "time"}
VALUES = np.stack([image(k) for k in range(3)]).astype(np.float64)  # 1000..3163
AXES = ("time", "band", "y", "x")
TIMES = np.array(DATES, "datetime64[ns]")


def save(path, stored, **attributes):
    """An array as it is, with attributes, in a container by the suffix; .3.nc is NetCDF 3, .plain.zarr has no axes."""
    plain = {key: value for key, value in attributes.items() if key != "_FillValue"}
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["s2"], file["time"] = stored, [date.encode() for date in DATES]
            file["s2"].attrs.update(attributes)
    elif path.name.endswith(".plain.zarr"):
        group = zarr.open_group(path, mode="w")
        numbers = {k: v if isinstance(v, str) else np.asarray(v).tolist() for k, v in attributes.items()}
        group.create_array("s2", data=stored).attrs.update(numbers)
        group.create_array("time", data=np.array([100, 130, 161])).attrs.update(units="days since 2020-01-01")
    else:
        variable = xarray.Variable(
            AXES, stored, plain, encoding={k: attributes[k] for k in attributes if k not in plain}
        )
        dataset = xarray.Dataset({"s2": variable}, coords={"time": TIMES})
        if path.suffix == ".zarr":
            dataset.to_zarr(path, zarr_format=2 if path.name.endswith(".2.zarr") else 3)
        else:
            three = path.name.endswith(".3.nc")
            dataset.to_netcdf(
                path, engine="scipy" if three else "h5netcdf", format="NETCDF3_64BIT" if three else "NETCDF4"
            )


CONTAINERS = ["a.h5", "a.nc", "a.3.nc", "a.zarr", "a.2.zarr", "a.plain.zarr"]


@pytest.fixture(params=CONTAINERS)
def name(request):
    return request.param


def first_values(folder, name, memory=1 << 30, **changes):
    """(3, 2, 8, 8) of everything, NaN where not observed."""
    data = opened(folder, {"s2": STORED | changes}, files=name)
    layer = data.scenes[0].layers["s2"]
    return layer.values(np.arange(3), (0, 0, SIDE, SIDE)), data


def test_fill_values_and_packing_are_undone(tmp_path, name):
    stored = ((VALUES - 100) / 0.5).astype(np.int16)
    stored[:, :, 0] = -9999
    save(tmp_path / name, stored, scale_factor=0.5, add_offset=100.0, _FillValue=np.int16(-9999))
    values, data = first_values(tmp_path, name)
    assert np.isnan(values[:, :, 0]).all()
    assert np.array_equal(values[:, :, 1:], VALUES[:, :, 1:].astype(np.float32))
    assert any("the files say scale 0.5, offset 100" in note and "applied" in note for note in data.notes())


def test_missing_values_and_valid_range_count_as_missing(tmp_path, name):
    stored = VALUES.astype(np.int16)
    stored[0, 0, 0, :3] = [-1, 30000, -7]
    save(tmp_path / name, stored, missing_value=np.int16(-7), valid_range=np.array([0, 20000], np.int16))
    values, _ = first_values(tmp_path, name)
    assert np.isnan(values[0, 0, 0, :3]).all()
    assert np.isfinite(values).sum() == values.size - 3


def test_a_limit_alone_counts_too(tmp_path, name):
    stored = VALUES.astype(np.float32)
    save(tmp_path / name, stored, valid_min=np.float32(1001), valid_max=np.float32(3000))
    values, _ = first_values(tmp_path, name)
    assert np.array_equal(np.isnan(values), (stored < 1001) | (stored > 3000))


def test_the_description_overrides_the_file_and_the_check_says_so(tmp_path, name):
    stored = VALUES.astype(np.int16)
    stored[:, :, 0] = 7
    save(tmp_path / name, stored, scale_factor=0.5, _FillValue=np.int16(7))
    values, data = first_values(tmp_path, name, scale=2, nodata=[-1])
    assert np.array_equal(values, stored * np.float32(2))
    said = " ".join(check(data).warnings)
    assert "the files say nodata 7" in said
    assert "nodata of the description replaces it" in said
    assert "the files say scale 0.5, offset 0" in said
    assert "scale of the description replaces it" in said
    values, _ = first_values(tmp_path, name, offset=-1000)  # one of the two replaces both
    assert np.nanmin(values[:, :, 1:]) == 8


def test_the_same_in_both_places_is_not_worth_a_word(tmp_path, name):
    stored = VALUES.astype(np.int16)
    save(tmp_path / name, stored, _FillValue=np.int16(7))
    assert first_values(tmp_path, name, nodata=[7])[1].notes() == []


def test_decibels_are_of_unpacked_power(tmp_path, name):
    save(tmp_path / name, VALUES.astype(np.int16), scale_factor=0.001)
    values, _ = first_values(tmp_path, name, decibels=10, offset=-3)
    assert values == pytest.approx(10 * np.log10(VALUES * 0.001) - 3, abs=1e-4)


def test_signed_bytes_that_mean_unsigned_ones(tmp_path, name):
    stored = np.full((3, 2, SIDE, SIDE), 200, np.uint8)
    stored[:, :, 0] = 255
    save(tmp_path / name, stored.view(np.int8), _Unsigned="true", _FillValue=np.int8(-1))
    values, _ = first_values(tmp_path, name)
    assert np.isnan(values[:, :, 0]).all()
    assert (values[:, :, 1:] == 200).all()


def test_infinite_values_are_missing_and_said(tmp_path, name):
    stored = VALUES.astype(np.float32)
    stored[0, 0, 0, 0], stored[1, 0, 0, 0] = -np.inf, np.inf
    save(tmp_path / name, stored)
    values, data = first_values(tmp_path, name)
    assert np.isnan(values).sum() == 2
    assert any("2 infinite values" in note for note in data.notes())


@pytest.mark.parametrize("number", [1e20, -9999.9, -32767.1, 9.969209968386869e36, -3.4028234663852886e38])
def test_nodata_is_found_in_float32_files_though_they_round_it(tmp_path, name, number):
    stored = VALUES.astype(np.float32)
    stored[0, :, 0] = number
    save(tmp_path / name, stored)
    assert np.isnan(first_values(tmp_path, name, nodata=[number])[0][0, :, 0]).all()
    save(tmp_path / f"b_{name}", stored, _FillValue=np.float32(number))
    assert np.isnan(first_values(tmp_path, f"b_{name}")[0][0, :, 0]).all()


@pytest.mark.parametrize(
    "written", ["[-9999, nan]", "[.nan, -9999]", "'-9999'", "[-9999, 1e20]", "-9999.0", "['-9999']"]
)
def test_nodata_means_the_same_however_yaml_is_written(tmp_path, written):
    stored = VALUES.astype(np.float32)
    stored[:, :, 0], stored[:, :, 1] = -9999, np.nan
    save(tmp_path / "a.h5", stored)
    text = f"s2: {{variable: s2, bands: [B04, B08], resolution: 10, dates: time, nodata: {written}}}"
    (tmp_path / "fusion.yaml").write_text(f"files: '{{scene}}.h5'\ntile: 40\npatch: 20\nmodalities:\n  {text}\n")
    from fusion.data import FolderDataset

    layer = FolderDataset(tmp_path / "fusion.yaml", tmp_path).scenes[0].layers["s2"]
    assert np.isnan(layer.values(np.arange(3), (0, 0, SIDE, SIDE))).sum() == 3 * 2 * 2 * SIDE


def test_a_number_that_is_none_is_refused(tmp_path):
    save(tmp_path / "a.h5", VALUES)
    with pytest.raises(ValueError, match="modality 's2': nodata must be a number, not 'none'"):
        opened(tmp_path, {"s2": STORED | {"nodata": [-9999, "none"]}}, files="a.h5")


def test_integers_are_compared_exactly():
    codes = np.array([2**31 + 1, 2**31 + 2, 2**32 - 1], np.uint32)
    assert equals_any(codes, [2**31 + 1]).tolist() == [True, False, False]
    assert equals_any(codes, [-1, np.nan, 2**31 + 0.5, 2.0**32]).tolist() == [False] * 3
    big = np.array([2**53, 2**53 + 1], np.int64)
    assert equals_any(big, [2**53 + 1]).tolist() == [False, True]
    assert equals_any(np.array([0.1], np.float16), [0.1]).tolist() == [True]


def test_limits_of_the_wider_type_belong_to_the_values():
    packed = np.array([[[[10, 20, 30]]]], np.int16)
    attributes = {"scale_factor": 0.1, "valid_range": np.array([1.5, 2.5])}
    assert np.isnan(Conventions.of_attributes(attributes, packed.dtype).values(packed)).tolist() == [
        [[[True, False, True]]]
    ]
    attributes["valid_range"] = np.array([15, 25], np.int16)
    assert np.isnan(Conventions.of_attributes(attributes, packed.dtype).values(packed)).tolist() == [
        [[[True, False, True]]]
    ]


def test_variables_in_groups(tmp_path):
    for suffix in (".nc", ".h5"):
        with h5py.File(tmp_path / f"a{suffix}", "w") as file:
            file["measurements/s2"] = VALUES
            file["measurements/times/time"] = np.array([100, 130, 161])
            file["measurements/times/time"].attrs["units"] = "days since 2020-01-01"
            file["measurements/s2"].attrs["_FillValue"] = 1000.0
    group = zarr.open_group(tmp_path / "a.zarr", mode="w").create_group("measurements")
    group.create_array("s2", data=VALUES).attrs["_FillValue"] = 1000.0
    group.create_group("times").create_array("time", data=np.array([100, 130, 161])).attrs["units"] = (
        "days since 2020-01-01"
    )
    inside = STORED | {"variable": "measurements/s2", "dates": "measurements/times/time"}
    for suffix in (".nc", ".h5", ".zarr"):
        data = opened(tmp_path, {"s2": inside}, files=f"a{suffix}")
        assert data[0].days["s2"].tolist() == [100, 130, 161]
        assert np.isnan(data.scenes[0].layers["s2"].values(np.arange(3), (0, 0, 8, 8))).sum() == 1
        with pytest.raises(ValueError, match="no 'measurements/s3' in the file"):
            opened(tmp_path, {"s2": inside | {"variable": "measurements/s3"}}, files=f"a{suffix}")


# Rasters.


def test_masks_of_the_file_and_alpha_bands_hide_pixels(tmp_path):
    hidden = np.zeros((SIDE, SIDE), bool)
    hidden[:4, :2] = True
    for k, date in enumerate(DATES):
        values = image(k)
        values[:, hidden] = 0
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=k != 1):  # inside the file, or beside it as .msk
            path = write(tmp_path / "s2" / f"a_{date}.tif", values)
            with rasterio.open(path, "r+") as file:
                file.write_mask(np.where(hidden, 0, 255).astype(np.uint8))
        alpha = np.where(hidden, 0, 65535).astype(np.uint16)[None]
        path = write(tmp_path / "rgba" / f"a_{date}.tif", np.concatenate([values, alpha]), photometric="MINISBLACK")
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha]
    assert (tmp_path / "s2" / f"a_{DATES[1]}.tif.msk").exists()
    for files in ("s2/{scene}_{date}.tif", "rgba/{scene}_{date}.tif"):
        data = opened(tmp_path, {"s2": SERIES | {"files": files}})
        values = data.scenes[0].layers["s2"].values(np.arange(3), (0, 0, SIDE, SIDE))
        assert np.array_equal(np.isnan(values), np.broadcast_to(hidden, values.shape))
        assert data[0].values["s2"].min() > 1000  # the gap has the mean of the rest


def test_a_fourth_band_that_gdal_calls_alpha_is_data_where_it_is_named(tmp_path):
    values = np.arange(4, dtype=np.uint8)[:, None, None].repeat(SIDE, 1).repeat(SIDE, 2)
    values[3, :4] = 0
    write(tmp_path / "aerial" / "a.tif", values)
    with rasterio.open(tmp_path / "aerial" / "a.tif") as file:
        assert file.colorinterp[3].name == "alpha"
    aerial = {"files": "aerial/{scene}.tif", "axes": ["band", "y", "x"], "bands": list("RGBN"), "resolution": 10}
    data = opened(tmp_path, {"aerial": aerial})
    assert data[0].values["aerial"][:, 0, 0].tolist() == [0, 1, 2, 0]
    assert data[3].values["aerial"][:, 0, 0].tolist() == [0, 1, 2, 3]


def test_nodata_scale_and_offset_of_rasters(tmp_path):
    for k, date in enumerate(DATES):
        values = image(k)
        values[0, 0] = 65535
        path = write(tmp_path / "s2" / f"a_{date}.tif", values, nodata=65535)
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = (0.5, 0.25 * (k + 1)), (10, 0)
    data = opened(tmp_path, {"s2": SERIES})
    values = data.scenes[0].layers["s2"].values(np.arange(3), (0, 0, SIDE, SIDE))
    wanted = np.stack([np.stack([image(k)[0] * 0.5 + 10, image(k)[1] * 0.25 * (k + 1)]) for k in range(3)])
    wanted[:, 0, 0] = np.nan
    assert np.array_equal(values, wanted.astype(np.float32), equal_nan=True)
    own = opened(tmp_path, {"s2": SERIES | {"use": ["B08"]}}).scenes[0].layers["s2"]
    assert np.array_equal(own.values(np.array([2]), (0, 0, 8, 8))[0, 0], wanted[2, 1].astype(np.float32))
    raw = opened(tmp_path, {"s2": SERIES | {"scale": 1}})
    assert np.array_equal(raw[3].values["s2"][0], image()[:, 4:, 4:])
    assert any("scale of the description replaces it" in note for note in raw.notes())


def test_each_band_of_a_mosaic_has_its_own_nodata(tmp_path):
    write(tmp_path / "red.tif", np.full((SIDE, SIDE), 7, np.int16), nodata=0)
    height = np.zeros((SIDE, SIDE), np.int16)
    height[:4] = -32768
    write(tmp_path / "height.tif", height, nodata=-32768)
    sources = "".join(
        f'<VRTRasterBand dataType="Int16" band="{k}"><NoDataValue>{nodata}</NoDataValue><ComplexSource>'
        f'<SourceFilename relativeToVRT="1">{name}.tif</SourceFilename><SourceBand>1</SourceBand></ComplexSource>'
        "</VRTRasterBand>"
        for k, (name, nodata) in enumerate((("red", 0), ("height", -32768)), start=1)
    )
    with rasterio.open(tmp_path / "red.tif") as file:
        place = ", ".join(map(str, file.transform.to_gdal()))
    (tmp_path / "a.vrt").write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>{CRS}</SRS>'
        f"<GeoTransform>{place}</GeoTransform>{sources}</VRTDataset>"
    )
    both = {"files": "a.vrt", "axes": ["band", "y", "x"], "bands": ["red", "height"], "resolution": 10}
    values = opened(tmp_path, {"both": both}).scenes[0].layers["both"].values(None, (0, 0, SIDE, SIDE))[0]
    assert (values[0] == 7).all()
    assert np.isnan(values[1, :4]).all()
    assert (values[1, 4:] == 0).all()


def test_nodata_that_a_file_cannot_hold_is_said(tmp_path):
    write_series(tmp_path)
    notes = opened(tmp_path, {"s2": SERIES | {"nodata": [-9999, 0]}}).notes()
    assert any("nodata -9999 cannot occur in uint16 files" in note for note in notes)


def test_jpeg_2000_and_other_suffixes(tmp_path):
    for k, date in enumerate(DATES):
        for suffix, options in (
            (".jp2", {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}),
            (".TIFF", {}),
        ):
            write(tmp_path / "s2" / f"a_{date}{suffix}", image(k), **options)
    for suffix in (".jp2", ".TIFF"):
        data = opened(tmp_path, {"s2": SERIES | {"files": f"s2/{{scene}}_{{date}}{suffix}"}})
        assert np.array_equal(data[3].values["s2"], VALUES[:, :, 4:, 4:].astype(np.float32))


# Labels.


def test_codes_of_labels_are_exact_and_compared_as_stored(tmp_path):
    write_series(tmp_path)
    codes = np.full((SIDE, SIDE), 4_000_000_001, np.uint32)
    codes[:4, 4:], codes[4:, :4] = 4_000_000_002, 0
    write(tmp_path / "crop" / "a.tif", codes)
    labels = {"files": "crop/{scene}.tif", "resolution": 10, "reduction": "majority"}
    data = opened(tmp_path, {"s2": SERIES}, labels=labels | {"classes": {"a": 4_000_000_001, "b": "4000000002"}})
    assert data.names == ["a_r0000_c0000", "a_r0000_c0040", "a_r0040_c0040"]
    assert data.labels().tolist() == [0, 1, 0]


def test_what_a_file_of_labels_declares_is_no_label_unless_a_class_has_that_code(tmp_path):
    write_series(tmp_path)
    codes = np.zeros((SIDE, SIDE), np.uint8)
    codes[:, 4:] = 1
    write(tmp_path / "crop" / "a.tif", codes, nodata=0)
    labels = {"files": "crop/{scene}.tif", "resolution": 10, "reduction": "majority"}
    with_zero = opened(tmp_path, {"s2": SERIES}, labels=labels | {"classes": {"none": 0, "crop": 1}})
    assert with_zero.labels().tolist() == [0, 1, 0, 1]
    without = opened(tmp_path, {"s2": SERIES}, labels=labels | {"classes": {"none": 0, "crop": 1}, "nodata": [0]})
    assert without.labels().tolist() == [1, 1]
    mean = opened(tmp_path, {"s2": SERIES}, labels=labels | {"reduction": "mean"})
    assert mean.labels().tolist() == [[1.0], [1.0]]


def test_quantities_of_labels_are_unpacked(tmp_path):
    write_series(tmp_path)
    stored = np.full((SIDE, SIDE), 250, np.int16)
    stored[0] = -1
    path = write(tmp_path / "agb" / "a.tif", stored, nodata=-1)
    with rasterio.open(path, "r+") as file:
        file.scales = (0.1,)
    labels = {"files": "agb/{scene}.tif", "resolution": 10, "reduction": "mean"}
    assert opened(tmp_path, {"s2": SERIES}, labels=labels).labels()[:, 0].tolist() == pytest.approx([25.0] * 4)
    with rasterio.open(path, "r+") as file:
        file.write_mask(np.where(np.arange(SIDE) < 4, 0, 255).astype(np.uint8)[None].repeat(SIDE, 0))
    assert opened(tmp_path, {"s2": SERIES}, labels=labels).names == ["a_r0000_c0040", "a_r0040_c0040"]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_vector_files_in_place_of_a_raster_are_refused_with_the_way_out(tmp_path, suffix):
    write_series(tmp_path)
    (tmp_path / f"a{suffix}").write_text("{}")
    labels = {"files": f"{{scene}}{suffix}", "resolution": 10, "reduction": "majority", "classes": {"a": 1}}
    with pytest.raises(ValueError, match=rf"given as labels: \{{vector: a{suffix}, field: FIELD\}}"):
        opened(tmp_path, {"s2": SERIES}, labels=labels)
    trees = {"files": f"{{scene}}{suffix}", "axes": ["band", "y", "x"], "bands": ["trees"], "resolution": 10}
    with pytest.raises(
        ValueError, match=r"vector files are not read; rasterize it first, e.g. gdal_rasterize -a FIELD -tr 10 10"
    ):
        opened(tmp_path, {"s2": SERIES, "trees": trees})
