"""The recipes of fine-tuning: what they set, what decays, how rates run, what is averaged and smoothed."""

from __future__ import annotations

import csv
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_system import S2, VHR, Meadows, TinyConfig, TinyModel

from fusion.data import ArrayTiles, Modality, collate
from fusion.omnisat.config import OmniSatConfig
from fusion.omnisat.model import OmniSat
from fusion.token_fusion.config import TokenFusionConfig
from fusion.token_fusion.model import TokenFusion
from fusion.training import Finetuning, fit, load_finetuned, save_model
from fusion.training.recipes import TUNED, parameter_groups
from fusion.training.vectors import every_token

SMALL = {"dim": 16, "depth": 1, "heads": 2, "series_heads": 2, "series_key_dim": 4, "series_widths": (8,)}


def tuned(**settings) -> Finetuning:
    torch.manual_seed(7)
    return Finetuning(TinyModel(TinyConfig()), "multiclass", ["class0", "class1"], **{"lr": 1e-2} | settings)


def train(run: Path, module: Finetuning, epochs: int = 3, **arguments) -> Finetuning:
    fit(module, Meadows(24), Meadows(9), run, epochs=epochs, batch_size=6, progress=False, memory="ignore", **arguments)
    return module


def omnisat(positions: str = "relative") -> OmniSat:
    torch.manual_seed(0)
    modalities = [m.with_statistics((1000.0,) * 3, (500.0,) * 3) for m in (S2, VHR)]
    return OmniSat(OmniSatConfig.preset("tiny", modalities, (2, 2), **SMALL, positions=positions)).eval()


def batch(tiles: int = 3):
    data = Meadows(tiles)
    return collate([data[i] for i in range(tiles)], ["s2", "vhr"])


def test_each_recipe_sets_what_is_not_given():
    ours, paper = tuned().hparams, tuned(recipe="paper").hparams
    names = ("optimizer", "weight_decay", "schedule", "warmup", "patience", "factor", "average", "label_smoothing")
    assert [ours[name] for name in names] == ["adamw", 0.05, "one-cycle", 0.2, None, None, 0.99, 0.0]
    assert [paper[name] for name in names] == ["adam", 0.0, "plateau", None, 10, 0.1, 0.0, 0.0]
    other = tuned(schedule="plateau", dropout=0.3).hparams
    assert (other["schedule"], other["patience"], other["factor"], other["warmup"]) == ("plateau", 10, 0.1, None)
    assert (other["optimizer"], other["dropout"]) == ("adamw", 0.3)
    assert tuned(optimizer="adam").hparams["weight_decay"] == 0.0


def test_only_weights_of_linear_layers_and_convolutions_decay():
    model = omnisat("absolute")
    module = Finetuning(model, "multiclass", ["a", "b"], head="attention")
    decaying, others = parameter_groups(module, 0.05)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    names = {id(p): name for name, p in module.named_parameters()}
    spared = {names[id(p)] for p in others["params"]}
    assert {"model.combiner.summary", "model.combiner.query", "model.combiner.place", "head.query"} <= spared
    assert {"head.linear.bias", "head.norm.weight", "model.encoders.s2.attention.query"} <= spared
    drawn = {names[id(p)] for p in decaying["params"]}
    assert {"head.linear.weight", "head.key.weight", "model.encoders.s2.attention.key.weight"} <= drawn
    assert len(spared) + len(drawn) == len(names)
    assert all(p.ndim > 1 for p in decaying["params"])
    relative = parameter_groups(Finetuning(omnisat(), "multiclass", ["a", "b"]), 0.05)
    tables = [p for name, p in omnisat().named_parameters() if name.endswith(".table")]
    assert tables
    assert {tuple(p.shape) for p in tables} <= {tuple(p.shape) for p in relative[1]["params"]}


def test_the_rate_rises_and_falls_to_nothing_within_the_steps_of_the_run(tmp_path):
    train(tmp_path, tuned(warmup=0.25), epochs=5)  # 4 steps an epoch, 20 in all, 5 of them rising
    with open(tmp_path / "metrics.csv", newline="") as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    wanted = [1e-2 * 0.5 * (1 + math.cos(math.pi * (step - 5) / 15)) for step in (8, 12, 16, 20)]
    assert rates == pytest.approx([1e-2 * 5 / 5, *wanted], abs=1e-9)
    assert rates[-1] == 0


def test_the_saved_model_is_the_average_of_the_weights_over_steps(tmp_path):
    module, seen = tuned(average=0.9), []
    module.on_train_batch_end = lambda *_: seen.append(module.head.weight.detach().clone())
    train(tmp_path, module, epochs=4)
    average = seen[0]
    for n, weight in enumerate(seen[1:], 2):
        decay = min(0.9, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weight
    saved = load_file(tmp_path / "last.safetensors")["finetuned.head.weight"]
    torch.testing.assert_close(saved, average)
    assert not torch.allclose(saved, seen[-1])
    assert torch.equal(module.head.weight, seen[-1])  # training itself goes on from its own weights


def test_what_is_validated_is_the_average(tmp_path):
    module = tuned(average=0.9)
    train(tmp_path, module, epochs=3)
    logged = float(module.trainer.callback_metrics["val/loss"])
    own = load_file(tmp_path / "last.safetensors")
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            key = "finetuned." + name if not name.startswith("model.") else name.removeprefix("model.")
            tensor.copy_(own[key])
        data = Meadows(9)
        parts = [module.eval()._loss(collate([data[i] for i in rows]))[0] for rows in (range(6), range(6, 9))]
    assert logged == pytest.approx(float(parts[0] * 6 + parts[1] * 3) / 9, rel=1e-5)


@pytest.mark.parametrize("step", [2, 7])
def test_an_interrupted_run_with_averages_goes_on_with_the_same_bits(tmp_path, step):
    straight = train(tmp_path / "straight", tuned())
    pressed = tuned()

    def press(*_) -> None:
        if pressed.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)

    pressed.on_train_batch_start = press
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", pressed)
    resumed = train(tmp_path / "broken", tuned())
    for a, b in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for name in ("best", "last"):
        files = [load_file(tmp_path / run / f"{name}.safetensors") for run in ("straight", "broken")]
        assert all(torch.equal(tensor, files[1][key]) for key, tensor in files[0].items())


@torch.no_grad()
def test_labels_are_smoothed_in_training_alone():
    data = batch(4)
    data.labels = torch.tensor([0, 1, 0, 1])
    module = tuned(label_smoothing=0.2, dropout=0.0)
    module.model.dropout.p = 0.0
    loss, out, labels = module.train()._loss(data)
    wanted = torch.full((4, 2), 0.1)
    wanted[torch.arange(4), labels] = 0.9
    assert float(loss) == pytest.approx(float(-(wanted * out.log_softmax(1)).sum(1).mean()), rel=1e-5)
    loss, out, _ = module.eval()._loss(data)
    assert float(loss) == pytest.approx(float(-out.log_softmax(1)[torch.arange(4), labels].mean()), rel=1e-5)

    several = Finetuning(TinyModel(TinyConfig()), "multilabel", ["a", "b"], label_smoothing=0.2).train()
    data.labels = torch.tensor([[1.0, 0.0]] * 4)
    loss, out, _ = several._loss(data)
    wanted = torch.tensor([0.9, 0.1])
    terms = wanted * torch.nn.functional.logsigmoid(out) + (1 - wanted) * torch.nn.functional.logsigmoid(-out)
    assert float(loss) == pytest.approx(float(-terms.mean()), rel=1e-5)


def test_a_batch_of_classes_without_weight_has_no_loss_with_smoothing_either():
    data = batch(4)
    data.labels = torch.zeros(4, dtype=torch.int64)
    module = tuned(class_weights=[0.0, 1.0], label_smoothing=0.1).train()
    assert float(module._loss(data)[0]) == 0


def test_dropout_is_of_what_the_head_is_given_in_training_alone():
    module = tuned(dropout=0.5)
    known = torch.ones(2000, 8)
    with torch.no_grad():
        module.head.weight.fill_(1.0)
        module.head.bias.zero_()
        dropped = module.train().head(known)[:, 0]
        assert torch.equal(module.eval().head(known)[:, 0], torch.full((2000,), 8.0))
    assert sorted(set(dropped.tolist())) == [2.0 * k for k in range(9)]
    assert float(dropped.mean()) == pytest.approx(8.0, abs=0.3)


@pytest.mark.parametrize(("features", "width"), [("summary", 16), ("mean", 16), ("both", 32), ("tokens", 32)])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_head_is_given_the_features_it_was_made_for(features, width, head):
    module = Finetuning(omnisat(), "multiclass", ["a", "b", "c"], head=head, features=features).eval()
    known = module.head.features(module.model, batch())
    assert known.shape == (3, width)
    encoded = module.model(batch())
    if features in ("summary", "both"):
        torch.testing.assert_close(known[:, :16], encoded.summary)
    if features in ("mean", "both"):
        torch.testing.assert_close(known[:, -16:], encoded.patches.mean(1))
    if features == "tokens":
        torch.testing.assert_close(known[:, :16], module.model.encode(batch()).tokens[0].mean(1))
        alone = module.head.features(module.model, batch().select(["vhr"]))
        assert not alone[:, :16].any()
        torch.testing.assert_close(alone[:, 16:], known[:, 16:])
    assert module(batch()).shape == (3, 3)


def test_the_attention_head_sees_every_token_and_none_of_a_missing_modality():
    model = omnisat()
    tokens, there = every_token(model, batch())
    assert tokens.shape == (3, 1 + 4 + 2 * 4, 16)
    torch.testing.assert_close(tokens[:, 0], model(batch()).summary)
    torch.testing.assert_close(tokens[:, 5:9], model.encode(batch()).tokens[0])
    assert there.all()
    module = Finetuning(model, "multiclass", ["a", "b"], head="attention").eval()
    lacking = batch()
    lacking.valid["vhr"] = torch.tensor([True, False, True])
    there = every_token(model, lacking)[1]
    assert there[1].tolist() == [True] * 9 + [False] * 4
    assert there[0].all()
    other = batch()
    other.valid["vhr"], other.values["vhr"] = lacking.valid["vhr"], other.values["vhr"].clone()
    other.values["vhr"][1] += 1000
    torch.testing.assert_close(module(other), module(lacking))
    # With queries of zero every token that is there weighs the same.
    with torch.no_grad():
        module.head.query.zero_()
        known = module.head.features(model, lacking)
        mean = module.head.value(module.head.norm(known[0][1, :9])).mean(0)
        torch.testing.assert_close(module(lacking)[1], module.head.linear(mean))


def test_the_attention_head_reads_the_states_of_token_fusion():
    series = Modality("t", "series", ("mean",), 10.0, 1).with_statistics((0.0,), (1.0,))
    values = np.random.default_rng(0).normal(size=(6, 4, 1)).astype(np.float32)
    values[2, 1] = np.nan
    data = ArrayTiles([series], {"t": values}, {"t": np.arange(4) * 30})
    series_tokens = {"t": {"kind": "bins", "length": 4, "step": 30}}
    config = TokenFusionConfig.preset("tiny", [series], (1, 1), dim=16, depth=1, heads=2, tokenizers=series_tokens)
    model = TokenFusion(config)
    model.tokenizer.fit(data)
    states, there = every_token(model.eval(), collate([data[i] for i in range(6)]))
    assert states.shape == (6, len(model.tokenizer.layout), 16)
    assert (~there).sum() == 1
    assert Finetuning(model, "multiclass", ["a", "b"], head="attention")(collate([data[0], data[1]])).shape == (2, 2)


def test_the_attention_head_comes_back_from_its_file(tmp_path):
    module = Finetuning(omnisat(), "multiclass", ["a", "b"], head="attention").eval()
    again = load_finetuned(save_model(tmp_path / "a.safetensors", module.model, finetuned=module))
    assert torch.equal(again(batch()), module(batch()))
    assert {k: again.hparams[k] for k in TUNED} == {k: module.hparams[k] for k in TUNED}


def test_a_run_from_before_there_were_recipes_goes_on_as_that_of_the_paper_alone(tmp_path):
    train(tmp_path, tuned(recipe="paper"), epochs=2)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    now = state["fusion"]["identity"]["settings"]
    since = ("recipe", "optimizer", "weight_decay", "schedule", "warmup", "dropout", "label_smoothing", "average")
    state["fusion"]["identity"]["settings"] = {k: v for k, v in now.items() if k not in (*since, "features")}
    state["fusion"]["sealed"] = False  # nor were there checksums
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"settings.recipe: paper in the folder, default wanted"):
        train(tmp_path, tuned(), epochs=3)
    straight = train(tmp_path / "straight", tuned(recipe="paper"), epochs=3)
    resumed = train(tmp_path, tuned(recipe="paper"), epochs=3)
    assert torch.equal(resumed.head.weight, straight.head.weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "ours"}, "recipe is 'default' or 'paper', not 'ours'"),
        ({"optimizer": "sgd"}, "optimizer is 'adamw', 'adam', not 'sgd'"),
        ({"patience": 5}, "patience=5 is of schedule='plateau', and the schedule is 'one-cycle'"),
        ({"recipe": "paper", "warmup": 0.1}, "warmup=0.1 is of schedule='one-cycle', and the schedule is 'plateau'"),
        ({"dropout": 1.0}, "dropout is from 0 to below 1, not 1.0"),
        ({"optimizer": "adam", "weight_decay": 0.1}, "weight_decay is 0 or more and of optimizer='adamw', not 0.1"),
        ({"head": "attention", "features": "mean"}, "features='mean' are of a head 'linear' or 'mlp'"),
        ({"features": "tokens"}, "which TinyModel of .* does not keep apart; use 'mean', 'summary', 'both'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tuned(**settings)


def test_smoothing_of_a_quantity_is_refused():
    with pytest.raises(ValueError, match="label_smoothing is of classes"):
        Finetuning(TinyModel(TinyConfig()), "regression", ["biomass"], label_smoothing=0.1)


def test_logits_do_without_what_the_loss_adds_for_frequent_classes():
    data = batch(4)
    data.labels = torch.tensor([0, 1, 0, 1])
    module = tuned(class_shares=[0.9, 0.1])
    module.model.dropout.p = 0.0
    assert module.hparams["logit_adjustment"] == 1.0
    for part, state in (
        (1.0, module.train()),
        (1.0, module.eval()),
        (0.5, tuned(class_shares=[9, 1], logit_adjustment=0.5)),
    ):
        loss, out, labels = state.eval()._loss(data)
        logits = out + part * torch.tensor([0.9, 0.1]).log()
        assert float(loss) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
        torch.testing.assert_close(state(data), out)


def test_a_class_without_labels_learns_never_to_be_the_answer():
    module = Finetuning(TinyModel(TinyConfig()), "multiclass", ["a", "b", "c"], class_shares=[0.75, 0.25, 0.0])
    torch.testing.assert_close(module.logit_offset, torch.tensor([0.75, 0.25, 1.0]).log())


@pytest.mark.parametrize(
    "settings",
    [{}, {"recipe": "paper", "class_shares": [0.5, 0.5]}, {"class_shares": [0.5, 0.5], "class_weights": [1.0, 2.0]}],
    ids=["no shares", "paper", "weights"],
)
def test_what_is_not_adjusted_says_so(settings):
    module = tuned(**settings)
    assert module.hparams["logit_adjustment"] == 0.0
    assert module.logit_offset is None or not module.logit_offset.any()
    both = tuned(class_shares=[0.5, 0.5], class_weights=[1.0, 2.0], logit_adjustment=0.5)
    assert both.hparams["logit_adjustment"] == 0.5


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("multiclass", {"logit_adjustment": 0.5}, "logit_adjustment=0.5 needs class_shares; fine-tune with"),
        ("multiclass", {"logit_adjustment": 2.0}, "logit_adjustment is from 0 to 1 .*, not 2.0 of multiclass labels"),
        ("multilabel", {"logit_adjustment": 0.5}, "of classes that exclude each other, not 0.5 of multilabel labels"),
        ("multiclass", {"class_shares": [1.0]}, "class_shares are 2 numbers of 0 or more, one of a, b each"),
        ("multiclass", {"class_shares": [0.0, 0.0]}, "not all of them 0"),
    ],
)
def test_an_adjustment_that_cannot_be_is_refused(task, settings, message):
    with pytest.raises(ValueError, match=message):
        Finetuning(TinyModel(TinyConfig()), task, ["a", "b"], **settings)
