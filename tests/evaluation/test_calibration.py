"""The interval of a quantity: from the validation split into the model's file, and what it holds of other tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Modality, fit_statistics
from fusion.evaluation import finetune
from fusion.evaluation.calibration import _Thinned
from fusion.evaluation.coverage import Coverage
from fusion.evaluation.finetune import score_module
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import Finetuning, load_finetuned
from fusion.training.checkpoints import read_header
from fusion.training.conformal import ConformalInterval

AERIAL = Modality("aerial", "image", ("R", "G"), 1.0, 4)
HOW = {"starts": ["frozen"], "fractions": [1.0], "seeds": [0], "epochs": 1, "batch_size": 16, "progress": False}


def tiles(count: int, seed: int, targets: int = 2) -> ArrayTiles:
    """Two quantities of a tile that its colours tell, with noise."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 10, (count, targets))
    image = np.broadcast_to(truth[:, :1, None, None], (count, 2, 8, 8)) + rng.normal(0, 1, (count, 2, 8, 8))
    labels = torch.from_numpy(truth + rng.normal(0, 1, truth.shape)).float()
    names = ("biomass", "height")[:targets]
    return ArrayTiles(
        [AERIAL], {"aerial": image.astype(np.float32)}, grid=(2, 2), task="regression", classes=names, labels=labels
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = OmniSatConfig.preset("tiny", fit_statistics(tiles(32, 0)), (2, 2), dim=16, mlp_dim=32, heads=2)
    return OmniSat(config)


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    """The folder of one run and its row."""
    run = tmp_path_factory.mktemp("run")
    return run, finetune(model, tiles(64, 1), tiles(300, 2), run, validation=tiles(150, 3), **HOW)[0]


def test_the_interval_of_each_quantity_of_a_tile_comes_from_the_validation_split(tuned):
    run, row = tuned
    module = load_finetuned(run / "frozen-1-0")
    validation = tiles(150, 3)
    assert len(module.intervals) == 2
    assert "loss" in " ".join(read_header(run / "frozen-1-0").metrics), "what the file said before is kept"
    with torch.inference_mode():
        predicted = score_module(module, validation, 0).prediction
    for k, interval in enumerate(module.intervals):
        assert interval == ConformalInterval.fit(predicted[:, k], validation.labels().numpy()[:, k], 0.9)
    scores = row.result.scores
    assert scores["interval_coverage"] == pytest.approx(0.9, abs=0.06)
    held = np.abs(row.result.prediction - row.result.target)
    half = np.stack([one.half_width(row.result.prediction[:, k]) for k, one in enumerate(module.intervals)], 1)
    assert scores["interval_coverage"] == pytest.approx((held <= half).mean())
    assert scores["interval_width"] == pytest.approx(2 * half.mean(), rel=1e-5)
    assert not row.result.notes


def test_another_level_takes_no_training(tuned, model):
    run, row = tuned
    before = (run / "frozen-1-0" / "last.ckpt").read_bytes()
    how = HOW | {"settings": {"interval_level": 0.5}}
    other = finetune(model, tiles(64, 1), tiles(300, 2), run, validation=tiles(150, 3), **how)[0]
    assert (run / "frozen-1-0" / "last.ckpt").read_bytes() == before
    module = load_finetuned(run / "frozen-1-0")
    assert module.intervals[0].level == module.hparams["interval_level"] == 0.5
    assert other.result.scores["interval_coverage"] == pytest.approx(0.5, abs=0.1)
    assert other.result.scores["r2"] == row.result.scores["r2"]


def test_without_a_validation_split_a_sentence_says_that_there_is_no_interval(model, tmp_path):
    [row] = finetune(model, tiles(24, 1), tiles(30, 2), tmp_path, **HOW)
    assert "interval_coverage" not in row.result.scores
    assert any("no interval, which takes a validation split" in note for note in row.result.notes)
    assert load_finetuned(tmp_path / "frozen-1-0").intervals == ()


def test_too_small_a_validation_split_gives_no_interval_and_says_so(model, tmp_path):
    [row] = finetune(model, tiles(24, 1), tiles(30, 2), tmp_path, validation=tiles(8, 3), **HOW)
    assert any(
        "8 labels of the validation split are too few for a level of 90%, which takes 9" in n for n in row.result.notes
    )
    assert load_finetuned(tmp_path / "frozen-1-0").intervals == ()


def test_wrong_levels_and_intervals_are_refused(model):
    with pytest.raises(ValueError, match=r"interval_level is between 0 and 1, e.g. 0.9, not 90"):
        Finetuning(model, "regression", ("height",), interval_level=90)
    with pytest.raises(ValueError, match="is of a quantity, oak, elm are classes"):
        Finetuning(model, "multiclass", ("oak", "elm"), interval_level=0.8)
    one = ConformalInterval(0.9, (), (1.0,), (9,)).to_dict()
    with pytest.raises(ValueError, match="1 intervals for 2 quantities"):
        Finetuning(model, "regression", ("height", "biomass"), intervals=[one])


def test_coverage_counts_labels_only_and_its_bootstrap_is_over_blocks():
    interval = ConformalInterval(0.9, (5.0,), (1.0, 2.0), (100, 100))
    prediction = np.array([[[0.0, 6.0], [0.0, 6.0]], [[0.0, 6.0], [6.0, 6.0]]])[:, None]  # (2, 1, 2, 2)
    target = np.array([[[0.5, 7.5], [3.0, np.nan]], [[0.0, 9.0], [np.nan, np.nan]]])[:, None]
    found = Coverage.of([interval], prediction, target)
    assert found.sums[:, 0].tolist() == [[3, 2, 2 + 4 + 2], [2, 1, 2 + 4]]
    assert found.scores() == {"interval_coverage": 0.6, "interval_width": 2.8}
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.arange(20), 10)
    held = np.repeat(rng.random(20) < 0.8, 10).astype(float)  # all of a block or none of it
    sums = np.stack([np.ones(200), held, np.full(200, 3.0)], axis=-1)[:, None]
    wide = Coverage.intervals([Coverage(0.9, sums)], blocks)["interval_coverage"]
    narrow = Coverage.intervals([Coverage(0.9, sums)], None)["interval_coverage"]
    assert wide.value == narrow.value == held.mean()
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_pairs_that_are_kept_are_evenly_spaced_and_few():
    kept = _Thinned(100)
    for first in range(0, 1000, 7):
        numbers = np.arange(first, min(first + 7, 1000), dtype=np.float32)
        kept.add(np.stack([numbers, numbers]).T.ravel(), np.stack([numbers, np.full_like(numbers, np.nan)]).T.ravel())
    assert len(kept.target) <= 100
    assert kept.target.tolist() == list(range(0, 1000, kept.step))
    assert (kept.prediction == kept.target).all()
