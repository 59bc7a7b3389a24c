"""A probe as a module: it says of tiles what its estimator says of their features."""

from __future__ import annotations

import pytest
import torch
from tiny_system import Meadows, TinyConfig, TinyModel

from fusion.evaluation import extract
from fusion.evaluation.finetune import score_module
from fusion.evaluation.saved import make_probe
from fusion.training import Probed, load_finetuned, save_model
from fusion.training.loading import evaluation_loader


def test_a_probe_looks_at_the_modalities_that_it_was_made_with():
    torch.manual_seed(0)
    model, tiles = TinyModel(TinyConfig()).eval(), Meadows(24)
    module, fitted = make_probe("linear", model, tiles.with_modalities(["s2"]), pool="both")
    batch = next(iter(evaluation_loader(tiles, 24)))
    features = torch.from_numpy(extract(model, tiles, ["s2"], pool="both").x)
    assert torch.allclose(module(batch), fitted.estimator(features), atol=1e-5)
    assert torch.equal(module(batch), module(batch.select(["s2"])))


def test_a_probe_of_quantities_is_scored_from_its_file(tmp_path):
    torch.manual_seed(0)
    model, tiles = TinyModel(TinyConfig()).eval(), Meadows(24, "regression")
    module, _ = make_probe("forest", model, tiles)
    again = load_finetuned(save_model(tmp_path / "best.safetensors", model, finetuned=module))
    wanted, found = (score_module(one, tiles, 24) for one in (module, again))
    assert (found.prediction == wanted.prediction).all()
    assert found.scores["r2"] > 0.9


def test_what_is_no_estimator_and_what_is_no_tile_is_refused():
    model = TinyModel(TinyConfig())
    with pytest.raises(ValueError, match="estimator is 'linear' or 'forest', not 'tree'"):
        Probed(model, task="multiclass", classes=["a", "b"], estimator="tree", sizes={})
    sizes = {"inputs": 4, "outputs": 2}
    cubes = Probed(model, task="multiclass", classes=["a", "b"], estimator="linear", sizes=sizes, features="periods")
    with pytest.raises(ValueError, match="of pixels of cubes, not of tiles; map them with `fusion predict"):
        cubes(next(iter(evaluation_loader(Meadows(2), 2))))


def test_a_pool_that_was_chosen_is_what_the_file_holds(tmp_path):
    torch.manual_seed(0)
    model, tiles = TinyModel(TinyConfig()).eval(), Meadows(24)
    module, fitted = make_probe("linear", model, tiles, pool="auto")
    again = load_finetuned(save_model(tmp_path / "best.safetensors", model, finetuned=module))
    assert fitted.setting["pool"] == again.pool
    features = torch.from_numpy(extract(model, tiles, pool=again.pool).x)
    batch = next(iter(evaluation_loader(tiles, 24)))
    assert torch.allclose(again(batch), fitted.estimator(features), atol=1e-5)
