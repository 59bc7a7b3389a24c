"""A training that changes nothing is refused, in the first steps and in words; one that begins late is not."""

from __future__ import annotations

import pytest
import torch
from tiny_system import Meadows, TinyConfig, TinyModel, TinyTraining
from torch import nn

from fusion.training import Finetuning, fit
from fusion.training.in_memory import descend


class Silent(TinyTraining):
    """Its loss is 0 until the step ``speaks``, and without a graph if ``cut``."""

    def __init__(self, speaks: int, cut: bool = False) -> None:
        super().__init__()
        self.speaks, self.cut = speaks, cut

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if len(self.losses) > self.speaks:
            return loss
        return torch.zeros(()) if self.cut else loss * 0


def train(module, run, epochs=1, tiles=None, **arguments):
    tiles = tiles or Meadows(12)
    fit(module, tiles, None, run, epochs=epochs, **{"batch_size": 2, "progress": False, "memory": "ignore"} | arguments)
    return module


@pytest.mark.parametrize(
    ("module", "arguments", "told"),
    [
        (lambda: Silent(99), {}, r"0 in the first 3 steps \(training loss 0\). A tile has 2 x 2 patches of s2, vhr"),
        (lambda: Silent(99), {"limit_train_batches": 2}, "0 in the first epoch"),
        (lambda: Silent(99, cut=True), {}, "the loss does not depend on any parameter"),
        (lambda: Silent(99, cut=True), {"memory": "warn"}, "the loss does not depend on any parameter"),
        (lambda: TinyTraining().requires_grad_(False), {}, "no parameter of TinyTraining requires a gradient"),
    ],
)
def test_a_training_that_moves_nothing_leaves_no_model(tmp_path, module, arguments, told):
    with pytest.raises(ValueError, match=told):
        train(module(), tmp_path, **arguments)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_training_may_begin_late(tmp_path):
    torch.manual_seed(0)
    module = Silent(2)
    before = module.classify.weight.detach().clone()
    train(module, tmp_path)
    assert not torch.equal(module.classify.weight, before)


def test_steps_in_parts_count_as_steps(tmp_path):
    """Four parts without a gradient in the first step, and something in the fifth."""
    assert train(Silent(4), tmp_path, accumulate_grad_batches=6).losses


def test_labels_without_weight_are_refused(tmp_path):
    head = Finetuning(TinyModel(TinyConfig()), "multiclass", ["a", "b"], head="linear", class_weights=[0.0, 1.0])
    tiles = Meadows(12)
    with pytest.raises(ValueError, match="class weights above 0"):
        train(head, tmp_path, tiles=tiles.subset(tiles.kinds == 0))


def test_the_loop_in_memory_refuses_too():
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"descend: nothing would be learned: .* Linear was 0 in the first 2 steps"):
        descend(model, lambda step: model(torch.ones(1, 2)).sum() * 0, steps=2, lr=0.1)
