"""What does not fit a model is refused, in words that say what was given and how to mend it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import fusion

from .ground import S1, S2, encoder, optical, radar, saved

CUBE = optical()
ALIKE = S1.__class__("s1-des", *(getattr(S1, n) for n in ("kind", "bands", "resolution", "patch_size", "unit")))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return fusion.load(saved(tmp_path_factory.mktemp("run"), encoder(S2, S1)))


def stepped(axis: str, values: np.ndarray) -> xr.DataArray:
    return CUBE.assign_coords({axis: values})


REFUSED = {
    "a band is lacking": (CUBE[:, :3], "s2: no band B08 among B02, B03, B04; the model wants B02, B03, B04, B08"),
    "no names of bands": (
        CUBE.drop_vars("band"),
        r"s2: the bands have no names; name them, e.g. x.assign_coords\(band=",
    ),
    "another unit": (CUBE / 10_000, "look like 0..1, but the unit is said to be 'reflectance x 10000'"),
    "embeddings in eight bits": ((CUBE / 40).fillna(0).astype(np.int8), "look like .*, but .*reflectance x 10000"),
    "no dates": (CUBE.drop_vars("time"), r"s2: its axis 'time' has no dates; give it some, x.assign_coords\(time="),
    "no axis of time": (CUBE.isel(time=0, drop=True), "s2: a series in the model; its array has no axis time"),
    "dates are missing": (stepped("time", np.r_[CUBE.time[:5], np.datetime64("NaT")]), r"1 of 6 dates are missing"),
    "numbers for dates": (stepped("time", np.arange(6)), "is no date, numbers of type int64; decode times"),
    "an axis of another kind": (
        CUBE.expand_dims("member"),
        "member is none of time, band, y and x: rename it, or choose",
    ),
    "smaller than a tile": (CUBE[..., :5, :], "the arrays cover 50 x 360 m, a tile of the model is 80 x 80 m"),
    "pixels of another size": (
        CUBE.coarsen(y=2, x=2).mean().assign_attrs(crs="EPSG:32631"),
        r"s2: pixels of 20 x 20 m, the model was trained on 10 m; resample the array, e.g. x.rio.reproject\(",
    ),
    "uneven coordinates": (stepped("x", np.r_[CUBE.x[:35], CUBE.x[35] + 400]), "x of 'values' is not evenly spaced"),
    "no CRS that there is": (CUBE.assign_attrs(crs="EPSG:1"), "s2: 'EPSG:1' is no coordinate reference system"),
    "another place": (
        {"s2": CUBE, "s1": radar().assign_coords(x=radar().x + 70)},
        "s1: .*origin .* where the tiles have",
    ),
    "another extent": ({"s2": CUBE, "s1": radar(8, 18)}, "s1: .*bounds .* where the tiles have"),
    "another CRS": (
        {"s2": CUBE, "s1": radar().assign_attrs(crs="EPSG:32632")},
        "s1: .*CRS EPSG:32632 where the tiles have EPSG:32631",
    ),
    "an unknown modality": ({"landsat": CUBE}, r"arrays of landsat; the model has s2 \(B02, B03, B04, B08\); s1"),
    "nothing": ({}, "arrays of nothing; the model has"),
    "text": (CUBE.astype(str), "s2: .* holds <U.*, numbers are wanted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named(model, case):
    given, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        model.embed(given)


def test_plain_arrays_need_their_names_and_dates(model):
    with pytest.raises(TypeError, match=r"arrays of ndarray: say whose they are, e.g. {'s2': array}"):
        model.embed(CUBE.values)
    with pytest.raises(ValueError, match=r"s2: a series; give its dates, dates=\{'s2'"):
        model.embed({"s2": CUBE.values})
    with pytest.raises(ValueError, match=r"s2: 5 dates of values \(6, 4, 24, 36\)"):
        model.embed({"s2": CUBE.values}, dates=CUBE.time.values[:5])
    with pytest.raises(ValueError, match=r"s2: a series is \(time, band, y, x\), an array of shape \(4, 24, 36\)"):
        model.embed({"s2": CUBE.values[0]}, dates=CUBE.time.values)
    with pytest.raises(ValueError, match="dates: xarray has its own coordinates; these are of plain arrays"):
        model.embed(CUBE, dates=CUBE.time.values)


def test_bands_that_two_sensors_have_are_asked_about(tmp_path):
    model = fusion.load(saved(tmp_path, encoder(S1, ALIKE.with_statistics(S1.mean, S1.std))))
    with pytest.raises(ValueError, match="the bands VV, VH may be of 's1' and of 's1-des'; say which by a mapping"):
        model.embed(radar())
    assert np.isfinite(model.embed(radar().rename("s1")).values).all()  # its name says it


def test_a_check_of_the_range_may_be_left_out(model):
    assert np.isfinite(model.embed(CUBE / 10_000, check=False).values).all()


def test_what_is_no_model_of_arrays(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        fusion.load(tmp_path / "nothing.safetensors")
