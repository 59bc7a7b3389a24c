"""Token fusion trained in memory, on tiles that are tokenized once: for the many small models of a cross-validation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..data import TileBatch, TileDataset
from ..settings import call
from ..training.in_memory import descend, row_batches
from ..training.loading import evaluation_loader
from ..training.pretrain import configure
from .model import TokenFusion
from .tokens import Tokens

__all__ = ["BATCH", "Recipe", "learn", "model_batches", "tokenize"]

BATCH = 128  # tiles at once, without gradients


@dataclass(frozen=True)
class Recipe:
    """How a small model of token fusion is made.

    Attributes:
        model: fields of its configuration that differ from ``size``, ``tokenizers`` among them.
        module: arguments of :class:`~fusion.token_fusion.TokenFusionPretraining`, such as the ``objective``.
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
    """A model trained on ``tiles`` without labels, by the objective that the recipe's ``module`` names, in evaluation
    mode.

    Args:
        start: a model to go on from, whose tokenizers are kept; it stays as it is.
        steps: instead of the recipe's.
    """
    from .module import TokenFusionPretraining  # and with it Lightning, which takes seconds

    if recipe.modalities:
        tiles = tiles.with_modalities(list(recipe.modalities))
    config = configure("token-fusion", tiles, size=recipe.size, model=recipe.model) if start is None else start.config
    torch.manual_seed(seed)
    module = TokenFusionPretraining(config, **recipe.module)
    if start is None:
        module.model.tokenizer.fit(tiles, seed=seed)
    else:
        module.model = copy.deepcopy(start)
    tokens = tokenize(module.model, tiles)
    generator = torch.Generator().manual_seed(seed)
    batches = row_batches(len(tiles), min(recipe.batch_size, len(tiles)), generator)

    def loss(_: int) -> Tensor:
        return module.objective.of_tokens(module.model, tokens.rows(next(batches)), generator).total

    descend(module, loss, steps=steps or recipe.steps, lr=recipe.lr, weight_decay=0.05)
    return module.model.eval()


def model_batches(model: TokenFusion, dataset: TileDataset, size: int = BATCH) -> Iterator[TileBatch]:
    """The tiles in order with the modalities that the model knows, on its device."""
    known = {m.name for m in model.config.modalities}
    dataset = dataset.with_modalities([m.name for m in dataset.modalities if m.name in known])
    device = next(model.parameters()).device
    for batch in evaluation_loader(dataset, size):
        yield batch.to(device)


@torch.no_grad()
def tokenize(model: TokenFusion, tiles: TileDataset) -> Tokens:
    """The tokens of all tiles."""
    codes = [model.tokenize(batch).codes for batch in model_batches(model, tiles)]
    return Tokens(torch.cat(codes), model.tokenizer.layout)
