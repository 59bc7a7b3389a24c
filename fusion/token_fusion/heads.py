"""Token fusion fine-tuned in memory: a linear head on the summary of a tile, for a quantity or for classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..training.in_memory import descend, row_batches
from .in_memory import BATCH
from .model import TokenFusion
from .tokens import Tokens

__all__ = ["Classifier", "Regressor", "Tuning", "classify", "regress", "representation"]

Head = TypeVar("Head", bound="_Head")


class _Head(nn.Module):
    """A model and a linear head on its summary of a tile."""

    def __init__(self, model: TokenFusion, outputs: int) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(model.config.dim, outputs)

    def scores(self, tokens: Tokens) -> Tensor:
        """(B, outputs), from what is observed."""
        return self.head(_summary(self.model, tokens))


class Regressor(_Head):
    """For one standardised target."""

    def __init__(self, model: TokenFusion, target: np.ndarray) -> None:
        super().__init__(model, 1)
        self.mean, self.std = float(target.mean()), float(target.std()) or 1.0

    def forward(self, tokens: Tokens) -> Tensor:
        """(B,) standardised, from what is observed."""
        return self.scores(tokens)[:, 0]

    @torch.no_grad()
    def predict(self, tokens: Tokens) -> np.ndarray:
        """(B,) in the unit of the target."""
        return self.eval()(tokens).numpy() * self.std + self.mean


class Classifier(_Head):
    """For classes that exclude each other."""

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, K) scores, from what is observed."""
        return self.scores(tokens)

    @torch.no_grad()
    def predict(self, tokens: Tokens) -> np.ndarray:
        """(N,) class indices."""
        return torch.cat([self.eval()(some).argmax(1) for some in _parts(tokens)]).numpy()


@dataclass(frozen=True)
class Tuning:
    """How a head and the model below it are trained.

    Attributes:
        lr: of AdamW.
        hide: of each tile, in every step a random share of its tokens, so much on average, is masked: the same few
            tiles never look the same twice.
        seed: of the head, the batches and what is hidden.
    """

    steps: int = 200
    batch_size: int = 64
    lr: float = 1e-3
    hide: float = 0.0
    seed: int = 0


def regress(model: TokenFusion, tokens: Tokens, target: np.ndarray, tuning: Tuning) -> Regressor:
    """Fine-tunes a copy of ``model`` with a head to the ``target`` (N,) of the ``tokens`` of N tiles."""
    torch.manual_seed(tuning.seed)
    regressor = Regressor(copy.deepcopy(model), target)
    wanted = torch.from_numpy((target - regressor.mean) / regressor.std).float()

    def loss(visible: Tokens, rows: Tensor) -> Tensor:
        return nn.functional.smooth_l1_loss(regressor(visible), wanted[rows])

    return _tune(regressor, loss, tokens, tuning)


def classify(model: TokenFusion, tokens: Tokens, target: np.ndarray, classes: int, tuning: Tuning) -> Classifier:
    """As :func:`regress`, to the class indices ``target`` (N,) of ``classes`` classes."""
    torch.manual_seed(tuning.seed)
    classifier = Classifier(copy.deepcopy(model), classes)
    wanted = torch.from_numpy(target)

    def loss(visible: Tokens, rows: Tensor) -> Tensor:
        return nn.functional.cross_entropy(classifier(visible), wanted[rows])

    return _tune(classifier, loss, tokens, tuning)


@torch.no_grad()
def representation(model: TokenFusion, tokens: Tokens) -> np.ndarray:
    """(N, D) summaries of what is observed of N tiles."""
    return torch.cat([_summary(model, some) for some in _parts(tokens)]).numpy()


def _tune(module: Head, loss: Callable[[Tokens, Tensor], Tensor], tokens: Tokens, tuning: Tuning) -> Head:
    """Trains on tokens of which a share is masked anew in every step, and leaves the module in evaluation mode."""
    generator = torch.Generator().manual_seed(tuning.seed)
    batches = row_batches(len(tokens), min(tuning.batch_size, len(tokens)), generator)

    def partly(_: int) -> Tensor:
        rows = next(batches)
        visible = tokens.rows(rows)
        if tuning.hide:
            share = 2 * tuning.hide * torch.rand(len(visible), 1, generator=generator)
            masked = torch.rand(visible.codes.shape, generator=generator) < share
            visible = replace(visible, codes=visible.codes.masked_fill(masked, -1))
        return loss(visible, rows)

    return descend(module, partly, steps=tuning.steps, lr=tuning.lr, weight_decay=0.05).eval()


def _parts(tokens: Tokens) -> list[Tokens]:
    """Of so many tiles as go through a model at once."""
    return [tokens.rows(rows) for rows in torch.arange(len(tokens)).split(BATCH)]


def _summary(model: TokenFusion, tokens: Tokens) -> Tensor:
    """(B, D) of what is observed; slots that no tile has are left out of the computation, and their states 0."""
    seen = tokens.observed
    slots = seen.any(0).nonzero()[:, 0]
    states = model.hidden(tokens, seen, slots)
    every = states.new_zeros(*seen.shape, states.shape[-1]).index_copy(1, slots, states)
    return model.summarise(every, seen).summary
