"""The estimate is what a step really takes, and leaves no trace."""

from typing import ClassVar

import pytest
import torch
from lightning import LightningModule
from tiny_system import Meadows, TinyTraining
from torch import nn

from fusion.training import estimate_memory
from fusion.training.files import readable_size
from fusion.training.memory import available_memory


class Exponential(LightningModule):
    """A step holds its output and the output's gradient, a million float32 a tile each, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1_000_000))

    def training_step(self, batch, batch_idx):
        return self.weight.expand(len(batch), -1).exp().sum()


def test_what_a_tile_costs_is_counted_to_the_byte():
    data = Meadows(6)
    tile = data[0]
    inputs = sum(v.nbytes for v in tile.values.values()) + tile.days["s2"].nbytes + 4 + 1 + 8  # valid, valid, label
    estimate = estimate_memory(Exponential(), data, 10)
    assert estimate.state == 4 * 4_000_000
    assert estimate.per_tile == 2 * 4_000_000 + inputs  # the output, its gradient, the tile
    assert estimate.fixed == 0
    assert estimate.total == estimate.state + 10 * estimate.per_tile


def test_a_frozen_part_needs_neither_gradient_nor_moments():
    module = TinyTraining()
    trainable = estimate_memory(module, Meadows(6), 4).state
    module.model.requires_grad_(False)
    kept = sum(p.nbytes for p in module.model.parameters())
    assert estimate_memory(module, Meadows(6), 4).state == trainable - 3 * kept


def test_nothing_changes_by_estimating():
    module = TinyTraining()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    estimate_memory(module, Meadows(6), 4, precision="bf16-mixed")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_the_largest_batch_fits_and_the_next_does_not():
    estimate = estimate_memory(Exponential(), Meadows(6), 10)
    smaller = type(estimate)(estimate.state, 0, estimate.per_tile, 10, 100_000_000)
    used = estimate.state + smaller.largest_batch * smaller.per_tile
    assert used <= 0.9 * smaller.available < used + smaller.per_tile
    assert type(estimate)(estimate.state, 0, estimate.per_tile, 10, 1_000).largest_batch == 0


class Counting(Exponential):
    """Remembers the tiles of each step that was begun, and of each that came to its end."""

    begun: ClassVar[list[int]] = []
    ended: ClassVar[list[int]] = []

    def training_step(self, batch, batch_idx):
        self.begun.append(len(batch))
        loss = super().training_step(batch, batch_idx)
        self.ended.append(len(batch))
        return loss


@pytest.mark.parametrize(
    ("megabytes", "begun", "ended"),
    [(40, [2, 4], [2, 4]), (30, [2, 1], [2, 1]), (14, [2, 1], [2, 1]), (7, [2, 1], [1]), (3, [2, 1], [])],
)
def test_large_tiles_are_measured_few_at_a_time_within_what_is_available(megabytes, begun, ended):
    """A tile takes 8 MB, its first step 12 MB with the gradient of the weights; what takes more is left off."""
    Counting.begun, Counting.ended = [], []
    estimate = estimate_memory(Counting(), Meadows(6), 1, limit=megabytes * 1e6 / 2**30)
    assert Counting.begun == begun
    assert Counting.ended == ended
    assert (estimate.total > estimate.available) == (megabytes < 24)  # weights, gradient, moments and a tile
    assert (estimate.largest_batch == 0) == (megabytes * 0.9 < 24)


def test_one_tile_is_enough():
    assert estimate_memory(TinyTraining(), Meadows(1), 1).per_tile > 0


def test_a_limit_is_what_is_available_unless_less_is_free():
    assert estimate_memory(TinyTraining(), Meadows(6), 4, limit=0.5).available == 2**29
    assert estimate_memory(TinyTraining(), Meadows(6), 4, limit=1e6).available < 1e6 * 2**30


def test_free_memory_is_known_and_readable():
    assert available_memory("cpu") > 2**20
    assert [readable_size(n) for n in (12, 2048, 3.2e9)] == ["12 B", "2.0 KiB", "3.0 GiB"]


class Recomputing(Exponential):
    """Keeps nothing of the hidden layer, but computes it again in the backward pass."""

    def training_step(self, batch, batch_idx):
        from torch.utils.checkpoint import checkpoint

        wide = self.weight.expand(len(batch), -1)
        return checkpoint(lambda x: x.exp().exp().sum(), wide, use_reentrant=False)


def test_what_the_backward_pass_computes_again_counts_at_its_peak():
    data = Meadows(6)
    assert estimate_memory(Recomputing(), data, 10).per_tile > estimate_memory(Exponential(), data, 10).per_tile
