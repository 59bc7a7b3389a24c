"""The regression on embeddings: what may be seen, what a row's context is, what reconstruction tells."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fusion.data import TileBatch
from fusion.evaluation.reconstruction import explained_variance
from fusion.evaluation.regression import predict, report, scores
from fusion.evaluation.regressors import forest, on_rows, temporal_transformer
from fusion.evaluation.rows import Rows, season


def table(count: int = 120, places: int = 6) -> tuple[Rows, np.ndarray]:
    """Rows whose target is a linear map of the embedding; the bands are noise."""
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(count, 4))
    target = embedding @ [2.0, -1.0, 0.5, 0.0] + 5
    place = np.repeat([f"p{k}" for k in range(places)], count // places)
    day = np.tile(np.arange(count // places) * 10 + 18_000, places)
    return Rows(rng.normal(size=(count, 3)), rng.normal(size=(count, 1)), place, day, target), embedding


def test_predictions_do_not_depend_on_the_targets_to_be_predicted():
    rows, embedding = table()
    train, test = np.flatnonzero(rows.place != "p5"), np.flatnonzero(rows.place == "p5")
    settings = {"steps": 5, "dropout": 0.0}
    first = predict(rows, embedding, train, test, settings, repeats=1)
    hidden = rows.target.copy()
    hidden[test] = np.nan
    other = Rows(rows.bands, rows.more, rows.place, rows.day, hidden)
    second = predict(other, embedding, train, test, settings, repeats=1)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
    found, items = report(rows.only(test), first, "test", quantity="GPP", unit="g")
    assert found["embedding_ridge"]["r2"] > 0.99 > 0.5 > found["forest"]["r2"]
    regressors = [values for name, values in first.items() if name.startswith("embedding_")]
    np.testing.assert_allclose(first["model"], np.mean(regressors, axis=0))
    assert len(items) == 3


def test_nrmse_is_relative_to_the_range():
    assert scores(np.array([0.0, 10.0]), np.array([1.0, 9.0]))["nrmse"] == pytest.approx(0.1)


def test_the_transformer_reads_the_context():
    rows, embedding = table(240)
    before = rows.context[:, 2]
    target = np.where(before >= 0, embedding[np.maximum(before, 0), 0], 0.0)  # what the last date showed
    train, test = np.flatnonzero(rows.place != "p5"), np.flatnonzero(rows.place == "p5")
    regress = temporal_transformer(embedding, rows.context, rows.day, target, {"steps": 150, "dropout": 0.0}, 1, 0)
    guessed = regress(train, test)
    alone = on_rows(lambda: forest(0), embedding, target)(train, test)
    error, without = (np.square(g - target[test]).mean() for g in (guessed, alone))
    assert error < 0.4 * without


def test_context_ends_where_the_place_does():
    rows, _ = table()
    shuffled = rows.only(np.random.default_rng(1).permutation(len(rows)))
    row, slot = np.nonzero(shuffled.context >= 0)
    other = shuffled.context[row, slot]
    assert (shuffled.place[other] == shuffled.place[row]).all()
    assert (shuffled.day[other] - shuffled.day[row] == (slot - 3) * 10).all()


def test_season_is_that_of_the_calendar():
    days = np.array(["2020-01-01", "2021-01-01", "2021-07-02"], dtype="datetime64[D]").astype(np.int64)
    found = season(days)
    assert found[:2] == pytest.approx(np.array([[0, 1], [0, 1]]))
    assert found[2] == pytest.approx([0, -1], abs=0.02)


class Echo(torch.nn.Module):
    """A model that rebuilds its input as it was, plus an error."""

    def __init__(self, error: float, constant: bool) -> None:
        super().__init__()
        self.error, self.constant = error, constant
        sensor = SimpleNamespace(config=SimpleNamespace(centre=1, window=1), normalise=lambda values, observed: values)
        self._sensor = sensor

    def sensor(self, name: str) -> SimpleNamespace:
        return self._sensor

    def forward(self, batch: TileBatch) -> SimpleNamespace:
        return SimpleNamespace(embedding=None)

    def decode(self, embedding: None, batch: TileBatch) -> dict[str, torch.Tensor]:
        values = batch.values["s"]
        if self.constant:
            return {"s": values.mean(0, keepdim=True).expand_as(values)}
        return {"s": values + self.error}


def test_explained_variance_is_one_for_the_truth_and_zero_for_the_mean():
    torch.manual_seed(0)
    values = torch.randn(64, 3, 2, 1, 1) + 4
    batch = TileBatch({"s": values}, {"s": torch.zeros(64, 3)}, {"s": torch.ones(64, 3, dtype=torch.bool)})
    assert explained_variance(Echo(0.0, False), batch)["s"] == pytest.approx(1)
    assert explained_variance(Echo(0.0, True), batch)["s"] == pytest.approx(0, abs=1e-6)
    variance = float(values[:, 1].var(0, correction=0).mean())
    assert explained_variance(Echo(0.5, False), batch)["s"] == pytest.approx(1 - 0.25 / variance, rel=1e-4)
