"""What keeps the experiments honest: nothing held out reaches training."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.data.flux_sites import read_flux_sites
from fusion.evaluation.rows import Rows
from fusion.experiments.context.gpp import beside, open_sites
from fusion.experiments.context.worldcereal.data import stripes
from fusion.workflow import experiments, load_experiment


def test_windows_of_training_and_test_stripes_share_no_pixel():
    margin = 3
    training, test = stripes((64, 64), margin)
    reach = np.arange(64)[:, None] - np.arange(64)[None, :]
    touched = [np.abs(reach[np.unique(np.argwhere(part)[:, 1])]).min(axis=0) <= margin for part in (training, test)]
    assert touched[0].sum() == touched[1].sum() == 32
    assert not (touched[0] & touched[1]).any()


def test_sites_are_the_tables_rows(data_dir):
    parts, words = open_sites(data_dir("gpp_flux"))
    sites = parts["all"]
    assert "975 images at 36 flux sites, 2018 to 2021" in words
    for cube in sites.cubes[:5]:
        rows = sites.rows[cube.name]
        assert (sites.site[rows] == cube.name).all()
        np.testing.assert_array_equal(cube.sensors["hls"].values[:, :, 0, 0], sites.bands[rows])
        np.testing.assert_array_equal(cube.sensors["hls"].epoch_days, sites.day[rows])
    assert sum(len(rows) for rows in sites.rows.values()) == len(sites)


def test_held_out_sites_and_years_are_not_in_training_cubes(data_dir):
    sites = read_flux_sites(data_dir("gpp_flux"))
    train = np.flatnonzero(sites.year != "2020")
    dates = np.concatenate([cube.sensors["hls"].dates for cube in sites.cubes_of(train)])
    assert "2020" not in set(dates.astype(str).astype("U4"))
    held = sites.site == sites.cubes[3].name
    assert sites.cubes[3].name not in {cube.name for cube in sites.cubes_of(np.flatnonzero(~held))}


def test_the_context_of_a_row_is_of_its_own_site(data_dir):
    sites = read_flux_sites(data_dir("gpp_flux"))
    context = Rows(sites.bands, sites.weather, sites.site, sites.day, sites.gpp).context
    row, slot = np.nonzero(context >= 0)
    assert (sites.site[context[row, slot]] == sites.site[row]).all()
    assert (context[:, 3] == np.arange(len(sites))).all()
    near = sites.day[context[row, slot]] - sites.day[row]
    assert (np.sign(near) == np.sign(slot - 3)).all()
    assert np.abs(near).max() <= 60


def test_experiments_load():
    for name in ("context-worldcereal", "context-gpp", "context-landscape", "context-quantized", "context-crops"):
        assert name in experiments()
        assert load_experiment(name).expect


def test_what_the_process_sees_beside_the_embedding_has_vegetation_times_radiation(data_dir):
    sites = read_flux_sites(data_dir("gpp_flux"))
    found = beside(sites)
    assert found.shape == (975, 20)
    np.testing.assert_array_equal(found[:, :16], np.hstack([sites.bands, sites.weather]))
    red, near_infrared, short_wave = sites.bands[7, 2], sites.bands[7, 3], sites.weather[7, 7]
    nirv = (near_infrared - red) / (near_infrared + red) * near_infrared
    assert found[7, 16] == pytest.approx(nirv * short_wave, rel=1e-5)
    assert np.corrcoef(found[:, 16], sites.gpp)[0, 1] > 0.6
