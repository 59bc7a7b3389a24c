"""What keeps the experiments honest: nothing held out reaches training."""

from __future__ import annotations

import numpy as np

from fusion.experiments.context.crops import stripes
from fusion.experiments.context.rows import Rows
from fusion.experiments.context.towers import _only, open_towers
from fusion.workflow import experiments, load_experiment


def test_windows_of_training_and_test_stripes_share_no_pixel():
    margin = 3
    training, test = stripes((64, 64), margin)
    reach = np.arange(64)[:, None] - np.arange(64)[None, :]
    touched = [np.abs(reach[np.unique(np.argwhere(part)[:, 1])]).min(axis=0) <= margin for part in (training, test)]
    assert touched[0].sum() == touched[1].sum() == 32
    assert not (touched[0] & touched[1]).any()


def test_towers_are_the_tables_rows(data_dir):
    parts, words = open_towers(data_dir("gpp_flux"))
    towers = parts["all"]
    assert "975 images at 36 towers, 2018 to 2021" in words
    for cube in towers.cubes[:5]:
        rows = towers.rows[cube.name]
        assert (towers.site[rows] == cube.name).all()
        np.testing.assert_array_equal(cube.sensors["hls"].values[:, :, 0, 0], towers.bands[rows])
        np.testing.assert_array_equal(cube.sensors["hls"].epoch_days, towers.day[rows])
    assert sum(len(rows) for rows in towers.rows.values()) == len(towers)


def test_held_out_towers_and_years_are_not_in_training_cubes(data_dir):
    towers = open_towers(data_dir("gpp_flux"))[0]["all"]
    train = np.flatnonzero(towers.year != "2020")
    dates = np.concatenate([cube.sensors["hls"].dates for cube in _only(towers, train)])
    assert "2020" not in set(dates.astype(str).astype("U4"))
    held = towers.site == towers.cubes[3].name
    assert towers.cubes[3].name not in {cube.name for cube in _only(towers, np.flatnonzero(~held))}


def test_the_context_of_a_row_is_of_its_own_tower(data_dir):
    towers = open_towers(data_dir("gpp_flux"))[0]["all"]
    context = Rows(towers.bands, towers.weather, towers.site, towers.day, towers.gpp).context
    row, slot = np.nonzero(context >= 0)
    assert (towers.site[context[row, slot]] == towers.site[row]).all()
    assert (context[:, 3] == np.arange(len(towers))).all()
    near = towers.day[context[row, slot]] - towers.day[row]
    assert (np.sign(near) == np.sign(slot - 3)).all()
    assert np.abs(near).max() <= 60


def test_experiments_load():
    for name in ("context-worldcereal", "context-gpp", "context-landscape", "context-quantized"):
        assert name in experiments()
        assert load_experiment(name).expect
