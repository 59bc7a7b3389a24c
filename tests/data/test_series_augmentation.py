"""What augmentation does to series: dates, modalities, values and days, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Augmentation, Modality, TileDataset

DAYS = np.arange(20) * 10
MEANS, STDS = (
    {"s2": (5.0, 50.0), "s1": (-10.0,), "height": (300.0,)},
    {"s2": (2.0, 20.0), "s1": (3.0,), "height": (9.0,)},
)
BANDS = {"s2": ("a", "b"), "s1": ("v",), "height": ("h",)}
MODALITIES = [
    Modality(name, "image" if name == "height" else "series", BANDS[name], 10.0, 1).with_statistics(
        MEANS[name], STDS[name]
    )
    for name in BANDS
]


def tiles() -> TileDataset:
    """Two tiles of two patches; date k of the series is 100 k more than the first."""
    rng = np.random.default_rng(0)
    step = 100.0 * np.arange(20)[:, None, None, None]
    values = {"s2": rng.normal(size=(2, 20, 2, 1, 2)) + step, "s1": rng.normal(size=(2, 20, 1, 1, 2)) + step}
    values["height"] = rng.normal(size=(2, 1, 1, 2))
    values["s2"][1, :3] = np.nan  # dates 0 to 2 of the second tile are not valid
    labels = torch.tensor([1, 0])
    return ArrayTiles(
        MODALITIES,
        values,
        {"s2": DAYS, "s1": DAYS},
        task="multiclass",
        classes=("no", "yes"),
        labels=labels,
        grid=(1, 2),
    )


def views(augmentation: Augmentation, tile: int = 0, count: int = 200) -> list:
    data = tiles().with_augmentation(augmentation)
    return [data[tile, seed] for seed in range(count)]


def dates(tile, name: str) -> list[int]:
    return sorted(tile.days[name][tile.valid.get(name, torch.ones(len(tile.days[name]), dtype=torch.bool))].tolist())


def test_a_span_of_neighbouring_dates_is_left_out_and_no_more_than_the_share():
    lengths, firsts = set(), set()
    for view in views(Augmentation(span_dropout=0.3)):
        for name in ("s2", "s1"):
            missing = np.setdiff1d(DAYS, dates(view, name)) // 10
            lengths.add(len(missing))
            assert len(missing) < 2 or np.all(np.diff(missing) == 1)
            firsts |= set(missing[:1])
    assert lengths == set(range(7))  # 0.3 of 20 dates is 6
    assert min(firsts) == 0
    assert max(firsts) == 19


def test_one_valid_date_stays_where_a_span_would_leave_none():
    data = tiles().subset([1]).with_augmentation(Augmentation(date_dropout=0.9, span_dropout=0.95))
    counts = {len(dates(data[0, seed], "s2")) for seed in range(200)}
    assert min(counts) == 1
    assert all(min(dates(data[0, seed], "s2")) >= 30 for seed in range(50))  # the first three were never valid


def test_each_modality_is_left_out_with_its_probability_and_one_stays():
    seen = [tuple(view.values) for view in views(Augmentation(modality_dropout=0.5), count=2000)]
    assert min(map(len, seen)) == 1
    assert {view for view in seen if len(view) == 1} == {("s2",), ("s1",), ("height",)}
    # All three are dropped in 1/8 of the views, and each is then kept in a third of these.
    assert np.mean(["s1" in names for names in seen]) == pytest.approx(1 / 2 + 1 / 24, abs=0.04)
    for view in views(Augmentation(modality_dropout=0.5), count=20):
        assert set(view.days) <= set(view.values)
        assert set(view.observed) <= set(view.values)


def test_gain_and_offset_are_one_number_a_band_for_all_dates_and_pixels():
    plain = tiles()[0]
    found = []
    for view in views(Augmentation(gain=0.1, offset=0.5)):
        row = []
        for name in BANDS:
            before = plain.values[name].double().movedim(-3, 0).flatten(1)  # (C, n)
            after = view.values[name].double().movedim(-3, 0).flatten(1)
            for x, y, mean, std in zip(before, after, MEANS[name], STDS[name], strict=True):
                slope = (y[-1] - y[0]) / (x[-1] - x[0])
                shift = (y - x - (slope - 1) * (x - mean)) / std  # the same everywhere
                assert shift.max() - shift.min() < 2e-3
                row += [float(slope) - 1, float(shift.mean())]
        found.append(row)
    gains, offsets = np.array(found)[:, ::2], np.array(found)[:, 1::2]
    assert np.abs(gains).max() == pytest.approx(0.1, abs=0.005)
    assert np.abs(offsets).max() == pytest.approx(0.5, abs=0.02)
    assert np.abs(gains.mean(0)).max() < 0.02
    assert np.abs(offsets.mean(0)).max() < 0.1
    assert (
        np.abs(np.corrcoef(np.concatenate([gains, offsets], 1).T) - np.eye(8)).max() < 0.3
    )  # bands do not go together


def test_all_series_move_by_the_same_days():
    plain = tiles()[0]
    moved = set()
    for view in views(Augmentation(shift_days=3)):
        by = {int(d) for name in ("s2", "s1") for d in (view.days[name] - plain.days[name])}
        assert len(by) == 1
        moved |= by
        assert torch.equal(view.values["s2"], plain.values["s2"])
    assert moved == set(range(-3, 4))


def test_the_label_and_the_evaluation_view_stay():
    changed = Augmentation(span_dropout=0.3, modality_dropout=0.3, gain=0.1, offset=0.1, shift_days=5, date_dropout=0.2)
    data, plain = tiles().with_augmentation(changed), tiles()
    for i in (0, 1):
        assert data[i, 7].label == plain[i].label
        assert torch.equal(data[i].values["s2"], plain[i].values["s2"])
        again = data[i, 7]
        assert all(torch.equal(again.values[name], value) for name, value in data[i, 7].values.items())


def test_new_changes_leave_the_dates_that_were_dropped_before_as_they_were():
    before = views(Augmentation(date_dropout=0.3), count=20)
    after = views(Augmentation(date_dropout=0.3, gain=0.1, shift_days=0), count=20)
    assert [dates(view, "s2") for view in before] == [dates(view, "s2") for view in after]


def test_deviations_can_be_given_and_must_be_known():
    plain = tiles()
    bare = ArrayTiles(
        [Modality("s1", "series", ("v",), 10.0, 1)],
        {"s1": np.stack([plain[i].values["s1"].numpy() for i in (0, 1)])},
        {"s1": DAYS},
        grid=(1, 2),
    )
    with pytest.raises(ValueError, match=r"not known of s1; give statistics=fusion.data.fit_statistics"):
        bare.with_augmentation(Augmentation(offset=0.5))
    given = bare.with_augmentation(Augmentation(offset=0.5), [MODALITIES[1]])
    shifts = [float((given[0, seed].values["s1"] - bare[0].values["s1"]).mean()) for seed in range(300)]
    assert max(map(abs, shifts)) == pytest.approx(0.5 * 3.0, rel=0.03)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"span_dropout": 1.0}, "span_dropout is a share from 0 to below 1, not 1.0"),
        ({"modality_dropout": -0.1}, "modality_dropout is a probability from 0 to below 1, not -0.1"),
        ({"gain": 1.0}, "gain is from 0 to below 1, not 1.0"),
        ({"offset": -1.0}, "offset is a number of standard deviations of 0 or more, not -1.0"),
        ({"shift_days": 2.5}, "shift_days is a whole number of days of 0 or more, not 2.5"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)
