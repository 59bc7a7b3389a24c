"""GeoTIFFs whose bands are dates, or dates and bands in either order."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from fusion.data.describe import describe

from .describing import comment, described, questions, values
from .rasters import DATES, DAYS, SIDE, opened, write

LAYERS = 6  # three dates of two bands
BANDS = ["B04", "B08"]
VALUES = (1000 * np.arange(3)[:, None, None, None] + 100 * np.arange(2)[:, None, None]
          + np.arange(1, SIDE**2 + 1).reshape(SIDE, SIDE)).astype(np.uint16)  # (dates, bands, H, W)  # fmt: skip


def layers(path, order, *, described=True, bands=BANDS, dtype=np.uint16, dates=DATES):
    """A file of all layers, date by date or band by band."""
    if order == "dates":
        arrays, names = VALUES[:, 0], list(dates)
    elif order == "by date":
        arrays, names = VALUES.reshape(-1, SIDE, SIDE), [f"{d}_{b}" for d in dates for b in bands]
    else:
        arrays = VALUES.transpose(1, 0, 2, 3).reshape(-1, SIDE, SIDE)
        names = [f"{b} {d.replace('-', '')}" for b in bands for d in dates]
    write(path, arrays.astype(dtype))
    if described:
        with rasterio.open(path, "r+") as file:
            file.descriptions = names
    return path


AXES = {"dates": ["time", "y", "x"], "by date": ["time", "band", "y", "x"], "by band": ["band", "time", "y", "x"]}


@pytest.mark.parametrize("order", AXES)
@pytest.mark.parametrize("dates", ["descriptions", DATES])
def test_layers_are_dates_and_bands_in_the_order_of_axes(tmp_path, order, dates):
    layers(tmp_path / "a.tif", order, described=dates == "descriptions")
    bands = ["ndvi"] if order == "dates" else BANDS
    source = {"files": "{scene}.tif", "axes": AXES[order], "bands": bands, "resolution": 10, "dates": dates}
    tiles = opened(tmp_path, {"s2": source})
    tile = tiles[3]
    assert tile.days["s2"].tolist() == DAYS
    wanted = VALUES[:, : len(bands), 4:, 4:]
    np.testing.assert_array_equal(tile.values["s2"].numpy(), wanted)
    assert tiles.modality("s2").bands == tuple(bands)
    one = opened(tmp_path, {"s2": source | {"max_dates": 1, "use": bands[-1:]}})[0]
    assert one.values["s2"].shape == (1, 1, 4, 4)
    assert one.values["s2"][0, 0, 0, 0] in VALUES[:, len(bands) - 1, 0, 0]


def test_a_fourth_layer_of_eight_bits_is_a_date_and_no_mask(tmp_path):
    values = np.arange(4 * SIDE**2).reshape(4, SIDE, SIDE) % 250
    write(tmp_path / "a.tif", values.astype(np.uint8), photometric="RGB", alpha="YES")
    dates = ["2020-01-01", "2020-02-01", "2020-03-01", "2020-04-01"]
    source = {"files": "{scene}.tif", "axes": ["time", "y", "x"], "bands": ["h"], "resolution": 10, "dates": dates}
    np.testing.assert_array_equal(opened(tmp_path, {"h": source})[0].values["h"][:, 0].numpy(), values[:, :4, :4])


@pytest.mark.parametrize(
    ("order", "changes", "told"),
    [
        ("by date", {"bands": ["a", "b", "c", "d"]}, "6 bands in the file are no whole number of dates of 4 bands"),
        ("by date", {"axes": AXES["by band"]}, r"axes: \[time, band, y, x\] is their order"),
        ("by date", {"bands": ["B08", "B04"]}, "its bands are B04, B08 in this order, the description names B08, B04"),
        ("by date", {"dates": DATES[:2]}, "2 dates for 3 time steps"),
        ("none", {}, r"descriptions of its bands \(none, ...\) do not name 3 dates"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, order, changes, told):
    layers(tmp_path / "a.tif", "by date" if order == "none" else order, described=order != "none")
    source = {"files": "{scene}.tif", "axes": AXES["by date"], "bands": BANDS, "resolution": 10}
    with pytest.raises(ValueError, match=told):
        opened(tmp_path, {"s2": source | {"dates": "descriptions"} | changes})


@pytest.mark.parametrize("order", AXES)
def test_descriptions_of_bands_are_recognised_as_a_series(tmp_path, order):
    layers(tmp_path / "ndvi.tif", order)
    guess, tiles = described(tmp_path)
    (name, source), *_ = guess.description["modalities"].items()
    assert source["axes"] == AXES[order]
    assert source["dates"] == "descriptions"
    assert not any(question.needed for question in guess.questions)
    assert comment(guess, "modalities", name, "axes").endswith("3 dates 2020-04-10..2020-06-10")
    assert source["bands"] == (["ndvi"] if order == "dates" else BANDS)
    assert tiles[0].days[name].tolist() == DAYS
    side = tiles[0].values[name].shape[-1]
    np.testing.assert_array_equal(values(tiles, name), VALUES[:, : len(source["bands"]), :side, :side])


def test_a_list_of_dates_beside_the_file_tells_a_series(tmp_path):
    layers(tmp_path / "height.tif", "dates", described=False)
    (tmp_path / "height_dates.txt").write_text("\n".join(DATES) + "\n")
    guess, tiles = described(tmp_path)
    source = guess.description["modalities"]["height"]
    assert (source["axes"], source["bands"], source["dates"]) == (AXES["dates"], ["height"], "height_dates.txt")
    assert tiles[0].days["height"].tolist() == DAYS


def test_the_order_of_dates_and_bands_is_asked_for_where_nothing_tells_it(tmp_path):
    layers(tmp_path / "height.tif", "by date", described=False)
    (tmp_path / "dates.txt").write_text("\n".join(DATES))
    guess = describe(tmp_path)
    assert "in which order are the 6 bands of height.tif, and what are the names of the 2 of each date?" in questions(
        guess
    )
    assert any(question.needed for question in guess.questions)


def test_bands_that_may_be_dates_are_asked_for(tmp_path):
    layers(tmp_path / "height.tif", "dates", described=False)
    assert "if they are dates, give axes: [time, y, x]" in questions(describe(tmp_path))
    layers(tmp_path / "height.tif", "dates", dates=["2020-04-10", "2020-05-10", "height"])
    guess = describe(tmp_path)
    assert "Their descriptions have dates (2020-04-10, 2020-05-10, height, ...) in no regular order" in questions(guess)
    assert any(question.needed for question in guess.questions)
