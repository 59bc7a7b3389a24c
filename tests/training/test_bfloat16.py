"""``precision="auto"``: bfloat16 where it is faster and the loss agrees."""

from __future__ import annotations

import copy

import pytest
import torch
import yaml
from tiny_system import Meadows, TinyTraining

from fusion.training import fit, precision, trainer
from fusion.training.precision import Trial, try_precisions


class Watched(TinyTraining):
    """Remembers whether each step was cast."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        super().__init__()
        self.cast: list[bool] = []

    def training_step(self, batch, batch_idx):
        self.cast.append(torch.is_autocast_enabled("cpu"))
        return super().training_step(batch, batch_idx)


@pytest.fixture
def able(monkeypatch):
    """A processor that calculates in bfloat16, whatever this one does."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)


@pytest.mark.parametrize(
    ("seconds", "difference", "chosen"),
    [
        ((2.0, 1.0), 0.001, "bf16-mixed"),
        ((2.0, 1.0), 0.01, "bf16-mixed"),
        ((2.0, 1.0), 0.011, "32-true"),
        ((2.0, 1.0), float("nan"), "32-true"),
        ((2.0, 1.9), 0.0, "32-true"),
        ((1.0, 2.0), 0.0, "32-true"),
    ],
)
def test_what_is_chosen(seconds, difference, chosen):
    trial = Trial(seconds, difference)
    assert trial.precision == chosen
    assert str(trial).startswith("bfloat16: a step takes" if chosen == "bf16-mixed" else "float32: a step takes")


def test_a_trial_changes_nothing_and_casts_half_of_the_steps(able):
    module, tiles = Watched(), Meadows(24)
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    steps: list[bool] = []
    Watched.training_step, usual = (
        lambda self, batch, index: steps.append(torch.is_autocast_enabled("cpu")) or usual(self, batch, index),
        Watched.training_step,
    )
    try:
        trial = try_precisions(module, tiles, 8, device="cpu")
    finally:
        Watched.training_step = usual
    assert (len(steps), sum(steps)) == (22, 11)  # of epochs of three batches
    assert min(trial.seconds) > 0
    assert 0 < trial.difference < 0.02
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert module.training


def test_other_losses_are_other_by_their_share(able, monkeypatch):
    monkeypatch.setattr(precision, "_step", lambda module, batch, device, lower: (0.5 if lower else 1.0, 4.2 - lower))
    trial = try_precisions(Watched(), Meadows(6), 4, device="cpu")
    assert trial.seconds == (1.0, 0.5)
    assert trial.difference == pytest.approx(1 / 4.2)
    assert trial.precision == "32-true"


def test_where_the_processor_cannot_nothing_is_tried(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    monkeypatch.setattr(precision, "_step", lambda *_: pytest.fail("a step is tried"))
    trial = try_precisions(Watched(), Meadows(6), 4, device="cpu")
    assert trial.precision == "32-true"
    assert str(trial) == "float32: this processor has no bfloat16 arithmetic (AMX or AVX512-BF16)"


def test_a_run_trains_as_was_chosen_and_goes_on_like_that(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "try_precisions", lambda *_, **__: Trial((2.0, 1.0), 0.001))
    settings = {"batch_size": 8, "memory": "ignore", "precision": "auto"}
    first = Watched()
    fit(first, Meadows(24), None, tmp_path, epochs=1, progress=True, **settings)
    assert first.cast == [True] * 3
    assert "precision: bfloat16: a step takes 1 s in bfloat16, 2 s in float32; the loss" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"
    monkeypatch.setattr(trainer, "try_precisions", lambda *_, **__: pytest.fail("tried again"))
    second = Watched()
    fit(second, Meadows(24), None, tmp_path, epochs=2, progress=False, **settings)
    assert second.cast == [True] * 3


def test_several_processes_do_not_choose_each_for_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"precision='auto' is measured by one process"):
        fit(Watched(), Meadows(24), None, tmp_path, epochs=1, memory="ignore", precision="auto", progress=False)


def test_what_does_not_fit_is_refused_before_a_step_of_it_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr("fusion.training.memory.available_memory", lambda device: 20_000)
    monkeypatch.setattr(trainer, "try_precisions", lambda *_, **__: pytest.fail("a step is tried"))
    with pytest.raises(ValueError, match="training would need"):
        fit(Watched(), Meadows(24), None, tmp_path, epochs=1, batch_size=24, precision="auto", progress=False)


def test_parts_of_a_step_are_tried(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(trainer, "part_size", lambda *_, **__: 4)
    monkeypatch.setattr(
        trainer, "try_precisions", lambda module, train, tiles, **_: tried.append(tiles) or Trial((2.0, 1.0), 0.0)
    )
    fit(Watched(), Meadows(24), None, tmp_path, epochs=1, batch_size=8, precision="auto", progress=False)
    assert tried == [4]
