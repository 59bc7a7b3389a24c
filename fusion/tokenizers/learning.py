"""How tokenizers that learn by gradient are trained."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from ..training.in_memory import descend

__all__ = ["train_tokenizer"]

Module = TypeVar("Module", bound=nn.Module)


def train_tokenizer(
    tokenizer: Module, examples: Tensor, *, steps: int, batch_size: int, lr: float = 2e-3, seed: int = 0
) -> Module:
    """Trains on ``steps`` batches drawn with replacement from ``examples`` (N, ...), then switches to evaluation.

    ``tokenizer(examples)`` returns reconstruction, codes and the loss (). The same seed draws the same batches.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss(_: int) -> Tensor:
        drawn = torch.randint(len(examples), (min(batch_size, len(examples)),), generator=generator)
        _, _, loss = tokenizer(examples[drawn.to(examples.device)])
        return loss

    return descend(tokenizer, loss, steps=steps, lr=lr, clip=None).eval()
