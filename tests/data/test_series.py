"""Which dates are taken, and what becomes of gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.data import Modality, Tile, TileDataset, collate
from fusion.data.folder.calendar import parse_dates
from fusion.data.series import choose_dates, fill_gaps


def test_the_clearest_date_of_each_interval_is_taken():
    days = np.array([0, 1, 2, 30, 31, 32, 60, 61, 89])
    quality = np.array([0.5, 0.9, 0.5, 0.0, 0.6, 0.7, 0.8, 0.8, 0.2])
    assert choose_dates(days, quality, 3, None).tolist() == [1, 5, 6]
    assert choose_dates(days, quality, None, None).tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert choose_dates(days, quality, 100, None).tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert len(choose_dates(days, np.zeros(9), 3, None)) == 0


@given(
    quality=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    limit=st.integers(1, 20),
    seed=st.none() | st.integers(0, 9),
)
@settings(max_examples=200, deadline=None)
def test_chosen_dates_are_usable_distinct_ascending_and_as_many_as_can_be(quality, limit, seed):
    quality = np.array(quality)
    days = np.cumsum(np.random.default_rng(len(quality)).integers(1, 20, len(quality)))
    rng = None if seed is None else np.random.default_rng(seed)
    chosen = choose_dates(days, quality, limit, rng)
    assert len(chosen) == min(limit, (quality > 0).sum())
    assert (np.diff(chosen) > 0).all()
    assert (quality[chosen] > 0).all()


def test_gaps_take_the_mean_of_band_and_date():
    values = np.arange(2 * 2 * 4, dtype=np.float32).reshape(2, 2, 2, 2)
    values[0, 0, 0] = np.nan
    filled, valid = fill_gaps(values)
    assert filled[0, 0].tolist() == [[2.5, 2.5], [2, 3]]
    assert np.array_equal(filled[1], values[1])
    assert valid.all()
    values[1, 1, :, :] = np.nan
    filled, valid = fill_gaps(values)
    assert valid.tolist() == [True, False]
    assert filled[1].max() == 0
    assert fill_gaps(values, max_missing=0.4)[1].tolist() == [False, False]
    assert not fill_gaps(np.full((1, 1, 2, 2), np.nan), max_missing=1)[1].any()


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), fill=st.sampled_from([np.nan, np.inf, -np.inf]))
@settings(max_examples=60, deadline=None)
def test_whatever_a_reader_returns_a_batch_is_finite(seed, share, fill):
    rng = np.random.default_rng(seed)
    series, image = Modality("s", "series", ("a", "b"), 10.0, 1), Modality("i", "image", ("c",), 10.0, 1)

    class Careless(TileDataset):
        def _read(self, row, _):
            def spoilt(*shape):
                values = rng.normal(size=shape).astype(np.float32)
                values[rng.random(shape) < share**2] = fill
                return torch.from_numpy(values)

            length = int(rng.integers(1, 6))
            return Tile("t", {"s": spoilt(length, 2, 2, 2), "i": spoilt(1, 2, 2)}, {"s": torch.arange(length)})

    data = Careless(["a", "b", "c"], (series, image), (2, 2))
    tiles = [data[i] for i in range(3)]
    if not any(tile.values for tile in tiles):
        with pytest.raises(ValueError, match="nothing was observed"):
            collate(tiles)
        return
    batch = collate(tiles)
    assert all(torch.isfinite(values).all() for values in batch.values.values())
    for name, valid in batch.valid.items():
        assert not batch.values[name][~valid].any()


@pytest.mark.parametrize(
    ("values", "units", "expected"),
    [
        (["2020-02-29", b"20200301", "2020-03"], None, ["2020-02-29", "2020-03-01", "2020-03-15"]),
        (np.array(["2020-02-29T10:20:00"], dtype="M8[s]"), None, ["2020-02-29"]),
        (["2020-02-29T10:20:00Z"], None, ["2020-02-29"]),
        (np.array([0, 365]), "days since 2019-01-01", ["2019-01-01", "2020-01-01"]),
        (np.array([36.0]), "hours since 2020-1-1 00:00:00", ["2020-01-02"]),
        (np.array([20200229, 20210101]), None, ["2020-02-29", "2021-01-01"]),
        (["Nov", "December", "jan"], None, ["1970-11-15", "1970-12-15", "1971-01-15"]),
        ([], None, []),
    ],
)
def test_dates_as_files_write_them(values, units, expected):
    dates, _ = parse_dates(values, units)
    assert dates.tolist() == np.array(expected, dtype="M8[D]").tolist()


@pytest.mark.parametrize(
    ("values", "units", "message"),
    [
        (["2021-02-29"], None, "'2021-02-29' is not a date"),
        (["soon"], None, "'soon' is not a date; 2020-08-17"),
        (np.array([12]), None, "'12' is not a date"),
        (np.array([1]), "fortnights since 2020-01-01", "nanoseconds> since 2020-01-01 12:00:00' are understood"),
    ],
)
def test_what_is_no_date(values, units, message):
    with pytest.raises(ValueError, match=message):
        parse_dates(values, units)
