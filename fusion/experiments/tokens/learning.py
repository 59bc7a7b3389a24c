"""Training in memory: for the many small models of a cross-validation a run folder takes longer than the training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ...data import TileDataset
from ...settings import call
from ...training.pretrain import configure
from .common import BATCH, batches

if TYPE_CHECKING:
    from ...token_fusion import TokenFusion
    from ...token_fusion.tokens import Tokens

__all__ = ["Classifier", "Recipe", "Regressor", "classify", "learn", "regress", "representation", "tokenize"]

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """How a small model of token fusion is made.

    Attributes:
        model: fields of its configuration that differ from ``size``, ``tokenizers`` among them.
        module: arguments of :class:`~fusion.token_fusion.TokenFusionPretraining`, such as the budgets of masking.
        steps, batch_size, lr: of AdamW with one cycle of the learning rate.
        modalities: those it has, in order; all of the data by default.
    """

    size: str = "tiny"
    model: Mapping[str, Any] = field(default_factory=dict)
    module: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 400
    batch_size: int = 64
    lr: float = 2e-3
    modalities: Sequence[str] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Recipe:
        """From a YAML.

        Raises:
            ValueError: an unknown field.
        """
        return call(cls, settings, "recipe of a model")


def learn(
    tiles: TileDataset, recipe: Recipe, seed: int, *, start: TokenFusion | None = None, steps: int | None = None
) -> TokenFusion:
    """A model trained by masked prediction on ``tiles``, without labels, in evaluation mode.

    Args:
        start: a model to go on from, whose tokenizers are kept; it stays as it is.
        steps: instead of the recipe's.
    """
    from ...token_fusion.module import TokenFusionPretraining
    from ...token_fusion.objective import draw_masks

    if recipe.modalities:
        tiles = tiles.with_modalities(list(recipe.modalities))
    config = configure("token-fusion", tiles, size=recipe.size, model=recipe.model) if start is None else start.config
    torch.manual_seed(seed)
    module = TokenFusionPretraining(config, **recipe.module)
    if start is None:
        module.model.tokenizer.fit(tiles, seed=seed)
    else:
        module.model = copy.deepcopy(start)
    model = module.model
    tokens = tokenize(model, tiles)
    generator = torch.Generator().manual_seed(seed)

    how = module.objective

    def loss(rows: Tensor) -> Tensor:
        some = tokens.rows(rows)
        masks = draw_masks(some, some.layout, how.inputs, how.targets, how.alphas, how.whole, generator=generator)
        return how.score(model, some, *masks).total

    _descend(model, loss, len(tiles), recipe.batch_size, steps or recipe.steps, recipe.lr, generator)
    return model.eval()


class Regressor(nn.Module):
    """A model and a linear head on its summary of a tile, for one standardised target."""

    def __init__(self, model: TokenFusion, target: np.ndarray) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(model.config.dim, 1)
        self.mean, self.std = float(target.mean()), float(target.std()) or 1.0

    def forward(self, tokens: Tokens) -> Tensor:
        """(B,) standardised, from what is observed."""
        return self.answer(_states(self.model, tokens), tokens.observed)

    def answer(self, hidden: Tensor, visible: Tensor) -> Tensor:
        """(B,) standardised, from hidden states (B, N, D) and what of them was visible (B, N)."""
        return self.head(self.model.summarise(hidden, visible).summary)[:, 0]

    @torch.no_grad()
    def predict(self, tokens: Tokens) -> np.ndarray:
        """(B,) in the unit of the target."""
        return self.eval()(tokens).numpy() * self.std + self.mean


def regress(
    model: TokenFusion,
    tokens: Tokens,
    target: np.ndarray,
    *,
    steps: int = 200,
    batch_size: int = 64,
    lr: float = 1e-3,
    hide: float = 0.0,
    seed: int = 0,
) -> Regressor:
    """Fine-tunes a copy of ``model`` with a head to the ``target`` (N,) of the ``tokens`` of N tiles.

    Args:
        hide: of each tile, in every step a random share of its tokens, so much on average, is not seen: the same few
            tiles never look the same twice.
    """
    torch.manual_seed(seed)
    regressor = Regressor(copy.deepcopy(model), target)
    wanted = torch.from_numpy((target - regressor.mean) / regressor.std).float()

    def loss(seen: Tokens, rows: Tensor) -> Tensor:
        return nn.functional.smooth_l1_loss(regressor(seen), wanted[rows])

    return _tune(regressor, loss, tokens, steps, batch_size, lr, hide, seed)


class Classifier(nn.Module):
    """A model and a linear head on its summary of a tile, for classes that exclude each other."""

    def __init__(self, model: TokenFusion, classes: int) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(model.config.dim, classes)

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, K) scores, from what is observed."""
        return self.head(self.model.summarise(_states(self.model, tokens), tokens.observed).summary)

    @torch.no_grad()
    def predict(self, tokens: Tokens) -> np.ndarray:
        """(N,) class indices."""
        parts = [tokens.rows(rows) for rows in torch.arange(len(tokens)).split(BATCH)]
        return torch.cat([self.eval()(some).argmax(1) for some in parts]).numpy()


def classify(
    model: TokenFusion,
    tokens: Tokens,
    target: np.ndarray,
    classes: int,
    *,
    steps: int = 200,
    batch_size: int = 64,
    lr: float = 1e-3,
    hide: float = 0.0,
    seed: int = 0,
) -> Classifier:
    """As :func:`regress`, to the class indices ``target`` (N,) of ``classes`` classes."""
    torch.manual_seed(seed)
    classifier = Classifier(copy.deepcopy(model), classes)
    wanted = torch.from_numpy(target)

    def loss(seen: Tokens, rows: Tensor) -> Tensor:
        return nn.functional.cross_entropy(classifier(seen), wanted[rows])

    return _tune(classifier, loss, tokens, steps, batch_size, lr, hide, seed)


def _tune(
    module: Module,
    loss: Callable[[Tokens, Tensor], Tensor],
    tokens: Tokens,
    steps: int,
    batch_size: int,
    lr: float,
    hide: float,
    seed: int,
) -> Module:
    """Trains on tokens of which a share is hidden anew in every step, and leaves the module in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def partly(rows: Tensor) -> Tensor:
        seen = tokens.rows(rows)
        if hide:
            share = 2 * hide * torch.rand(len(seen), 1, generator=generator)
            gone = torch.rand(seen.codes.shape, generator=generator) < share
            seen = replace(seen, codes=seen.codes.masked_fill(gone, -1))
        return loss(seen, rows)

    _descend(module, partly, len(tokens), batch_size, steps, lr, generator)
    return module.eval()


@torch.no_grad()
def representation(model: TokenFusion, tokens: Tokens) -> np.ndarray:
    """(N, D) summaries of what is observed of N tiles."""
    parts = [tokens.rows(rows) for rows in torch.arange(len(tokens)).split(BATCH)]
    found = [model.summarise(_states(model, some), some.observed).summary for some in parts]
    return torch.cat(found).numpy()


@torch.no_grad()
def tokenize(model: TokenFusion, tiles: TileDataset) -> Tokens:
    """The tokens of all tiles."""
    from ...token_fusion.tokens import Tokens

    return Tokens(torch.cat([model.tokenize(batch).codes for batch in batches(model, tiles)]), model.tokenizer.layout)


def _states(model: TokenFusion, tokens: Tokens) -> Tensor:
    """(B, N, D) states of what is observed; slots that no tile has are left out of the computation, and 0."""
    seen = tokens.observed
    slots = seen.any(0).nonzero()[:, 0]
    states = model.hidden(tokens, seen, slots)
    return states.new_zeros(*seen.shape, states.shape[-1]).index_copy(1, slots, states)


def _descend(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    tiles: int,
    batch_size: int,
    steps: int,
    lr: float,
    generator: torch.Generator,
) -> None:
    """``steps`` of AdamW on random ``batch_size`` of the ``tiles``, every tile once an epoch."""
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    order = torch.empty(0, dtype=torch.int64)
    module.train()
    for _ in range(steps):
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(tiles, generator=generator)])
        rows, order = order[:batch_size], order[batch_size:]
        optimizer.zero_grad()
        loss(rows).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
