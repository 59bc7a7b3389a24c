"""The real model on the real (synthetic) landscape: what the stand-in of the other tests cannot show."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fusion.data import fit_statistics
from fusion.data.landscape import Landscape, LandscapeTiles
from fusion.evaluation import extract, finetune, linear_probe
from fusion.omnisat import OmniSatConfig, OmniSatPretraining
from fusion.training import Finetuning, fit, load_finetuned, load_model, read_header

SMALL = {
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "mlp_dim": 32,
    "series_heads": 2,
    "series_widths": (8,),
    "series_mlp_dim": 16,
}


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return Landscape(size=64)


def cut(landscape: Landscape, target: str = "class") -> LandscapeTiles:
    return LandscapeTiles(landscape, max_dates=4, block=2, target=target)  # 64 tiles of 80 m


@pytest.fixture(scope="module")
def tiles(landscape) -> LandscapeTiles:
    return cut(landscape)


@pytest.fixture(scope="module")
def config(tiles) -> OmniSatConfig:
    return OmniSatConfig(fit_statistics(tiles), tiles.grid, **SMALL)


def pretrain(config: OmniSatConfig, tiles: LandscapeTiles, run: Path, epochs: int) -> OmniSatPretraining:
    torch.manual_seed(0)
    module = OmniSatPretraining(config, lr=2e-3)  # dropout and drop-path are those of the paper: resuming must hold
    train, held_out = tiles.subset(range(24)), tiles.subset(range(24, 32))
    fit(module, train, held_out, run, epochs=epochs, batch_size=8, progress=False)
    return module


def test_pretraining_learns_resumes_bit_by_bit_and_its_checkpoint_says_what_it_is(tmp_path, tiles, config):
    straight = pretrain(config, tiles, tmp_path / "a", 4)
    pretrain(config, tiles, tmp_path / "b", 2)
    resumed = pretrain(config, tiles, tmp_path / "b", 4)
    assert all(
        torch.equal(a, b) for a, b in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    first, last = (read_header(tmp_path / run / "last.safetensors").metrics["train/loss"] for run in "ab")
    assert first == last
    model = load_model(tmp_path / "a", system="omnisat", config=config)
    assert model.config == config
    vectors = extract(model, tiles)
    assert np.array_equal(vectors.x, extract(load_model(tmp_path / "b"), tiles).x)
    assert linear_probe(vectors.subset(range(40)), vectors.subset(range(40, 64))).labelled == 40


def fresh(config: OmniSatConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return OmniSatPretraining(config).model


@pytest.mark.parametrize("target", ["class", "classes", "biomass"])
def test_fine_tuned_heads_come_back_with_their_settings(tmp_path, landscape, config, target):
    tiles = cut(landscape, target)
    module = Finetuning(fresh(config), tiles.task, tiles.classes, freeze=True, head="mlp")
    best = fit(module, tiles.subset(range(16)), tiles.subset(range(16, 24)), tmp_path, epochs=1, progress=False)
    again = load_finetuned(best)
    assert (again.task, again.classes, again.frozen) == (tiles.task, tiles.classes, True)
    assert all(torch.equal(a, b) for a, b in zip(module.head.parameters(), again.head.parameters(), strict=True))


def test_biomass_is_fine_tuned_in_its_own_unit(tmp_path, landscape, config):
    tiles = cut(landscape, "biomass")
    model = fresh(config)
    settings = {"starts": ("frozen",), "shares": (1.0,), "seeds": (0,), "epochs": 2, "progress": False}
    (row,) = finetune(model, tiles.subset(range(32)), tiles.subset(range(32, 64)), tmp_path, **settings)
    target = tiles.labels().numpy()
    assert abs(row.result.prediction.mean() - target.mean()) < 2 * target.std()
