"""OmniSat's contrastive loss with the constructor, the input and the returned keys of the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import patch_info_nce

__all__ = ["MILNCE"]


class MILNCE(nn.Module):
    """Stand-in for ``MILNCE`` of the published OmniSat code: :func:`fusion.kernels.patch_info_nce`, ``exclude="tile"``.

    Args:
        modalities: names in the order of the rows.
        tau: temperature.
        return_logits: also return the N x N cosine similarities, which the original always forms for its
            validation metric. ``accuracy`` needs none of them.
    """

    def __init__(self, modalities: Sequence[str], tau: float = 0.1, *, return_logits: bool = False) -> None:
        super().__init__()
        self.modalities = list(modalities)
        self.tau = tau
        self.return_logits = return_logits

    def forward(self, input: tuple[dict[str, Tensor], Any], y: Any = None) -> dict[str, Tensor]:
        """Loss of ``input[0]["tokens_<modality>"]``, each (B, P, D).

        Returns:
            ``contrastive_loss``; ``accuracy``, the share of tokens whose nearest admissible token shows the same
            patch (no gradient); and, if asked for, ``logits`` (N, N) with N = M B P in modality-major order.
        """
        x, _ = input
        tokens = torch.stack([x[f"tokens_{name}"] for name in self.modalities])  # (M, B, P, D)
        loss, accuracy = patch_info_nce(tokens, temperature=self.tau, return_accuracy=True)
        result = {"contrastive_loss": loss, "accuracy": accuracy}
        if self.return_logits:
            directions = F.normalize(tokens.flatten(0, 2), dim=1)  # (N, D)
            result["logits"] = directions @ directions.T
        return result
