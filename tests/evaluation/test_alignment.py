"""Places that were observed on different dates are made comparable, and nothing else is changed."""

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Modality
from fusion.data.months import in_months, months_of
from fusion.evaluation.alignment import aligned, common_months, standardised_by_place


def series(tiles, months, name="s2"):
    """Tiles of one pixel with a date in the middle of each of some months."""
    days = (np.asarray(months) + 0.5) * 365.25 / 12
    modality = Modality(name, "series", ("B04",), 10.0, 1)
    values = np.random.default_rng(0).normal(size=(tiles, len(months), 1)).astype(np.float32)
    return ArrayTiles([modality], {name: values}, {name: days.astype(int)})


def test_months_are_twelfths_of_any_year():
    assert months_of(torch.tensor([0, 30, 31, 364, 365, 366, 400])).tolist() == [0, 0, 1, 11, 11, 0, 1]


def test_common_months_are_those_of_both():
    first, second = series(4, [0, 4, 5, 6]), series(4, [4, 5, 6, 11])
    months = common_months(first, second)
    assert np.flatnonzero(months["s2"]).tolist() == [4, 5, 6]
    view = first.with_months(months)
    assert view[0].valid["s2"].tolist() == [False, True, True, True]
    assert first[0].valid["s2"].all()  # the data set stays as it was
    assert torch.equal(view[0].values["s2"], first[0].values["s2"])


def test_a_series_without_a_common_month_is_left_as_it_is():
    assert common_months(series(2, [0, 1]), series(2, [6, 7])) == {}


def test_a_month_counts_where_half_of_the_tiles_have_it():
    data = series(4, [0, 4])
    tile = in_months(data[0], {"s2": np.arange(12) == 4})
    assert tile.valid["s2"].tolist() == [False, True]


def test_every_place_gets_mean_0_and_deviation_1_by_column():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).astype(np.float32) * 4 + 1000
    x[30:] += 50
    x[:, 2] = 7  # does not vary
    x[0, 0] = np.nan
    out = standardised_by_place(x, np.repeat(["a", "b"], 30))
    for rows in (slice(0, 30), slice(30, 60)):
        np.testing.assert_allclose(np.nanmean(out[rows, :2], 0), 0, atol=1e-4)
        np.testing.assert_allclose(np.nanstd(out[rows, :2], 0), 1, atol=1e-4)
    assert (out[:, 2] == 0).all()
    assert np.isnan(out[0, 0])
    assert np.isnan(out).sum() == 1
    assert standardised_by_place(x, None) is x


def test_tiles_of_no_known_scene_are_not_touched():
    train, test = series(20, [0, 4]), series(20, [4])
    found = aligned(train, test)
    assert found.train is train
    assert found.test is test
    assert str(found) == ""
    with pytest.raises(ValueError, match=r"ArrayTiles, e.g. .* have no scenes"):
        aligned(train, test, "places")
