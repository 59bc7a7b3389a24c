"""The transformer of scikit-learn: what it takes, and that pipelines and searches work with it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fusion
from fusion.adapters import Embedder
from fusion.data import ArrayTiles
from fusion.evaluation import extract
from fusion.training import load_model

from ..arrays.ground import AERIAL, GRID, S2, encoder, optical, saved

DATES = np.array(["2021-04-03", "2021-05-20", "2021-07-11"], dtype="datetime64[D]")
DAYS = (DATES - np.datetime64("2021-01-01")).astype(int)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run"), encoder(S2))


@pytest.fixture(scope="module")
def places() -> tuple[np.ndarray, np.ndarray]:
    """Tiles (N, T, C, H, W) of two kinds of ground, one of which turns green."""
    rng = np.random.default_rng(0)
    kind = np.arange(40) % 2
    values = rng.normal(1500, 200, (40, 3, 4, 8, 8))
    values[:, 1, 3] += 1500 * kind[:, None, None]
    values[3, 0, :, :2] = np.nan
    return values.astype(np.float32), kind


def test_arrays_are_the_tiles_that_they_hold(run, places):
    values, _ = places
    tiles = ArrayTiles([S2], {"s2": values}, {"s2": DAYS}, grid=GRID, origin="2021-01-01")
    for pool in ("mean", "both", "seasons"):
        wanted = extract(load_model(run), tiles, pool=pool).x
        embedder = Embedder(run, pool=pool, dates=DATES)
        found = embedder.fit_transform(values)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        assert found.shape == (40, embedder.n_features_out_)
        np.testing.assert_allclose(Embedder(run, pool=pool).fit(tiles).transform(tiles), wanted, rtol=1e-5, atol=1e-6)
    assert embedder.modalities_ == ("s2",)


def test_bands_are_put_into_the_models_order(run, places):
    values, _ = places
    turned = Embedder(run, dates={"s2": DATES.astype(str)}, bands=["nir", "red", "green", "blue"])
    found = turned.fit_transform({"s2": values[:, :, ::-1]})
    np.testing.assert_array_equal(found, Embedder(run, dates=DATES).fit_transform(values))


def test_it_works_in_a_pipeline_under_cross_validation(run, places):
    values, kind = places
    model = make_pipeline(Embedder(run, dates=DATES), StandardScaler(), LogisticRegression())
    assert cross_val_score(model, values, kind, cv=4).mean() > 0.9
    tiles = ArrayTiles([S2], {"s2": values}, {"s2": DAYS}, grid=GRID)
    model = make_pipeline(Embedder(run), StandardScaler(), LogisticRegression())
    assert cross_val_score(model, tiles, kind, cv=4).mean() > 0.9
    shuffled = np.random.default_rng(1).permutation(kind)
    assert cross_val_score(model, tiles, shuffled, cv=4).mean() < 0.8


def test_copies_and_pickles_hold_the_run_and_not_the_weights(run, places):
    values, _ = places
    embedder = Embedder(run, pool="summary", dates=DATES).fit(values)
    content = pickle.dumps(embedder)
    assert len(content) < 2000
    wanted = embedder.transform(values)
    np.testing.assert_array_equal(pickle.loads(content).transform(values), wanted)
    assert clone(embedder).get_params().keys() == embedder.get_params().keys()
    np.testing.assert_array_equal(clone(embedder).fit_transform(values), wanted)
    loaded = Embedder(fusion.load(run, device="cpu"), pool="summary", dates=DATES)
    np.testing.assert_array_equal(clone(loaded).fit_transform(values), wanted)


def test_columns_have_names(run, places):
    values, _ = places
    table = Embedder(run, dates=DATES).set_output(transform="pandas").fit_transform(values)
    assert table.shape == (40, 16)
    assert list(table.columns) == [str(name) for name in fusion.load(run).embed(optical()).feature.values]


def test_cubes_are_the_means_of_their_maps(run):
    cubes = [optical(16, 24, seed=seed) for seed in (0, 1)]
    embedder = Embedder(run)
    found = embedder.fit_transform(cubes)
    maps = [fusion.load(run, device="cpu").embed(cube).mean(("y", "x")) for cube in cubes]
    np.testing.assert_allclose(found, np.stack(maps), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="of cubes the mean over patches is taken, not pool='summary'"):
        Embedder(run, pool="summary").fit(cubes)


def test_several_modalities(tmp_path, places):
    values, _ = places
    both = saved(tmp_path, encoder(S2, AERIAL))
    image = np.random.default_rng(2).uniform(20, 220, (40, 2, 32, 32)).astype(np.float32)
    given = {"s2": values, "aerial": image}
    embedder = Embedder(both, pool="tokens", dates=DATES)
    found = embedder.fit_transform(given)
    assert found.shape == (40, 32)
    listed = [{name: array[i] for name, array in given.items()} for i in range(40)]
    np.testing.assert_array_equal(embedder.fit(listed).transform(listed), found)
    alone = Embedder(both, modalities=["aerial"]).fit_transform({"aerial": image})
    assert alone.shape == (40, 16)
    with pytest.raises(ValueError, match="the model has s2, aerial; give a mapping"):
        embedder.fit(values)
    with pytest.raises(ValueError, match="arrays of s3; the model has s2, aerial"):
        embedder.fit({"s3": values})


def test_what_does_not_fit_is_said(run, places):
    values, _ = places
    with pytest.raises(ValueError, match="s2 is a series, whose dates are not known"):
        Embedder(run).fit(values)
    with pytest.raises(ValueError, match=r"pool is one of mean, .*, not 'median'"):
        Embedder(run, pool="median", dates=DATES).fit(values)
    with pytest.raises(ValueError, match=r"'s2' has shape \(1, 3, 4, 6, 6\)"):
        Embedder(run, dates=DATES).fit(values[..., :6, :6])
    with pytest.raises(ValueError, match="s2 wants B02, B03, B04, B08; red, nir are named"):
        Embedder(run, dates=DATES, bands=["red", "nir"]).fit(values)
