"""Dates of described folders: units, times of day, calendars, steps without date, offsets that go by date."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
import xarray

from fusion.data.folder.calendar import parse_dates

from .rasters import DATES, DAYS, SERIES, image, opened, write_series

VALUES = np.stack([image(k) for k in range(3)])
STORED = {"variable": "s2", "bands": ["B04", "B08"], "resolution": 10, "dates": "time"}


def days(values, units, calendar=None):
    return parse_dates(np.asarray(values), units, calendar)[0].astype(str).tolist()


@pytest.mark.parametrize(
    ("values", "units", "dates"),
    [
        ([0, 1], "days since 2020-02-28", ["2020-02-28", "2020-02-29"]),
        ([0.4, 0.6], "days since 2020-01-01 12:00:00", ["2020-01-01", "2020-01-02"]),
        ([11, 12], "hours since 2020-01-01T12:00", ["2020-01-01", "2020-01-02"]),
        ([0, 60], "minutes since 2019-12-31 23:00", ["2019-12-31", "2020-01-01"]),
        ([1586513131], "seconds since 1970-01-01 00:00:00 UTC", ["2020-04-10"]),
        ([0, 2591998437], "milliseconds since 2020-04-10 10:20:31.024000", ["2020-04-10", "2020-05-10"]),
        ([86_400_000_000], "microseconds since 2020-01-01", ["2020-01-02"]),
        ([1586513131024000000], "nanoseconds since 1970-01-01", ["2020-04-10"]),
        ([0], "days since 2020-01-01 01:00 +02:00", ["2019-12-31"]),
        ([0], "days since 2020-01-01 23:00:00 -0200", ["2020-01-02"]),
        ([0], "Days Since 2020-1-1", ["2020-01-01"]),
        ([18362.99999999999], "days since 1970-01-01", ["2020-04-11"]),  # a hair before midnight
        ([737425], "days since 0001-01-01", ["2019-12-31"]),  # Julian until 1582: the standard calendar
    ],
)  # fmt: skip
def test_numbers_are_dates_by_their_units(values, units, dates):
    assert days(values, units) == dates


def test_a_year_before_the_gregorian_calendar_goes_by_the_calendar():
    assert days([737425], "days since 0001-01-01", "proleptic_gregorian") == ["2020-01-02"]
    assert days([1], "days since 1582-10-04") == ["1582-10-15"]  # the Julian 4 October was followed by the 15th


@pytest.mark.parametrize(
    ("calendar", "values", "dates"),
    [
        ("noleap", [59, 60, 424], ["2020-03-01", "2020-03-02", "2021-03-01"]),
        ("365_day", [59], ["2020-03-01"]),
        ("all_leap", [59, 60], ["2020-02-29", "2020-03-01"]),
        ("360_day", [60, 61, 429], ["2020-03-01", "2020-03-02", "2021-03-10"]),
    ],
)
def test_other_calendars_name_their_dates(calendar, values, dates):
    pytest.importorskip("cftime")
    assert days(values, "days since 2020-01-01", calendar) == dates


def test_a_date_that_exists_in_its_own_calendar_alone_is_refused():
    pytest.importorskip("cftime")
    with pytest.raises(ValueError, match=r"30 Feb 2020 of the calendar '360_day' is no date; convert the file"):
        parse_dates(np.array([59]), "days since 2020-01-01", "360_day")


def test_a_calendar_without_cftime_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cftime", None)
    with pytest.raises(ValueError, match="calendar 'noleap' needs the package cftime: pip install cftime"):
        parse_dates(np.array([59]), "days since 2020-01-01", "noleap")


@pytest.mark.parametrize(
    "units", ["months since 2020-01-01", "years since 2020-01-01", "days after 2020-01-01", "days"]
)
def test_units_of_no_fixed_length_are_refused(units):
    with pytest.raises(ValueError, match="since 2020-01-01 12:00:00' are understood"):
        parse_dates(np.array([1]), units)


@pytest.mark.parametrize(
    "values",
    [
        (np.array(["2020-01-01", "NaT"], "datetime64[ns]"), None),
        (np.array([1.0, np.nan]), "days since 2020-01-01"),
        (np.ma.masked_values([1.0, -9999.0], -9999.0), "days since 2020-01-01"),
    ],
)
def test_a_step_without_date_is_refused_with_its_number(values):
    with pytest.raises(ValueError, match=r"1 of 2 time steps have no date \(NaT\), the first is step 1"):
        parse_dates(*values)


@pytest.mark.parametrize("suffix", [".h5", ".nc", ".zarr"])
def test_units_and_calendar_are_read_beside_the_dates(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["s2"], file["time"] = VALUES, np.array(DAYS) - 0.5
            file["time"].attrs.update(units="days since 2020-01-01 12:00", calendar="standard")
    else:
        times = np.array([f"{date}T10:20:31.024" for date in DATES], "datetime64[ns]")
        dataset = xarray.Dataset({"s2": (("time", "band", "y", "x"), VALUES)}, coords={"time": times})
        dataset.to_netcdf(path, engine="h5netcdf") if suffix == ".nc" else dataset.to_zarr(path, zarr_format=2)
    assert opened(tmp_path, {"s2": STORED}, files=f"a{suffix}")[0].days["s2"].tolist() == DAYS


def test_dates_of_the_description_and_of_the_names_must_agree(tmp_path):
    write_series(tmp_path)
    assert opened(tmp_path, {"s2": SERIES | {"dates": DATES}})[0].days["s2"].tolist() == DAYS
    with pytest.raises(ValueError, match="the dates of the description differ from those in the names of the files"):
        opened(tmp_path, {"s2": SERIES | {"dates": [DATES[0], DATES[2], DATES[1]]}})


def test_more_files_than_dates_and_several_files_for_one_are_refused(tmp_path):
    write_series(tmp_path)
    with pytest.raises(ValueError, match="2 dates for 3 time steps"):
        opened(tmp_path, {"s2": SERIES | {"dates": DATES[:2]}})
    single = {"files": "s2/{scene}_*.tif", "axes": ["band", "y", "x"], "bands": ["B04", "B08"], "resolution": 10}
    with pytest.raises(
        ValueError, match=r"a_2020-04-10.tif: 3 files match for 's2' of one scene, one is wanted: a_2020-05-10"
    ):
        opened(tmp_path, {"s2": single})
    labels = {"files": "s2/{scene}_{date}.tif", "resolution": 10, "reduction": "mean"}
    with pytest.raises(ValueError, match="3 files match for labels of one scene, one is wanted"):
        opened(tmp_path, {"s2": SERIES}, labels=labels)


def test_offsets_hold_from_their_date_on(tmp_path):
    write_series(tmp_path)
    data = opened(tmp_path, {"s2": SERIES | {"offset": {"2020-06-01": -900, "2020-05-10": -1000}}})
    assert np.array_equal(data[0].values["s2"], VALUES[:, :, :4, :4] - np.array([0, 1000, 900.0])[:, None, None, None])
    (tmp_path / "fusion.yaml").write_text(
        "files: x\ntile: 40\npatch: 20\nmodalities:\n  s2:\n    files: 's2/{scene}_{date}.tif'\n    bands: [B04, B08]\n"
        "    resolution: 10\n    offset: {2020-06-01: -900, 2020-05-10: -1000}\n"
    )
    from fusion.data import FolderDataset

    assert np.array_equal(FolderDataset(tmp_path / "fusion.yaml", tmp_path)[3].values["s2"], data[3].values["s2"])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["s2"], file["time"] = VALUES, [date.encode() for date in DATES]
        file["radio_add_offset"] = np.array([0, -1000, -1000])
    data = opened(tmp_path, {"s2": STORED | {"offset": "radio_add_offset"}}, files="a.h5")
    assert data[0].values["s2"][:, 0, 0, 0].tolist() == [1000, 1000, 2000]


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        ({"soon": -1000}, "offset: 'soon' is not a date"),
        ({"2022-01-25": "much"}, "offset from 2022-01-25 must be a number, not 'much'"),
        (["a"], "offset must be a number"),
    ],
)
def test_offsets_that_cannot_be_are_refused(tmp_path, offset, message):
    write_series(tmp_path)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, {"s2": SERIES | {"offset": offset}})
    image_source = {"files": "s2/a_2020-04-10.tif", "axes": ["band", "y", "x"], "bands": ["a", "b"], "resolution": 10}
    with pytest.raises(ValueError, match="an offset by date, but no dates"):
        opened(tmp_path, {"s2": image_source | {"offset": {"2022-01-25": -1000}}})


def test_a_time_of_day_in_a_zone_is_turned_to_utc_as_numbers_are():
    found, _ = parse_dates(["2020-04-10T23:30:00-05:00", "2020-05-10 01:00+02:00", "2020-06-10T23:30:00.123456Z"])
    assert found.astype(str).tolist() == ["2020-04-11", "2020-05-09", "2020-06-10"]


def test_dates_in_single_characters_are_joined():
    found, _ = parse_dates(np.array([list("2020-04-10"), list("2020-05-10")], "S1"))
    assert found.astype(str).tolist() == ["2020-04-10", "2020-05-10"]


@pytest.mark.parametrize("fill", [np.iinfo(np.int64).min, -9999])
def test_a_time_that_the_file_calls_missing_is_no_date(tmp_path, fill):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["s2"] = np.stack([image(k) for k in range(3)])
        file["time"] = np.array([18362, fill, 18423])
        file["time"].attrs.update(units="days since 1970-01-01", _FillValue=fill)
    s2 = {"variable": "s2", "bands": ["B04", "B08"], "resolution": 10, "dates": "time"}
    with pytest.raises(ValueError, match=r"1 of 3 time steps have no date \(NaT\), the first is step 1"):
        opened(tmp_path, {"s2": s2}, files="{scene}.h5")


def test_flags_and_offsets_beside_the_dates_are_unpacked(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["s2"] = np.stack([image(k) for k in range(3)])
        file["time"] = np.array([18362, 18392, 18423])
        file["time"].attrs["units"] = "days since 1970-01-01"
        file["shift"] = np.array([0, 0, -10], np.int16)
        file["shift"].attrs["scale_factor"] = 100.0
        file["there"] = np.array([1, -1, 1], np.int8)
        file["there"].attrs["_FillValue"] = np.int8(-1)
    s2 = {"variable": "s2", "bands": ["B04", "B08"], "resolution": 10, "dates": "time", "offset": "shift"}
    tile = opened(tmp_path, {"s2": s2 | {"available": "there"}}, files="{scene}.h5")[0]
    assert tile.values["s2"][:, 0, 0, 0].tolist() == [1000.0, 2000.0]
    assert tile.days["s2"].tolist() == [100, 161]


def test_a_file_of_dates_may_begin_with_a_mark_of_its_encoding_and_end_in_capitals(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([image(k) for k in range(3)]))
    (tmp_path / "a_dates.TXT").write_text("\ufeff" + "\r\n".join(DATES), encoding="utf-8")
    s2 = {"bands": ["B04", "B08"], "resolution": 10, "dates": "{scene}_dates.TXT"}
    assert opened(tmp_path, {"s2": s2}, files="{scene}.npy")[0].days["s2"].tolist() == DAYS
