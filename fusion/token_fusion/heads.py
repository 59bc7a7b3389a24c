"""Token fusion fine-tuned in memory: a linear head on the states of a tile's tokens, for a quantity or for classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..training.closed_form import discriminant, ridge_line
from ..training.in_memory import descend, row_batches
from ..training.label_settings import log_class_shares
from .in_memory import BATCH
from .model import TokenFusion
from .pooling import Pooled, TokenFeatures
from .tokens import Tokens

__all__ = ["Classifier", "Regressor", "Tuning", "classify", "regress", "representation"]


@dataclass(frozen=True)
class Tuning:
    """How a head and the model below it are trained, by AdamW with one cycle of the learning rate.

    Attributes:
        steps: None: as many as go through the tiles ``_EPOCHS`` times, between 200 and 1500.
        lr: of AdamW.
        hide: of each tile, in every step a random share of its tokens, so much on average, is masked: the same few
            tiles never look the same twice.
        seed: of the head, the batches and what is hidden.
        pooled, values: what the head sees, see :class:`~fusion.token_fusion.pooling.TokenFeatures`.
        start: of the head: ``"random"``, or ``"closed-form"``: linear discriminant analysis or ridge regression on the
            features before fine-tuning (Kumar et al. 2022: a head that is random at first pulls the states away from
            what they know of tiles unlike the labelled ones).
        label_smoothing: of classes.
        logit_adjustment: of classes, by the log of their share of the labels: with 1 the answer is as if all were
            equally frequent, see :class:`~fusion.training.finetuning.Finetuning`.
        weight_decay: of AdamW.
        members: so many are fine-tuned from seeds ``seed``, ``seed + 1``, ...; the mean of their answers is given.
    """

    steps: int | None = 200
    batch_size: int = 64
    lr: float = 1e-3
    hide: float = 0.0
    seed: int = 0
    pooled: Pooled = "summary"
    values: bool = False
    start: Literal["random", "closed-form"] = "random"
    label_smoothing: float = 0.0
    logit_adjustment: float = 0.0
    weight_decay: float = 0.05
    members: int = 1

    def __post_init__(self) -> None:
        if self.start not in ("random", "closed-form"):
            raise ValueError(f"Tuning: start is 'random' or 'closed-form', not {self.start!r}")
        if self.members < 1 or not 0 <= self.label_smoothing < 1 or not 0 <= self.hide <= 0.5:
            raise ValueError(
                f"Tuning: members >= 1, label_smoothing in [0, 1) and hide in [0, 0.5], got {self.members}, "
                f"{self.label_smoothing}, {self.hide}"
            )
        if not 0 <= self.logit_adjustment <= 1:
            raise ValueError(f"Tuning: logit_adjustment is from 0 to 1, not {self.logit_adjustment}")

    def steps_for(self, tiles: int) -> int:
        """How many steps are taken for so many labelled tiles."""
        wanted = round(_EPOCHS * tiles / min(self.batch_size, tiles))
        return self.steps or min(max(wanted, 200), 1500)


_EPOCHS = 20
_NARROW = 64


class Member(nn.Module):
    """A model and a linear head on its features of a tile, standardised as they were before fine-tuning."""

    mean: Tensor  # (F,)
    std: Tensor  # (F,)

    def __init__(self, model: TokenFusion, tuning: Tuning, outputs: int) -> None:
        super().__init__()
        self.model, self.features = model, TokenFeatures(model, tuning.pooled, tuning.values)
        self.head = nn.Linear(self.features.width, outputs)
        self.register_buffer("mean", torch.zeros(self.features.width))
        self.register_buffer("std", torch.ones(self.features.width))

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, outputs), from what is observed."""
        return cast(Tensor, self.head(self.standardised(self.features(self.model, tokens))))

    def standardised(self, features: Tensor) -> Tensor:
        """(B, F), 0 where missing. Of many features each is smaller, so that a step of Adam, which moves all weights
        of the head alike, moves the answer no further than it would that of ``_NARROW`` features."""
        return ((features - self.mean) / self.std).nan_to_num(0.0) * min(1.0, _NARROW / self.features.width)

    def begin(self, tokens: Tokens, solve: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None) -> None:
        """Standardises by the labelled tiles; ``solve`` makes weight and bias of the head of their features (N, F)."""
        features = _features(self.model, self.features, tokens)
        mean, centred = features.nanmean(0), features - features.nanmean(0)
        std = centred.square().nanmean(0).sqrt()
        self.mean.copy_(mean.nan_to_num(0.0))
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))
        if solve is not None:
            weight, bias = solve(self.standardised(features).numpy())
            with torch.no_grad():
                self.head.weight.copy_(torch.from_numpy(weight))
                self.head.bias.copy_(torch.from_numpy(bias))


class _Tuned(nn.Module):
    """Members whose answers are averaged."""

    def __init__(self, members: list[Member]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def model(self) -> TokenFusion:
        """Of the first member."""
        return cast(Member, self.members[0]).model

    def answer(self, hidden: Tensor, visible: Tensor) -> Tensor:
        """(B, outputs) that the first member makes of states (B, N, D) and which tokens are visible (B, N); values,
        which are no states, stand at their mean."""
        member = cast(Member, self.members[0])
        slots = torch.arange(hidden.shape[1], device=hidden.device)
        if member.features.pooled == "none":
            raise ValueError("the head sees no states, so its answer hangs on none of them; fine-tune one that does")
        states = member.features.of_states(member.model, hidden, visible, slots)  # (B, F) without values
        rest = states.new_full((len(states), member.features.width - states.shape[1]), torch.nan)
        return cast(Tensor, member.head(member.standardised(torch.cat([states, rest], 1))))

    @torch.no_grad()
    def _answers(self, tokens: Tokens) -> list[Tensor]:
        """(N, outputs) of each member."""
        return [torch.cat([m.eval()(some) for some in _parts(tokens)]) for m in self.members]


class Regressor(_Tuned):
    """For one standardised target."""

    def __init__(self, members: list[Member], mean: float, std: float) -> None:
        super().__init__(members)
        self.mean, self.std = mean, std

    def forward(self, tokens: Tokens) -> Tensor:
        """(B,) standardised, from what is observed."""
        return torch.stack([member(tokens)[:, 0] for member in self.members]).mean(0)

    def predict(self, tokens: Tokens) -> np.ndarray:
        """(N,) in the unit of the target."""
        return torch.stack(self._answers(tokens)).mean(0)[:, 0].numpy() * self.std + self.mean


class Classifier(_Tuned):
    """For classes that exclude each other."""

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, K) log probabilities, from what is observed."""
        return torch.stack([member(tokens).softmax(1) for member in self.members]).mean(0).log()

    def probabilities(self, tokens: Tokens) -> np.ndarray:
        """(N, K)"""
        return torch.stack([one.softmax(1) for one in self._answers(tokens)]).mean(0).numpy()

    def predict(self, tokens: Tokens) -> np.ndarray:
        """(N,) class indices."""
        return self.probabilities(tokens).argmax(1)


def regress(model: TokenFusion, tokens: Tokens, target: np.ndarray, tuning: Tuning) -> Regressor:
    """Fine-tunes copies of ``model`` with a head to the ``target`` (N,) of the ``tokens`` of N tiles."""
    mean, std = float(target.mean()), float(target.std()) or 1.0
    wanted = torch.from_numpy((target - mean) / std).float()

    def train(member: Member, tuning: Tuning) -> Member:
        member.begin(tokens, (lambda x: ridge_line(x, wanted.numpy())) if tuning.start == "closed-form" else None)

        def loss(visible: Tokens, rows: Tensor) -> Tensor:
            return nn.functional.smooth_l1_loss(member(visible)[:, 0], wanted[rows])

        return _tune(member, loss, tokens, tuning)

    return Regressor(_members(model, tuning, 1, train), mean, std)


def classify(model: TokenFusion, tokens: Tokens, target: np.ndarray, classes: int, tuning: Tuning) -> Classifier:
    """As :func:`regress`, to the class indices ``target`` (N,) of ``classes`` classes."""
    wanted = torch.from_numpy(target)
    counts = np.bincount(target, minlength=classes)
    part = tuning.logit_adjustment * log_class_shares(counts.tolist(), [str(k) for k in range(classes)])

    def start(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weight, bias = discriminant(x, target, classes)
        return weight, bias - part.numpy()

    def train(member: Member, tuning: Tuning) -> Member:
        member.begin(tokens, start if tuning.start == "closed-form" else None)

        def loss(visible: Tokens, rows: Tensor) -> Tensor:
            smoothing = tuning.label_smoothing
            return nn.functional.cross_entropy(member(visible) + part, wanted[rows], label_smoothing=smoothing)

        return _tune(member, loss, tokens, tuning)

    return Classifier(_members(model, tuning, classes, train))


@torch.no_grad()
def representation(model: TokenFusion, tokens: Tokens, pooled: Pooled = "summary", values: bool = False) -> np.ndarray:
    """(N, F) features of what is observed of N tiles, NaN where missing; by default their summaries.

    Args:
        pooled, values: see :class:`~fusion.token_fusion.pooling.TokenFeatures`.
    """
    return _features(model, TokenFeatures(model, pooled, values), tokens).numpy()


def _members(
    model: TokenFusion, tuning: Tuning, outputs: int, train: Callable[[Member, Tuning], Member]
) -> list[Member]:
    trained = []
    for seed in range(tuning.seed, tuning.seed + tuning.members):
        torch.manual_seed(seed)
        own = replace(tuning, seed=seed)
        trained.append(train(Member(copy.deepcopy(model).eval(), own, outputs), own))
    return trained


def _tune(module: Member, loss: Callable[[Tokens, Tensor], Tensor], tokens: Tokens, tuning: Tuning) -> Member:
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

    steps = tuning.steps_for(len(tokens))
    return descend(module, partly, steps=steps, lr=tuning.lr, weight_decay=tuning.weight_decay).eval()


@torch.no_grad()
def _features(model: TokenFusion, features: TokenFeatures, tokens: Tokens) -> Tensor:
    """(N, F), NaN where missing."""
    return torch.cat([features(model, some) for some in _parts(tokens)])


def _parts(tokens: Tokens) -> list[Tokens]:
    """Of so many tiles as go through a model at once."""
    return [tokens.rows(rows) for rows in torch.arange(len(tokens)).split(BATCH)]
