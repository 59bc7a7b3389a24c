"""Training, end to end on a few places."""

import csv

import pytest
import torch

from fusion.token_fusion import TokenFusion, TokenFusionPretraining
from fusion.training import Finetuning, fit, load_finetuned, load_model
from fusion.training.pretrain import train

from .small_places import make_places

QUIET = {"progress": False, "memory": "ignore"}


def model_settings(config):
    fields = ("tokenizers", "dim", "depth", "heads", "mlp_dim")
    return {name: getattr(config, name) for name in fields}


def run(folder, config, places, **training):
    settings = {"epochs": 2, "batch_size": 8} | QUIET | training
    return train("token-fusion", places, None, folder, "tiny", model_settings(config), {"lr": 3e-3}, settings, seed=0)


def test_training_learns_and_logs(fitted, config, places, tmp_path):
    torch.manual_seed(0)
    module = TokenFusionPretraining(config, lr=5e-3)
    module.model.tokenizer.load_state_dict(fitted.tokenizer.state_dict())
    fit(module, places, make_places(8, seed=1), tmp_path, epochs=30, batch_size=12, **QUIET)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = {"train/loss", "val/loss"} | {
        f"val/{n}/{k}" for n in ("height", "photo", "weather") for k in ("loss", "accuracy")
    }
    assert wanted <= set(rows[-1])
    assert float(rows[-1]["val/loss"]) < 0.95 * float(rows[0]["val/loss"])
    assert float(rows[-1]["val/weather/accuracy"]) > 2 / 32  # twice a guess
    assert float(rows[1]["lr"]) > float(rows[-1]["lr"])


def test_an_interrupted_run_goes_on_with_its_tokenizer(config, places, tmp_path):
    whole = load_model(run(tmp_path / "whole", config, places, epochs=2))
    first = tmp_path / "parts"
    # Asks for two epochs and stops after one, as an interruption would.
    run(first, config, places, epochs=2, limit_train_batches=1)
    assert (first / "tokenizer.safetensors").is_file()
    stamp = (first / "tokenizer.safetensors").stat().st_mtime_ns
    run(first, config, places, epochs=3, limit_train_batches=1)
    assert (first / "tokenizer.safetensors").stat().st_mtime_ns == stamp
    kept = load_model(first / "last.safetensors").tokenizer.state_dict()
    for name, tensor in whole.tokenizer.state_dict().items():
        torch.testing.assert_close(kept[name], tensor, rtol=0, atol=0, equal_nan=True)
    run(first, config, places.subset(range(16)), epochs=1, resume=False)  # other data, another tokenizer
    assert (first / "tokenizer.safetensors").stat().st_mtime_ns != stamp


def test_training_is_determined_by_its_seed(config, places, tmp_path):
    one, two = (load_model(run(tmp_path / name, config, places)).state_dict() for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_the_tokenizer_is_not_trained_with_the_model(fitted, config, places, tmp_path):
    torch.manual_seed(0)
    module = TokenFusionPretraining(config)
    module.model.tokenizer.load_state_dict(fitted.tokenizer.state_dict())
    best = fit(module, places, None, tmp_path, epochs=1, batch_size=8, **QUIET)
    trained = load_model(best).tokenizer.state_dict()
    for name, tensor in fitted.tokenizer.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_a_model_without_a_fitted_tokenizer_says_so(config, places, tmp_path):
    with pytest.raises(RuntimeError, match=r"not fitted: call model\.tokenizer\.fit"):
        fit(TokenFusionPretraining(config), places, None, tmp_path, epochs=1, **QUIET)


@pytest.mark.parametrize("freeze", [False, True])
def test_finetuning(fitted, config, places, freeze, tmp_path):
    torch.manual_seed(0)
    model = TokenFusion(config)
    model.load_state_dict(fitted.state_dict())
    labels = places.labels()
    scale = {"target_mean": labels.mean(0).tolist(), "target_std": labels.std(0).tolist()}
    module = Finetuning(model, "regression", ("height",), freeze=freeze, head="mlp", lr=1e-2, **scale)
    best = fit(module, places, None, tmp_path, epochs=25, batch_size=12, **QUIET)
    again = load_finetuned(best)
    from fusion.evaluation.finetune import predict

    error = predict(again, places) - labels.numpy()
    assert (error**2).mean() < 0.5 * labels.var()
