import numpy as np
import pytest
import torch

from fusion.context.samples import ContextSamples, context_frames, nearest_frames, site_splits
from fusion.context.two_stage import Recipe, TwoStages, with_sensor
from fusion.data import collate
from fusion.data.cubes import Cube, SensorCube

from .conftest import S1, S2, WINDOW, make_cube, small


def test_context_is_the_nearest_dates_on_which_the_pixel_was_seen():
    days = np.array([0, 10, 20, 30, 40, 50, 60, 300])
    seen = np.array([[1, 1, 0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]], dtype=bool)
    chosen = context_frames(seen, days, np.array([3, 3]), frames=5, span=200)
    assert chosen.tolist() == [[0, 1, 3, 4, 6], [1, 2, 3, 4, 5]]


def test_context_ends_with_the_series_and_with_the_span():
    days = np.array([0, 10, 20, 30, 140])
    seen = np.ones((3, 5), dtype=bool)
    chosen = context_frames(seen, days, np.array([0, 4, -1]), frames=5, span=200)
    assert chosen.tolist() == [[-1, -1, 0, 1, 2], [-1, -1, 4, -1, -1], [-1] * 5]


def test_spaced_context_leaves_out_what_is_too_near():
    days = np.array([0, 3, 6, 9, 12, 20, 21, 40])
    seen = np.array([[1, 1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 1, 1]], dtype=bool)
    chosen = context_frames(seen, days, np.array([3, 3]), frames=5, span=200, spacing=6)
    assert chosen.tolist() == [[-1, 1, 3, 5, 7], [-1, 0, 3, 6, 7]]
    near = context_frames(seen, days, np.array([3, 3]), frames=5, span=24, spacing=6)
    assert near.tolist() == [[-1, 1, 3, 5, -1], [-1, 0, 3, 6, -1]]


def test_nearest_date_is_one_on_which_the_pixel_was_seen():
    seen = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=bool)
    assert nearest_frames(seen, np.array([0, 6, 20]), 5, most=7).tolist() == [0, -1, -1]
    assert nearest_frames(seen, np.array([0, 6, 20]), 14, most=7).tolist() == [2, 2, -1]


@pytest.fixture(scope="module")
def samples(cube) -> ContextSamples:
    return ContextSamples([cube], (small(S2, cube), small(S1, cube, bottleneck=2)), stride=3)


def test_a_sample_is_a_window_around_a_seen_pixel(cube, samples):
    series, r = cube.sensors["s2"], WINDOW // 2
    for i in range(0, len(samples), 17):
        tile = samples[i]
        _, t, row, column = samples._middles[i]
        assert series.clear[t, row, column]
        assert tile.origin + int(tile.days["s2"][2]) == series.dates[t]
        assert abs(tile.days["s1"][2] - tile.days["s2"][2]) <= 7
        middle, observed = tile.values["s2"][2], tile.observed["s2"][2]
        assert torch.equal(middle[:, r, r], torch.from_numpy(series.values[t, :, row, column]))
        filled = torch.tensor(samples.modality("s2").mean)[:, None, None].expand_as(middle)
        assert torch.equal(middle[~observed], filled[~observed])
        top, left = max(row - r, 0), max(column - r, 0)
        inside = series.clear[t, top : row + r + 1, left : column + r + 1]
        assert observed[0].sum() == inside.sum()  # what lies outside the cube was not observed
        assert (tile.days["s2"][tile.valid["s2"]].diff() > 0).all()
        assert tile.geo.transform[2] == 500_000 + 10 * column


def test_random_views_differ_and_keep_the_middle(samples):
    first, again, other = samples[3, 0], samples[3, 0], samples[3, 1]
    assert torch.equal(first.days["s2"], again.days["s2"])
    views = [samples[3, seed].days["s2"].tolist() for seed in range(8)]
    assert len({tuple(v) for v in views}) > 2
    assert {v[2] for v in views} == {int(other.days["s2"][2])}


def test_random_views_of_a_spaced_sensor_keep_spacing_and_middle(cube):
    samples = ContextSamples([cube], (small(S2, cube, spacing=12),), stride=3)
    views = [samples[3, seed] for seed in range(8)]
    assert len({tuple(v.days["s2"].tolist()) for v in views}) > 2
    for view in [samples[3], *views]:
        assert view.days["s2"][2] == samples[3].days["s2"][2]
        assert (view.days["s2"][view.valid["s2"]].diff() >= 12).all()


def test_samples_form_batches(samples):
    batch = collate([samples[i] for i in range(4)], [m.name for m in samples.modalities])
    assert batch.values["s2"].shape == (4, 5, 3, WINDOW, WINDOW)
    assert batch.observed["s1"].shape == (4, 5, 2, WINDOW, WINDOW)
    assert batch.valid["s2"].shape == (4, 5)


def test_a_sensor_without_a_near_date_is_absent(cube):
    far = SensorCube(S1, cube.sensors["s1"].dates + 400, cube.sensors["s1"].values)
    lonely = Cube("lonely", {"s2": cube.sensors["s2"], "s1": far})
    tile = ContextSamples([lonely], (small(S2, cube), small(S1, cube)), stride=3)[0]
    assert "s1" not in tile.values


def test_samples_keep_to_their_pixels(cube):
    allowed = np.zeros(cube.shape, dtype=bool)
    allowed[2:, :4] = True
    samples = ContextSamples([cube], (small(S2, cube),), stride=1, allowed=allowed)
    assert set(samples._middles[:, 3]) == {0, 1, 2, 3}
    assert samples._middles[:, 2].min() == 2


def test_cubes_of_one_site_stay_together():
    cubes = [make_cube((6, 6), seed=s, name=f"c{s}", site=f"site{s // 3}") for s in range(18)]
    splits = site_splits(cubes, seed=1)
    sites = {name: {c.site for c in members} for name, members in splits.items()}
    assert len(set.union(*sites.values())) == sum(map(len, sites.values())) == 6
    assert sum(len(members) for members in splits.values()) == 18
    assert len(splits["train"]) > len(splits["test"]) >= 3
    with pytest.raises(ValueError, match="2 sites cannot make 3 splits"):
        site_splits(cubes[:4])


def with_radar_at(cube: Cube, days: list[int]) -> Cube:
    """The cube with Sentinel-1 on some days (since 1970) alone."""
    own = cube.sensors["s1"]
    return Cube("rare", {"s2": cube.sensors["s2"], "s1": SensorCube(S1, np.array(days), own.values[: len(days)])})


def stages(samples: ContextSamples, run) -> TwoStages:
    recipe = Recipe(epochs=(1, 1), batch_size=4)
    return TwoStages(samples, samples, run, recipe)


def test_stages_take_the_samples_whose_sensors_have_a_date_near_theirs(cube, tmp_path, capfd):
    """Batches of four dates, only one of which has Sentinel-1 within a week: all others would be empty."""
    near = int(cube.sensors["s2"].epoch_days[7]) + 5
    rare = with_radar_at(cube, [near])
    close = np.abs(cube.sensors["s2"].epoch_days - near) <= 7
    samples = ContextSamples([rare], (small(S2, cube), small(S1, cube, bottleneck=2)), stride=6)
    wanted = np.isin(samples._middles[:, 1], np.flatnonzero(close))
    assert 0 < wanted.sum() < len(samples) / 4
    assert samples.partnered("s1").tolist() == wanted.tolist()
    assert samples.partnered("s2").all()
    assert samples.subset([5, 2]).partnered("s1").tolist() == wanted[[5, 2]].tolist()
    held = stages(samples, tmp_path)
    assert with_sensor(samples, "s1").names == [name for name, near in zip(samples.names, wanted, strict=True) if near]
    model = held.train_all([small(S2, cube), small(S1, cube, bottleneck=2)], {"embedding": 4, "dim": 8, "mlp_dim": 8})
    assert set(model.sensors) == {"s2", "s1"}
    told = capfd.readouterr().out
    left = len(samples) - wanted.sum()
    assert f"fusion: {left} of {len(samples)} samples are left out: no date of s1 within 7 days of theirs of s2" in told


def test_a_sensor_that_no_sample_has_is_refused_before_any_training(cube, tmp_path):
    far = with_radar_at(cube, [int(cube.sensors["s2"].epoch_days[-1]) + 12])
    configs = (small(S2, cube), small(S1, cube, bottleneck=2))
    samples = ContextSamples([far], configs, stride=3)
    told = (
        r"no date of 's1' lies within 7 days of one of 's2', the reference; the nearest is 1[2-9] days away. "
        r"Give --training.longest_gap 1[2-9] or more"
    )
    with pytest.raises(ValueError, match=told):
        stages(samples, tmp_path).train_all(configs)
    assert not list(tmp_path.iterdir())
    assert ContextSamples([far], configs, stride=3, longest_gap=30).partnered("s1").any()
