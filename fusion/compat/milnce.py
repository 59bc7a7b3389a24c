"""OmniSat's contrastive losses with the constructor, the input and the returned keys of the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import patch_info_nce
from ..layers.autocast import without_autocast

__all__ = ["MILNCE", "MILNCE_easy", "MILNCE_naive", "MILNCE_nointra", "retrieval_accuracy"]


class MILNCE(nn.Module):
    """Stand-in for ``MILNCE`` of the published OmniSat code: :func:`fusion.kernels.patch_info_nce`, ``exclude="tile"``.

    The published training step throws the N x N cosine similarities away, its validation step gives them to a metric.
    Here they are formed, O(N^2) memory, only where gradients are off (``torch.no_grad()``), in evaluation mode, or
    with ``return_logits``.

    Args:
        modalities: names in the order of the rows.
        tau: temperature.
        return_logits: return the similarities in training too.
    """

    exclude = "tile"

    def __init__(self, modalities: Sequence[str], tau: float = 0.1, *, return_logits: bool = False) -> None:
        super().__init__()
        self.modalities = list(modalities)
        self.n_modalities = len(self.modalities)
        self.tau = tau
        self.return_logits = return_logits

    def forward(self, input: tuple[dict[str, Tensor], Any], y: Any = None) -> dict[str, Tensor]:
        """Loss of ``input[0]["tokens_<modality>"]``, each (B, P, D).

        Returns:
            ``contrastive_loss``; ``accuracy``, the share of tokens whose nearest admissible token shows the same
            patch (no gradient); and, in validation or if asked for, ``logits`` (N, N) with N = M B P in
            modality-major order.

        Raises:
            ValueError: a modality without tokens, or tokens of different shapes.
        """
        tokens = self._tokens(input[0])  # (M, B, P, D)
        loss, accuracy = self._loss(tokens)
        result = {"contrastive_loss": loss, "accuracy": accuracy}
        if self.return_logits or not self.training or not torch.is_grad_enabled():
            directions = F.normalize(tokens.flatten(0, 2), dim=1)  # (N, D)
            result["logits"] = directions @ directions.T
        return result

    def _tokens(self, named: dict[str, Tensor]) -> Tensor:
        names = [f"tokens_{name}" for name in self.modalities]
        absent = [name for name in names if name not in named]
        if absent:
            raise ValueError(f"{type(self).__name__}: {', '.join(absent)} not in the input, which has {list(named)}")
        shapes = {name: tuple(named[name].shape) for name in names}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"{type(self).__name__}: tokens must all be (B, P, D) alike, got {shapes}")
        return torch.stack([named[name] for name in names])

    def _loss(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        options = {"exclude": self.exclude, "return_accuracy": True}
        return cast(tuple[Tensor, Tensor], patch_info_nce(tokens, temperature=self.tau, **cast(Any, options)))


class MILNCE_nointra(MILNCE):
    """The published variant without negatives of the anchor's modality."""

    exclude = "modality"


class MILNCE_naive(MILNCE):
    """The published variant that leaves the anchor alone out of its denominator."""

    exclude = "self"


class MILNCE_easy(MILNCE):
    """The published variant with negatives from other tiles alone, and a denominator without the positives.

    Computed in float64, for where negatives are far the loss is the logarithm of what they add to the positives.

    Args:
        modalities, tau, return_logits: as in :class:`MILNCE`.
        patches: patches of a tile. The published code knows 36 only.
    """

    exclude = "place"

    def __init__(
        self, modalities: Sequence[str], tau: float = 0.1, *, return_logits: bool = False, patches: int = 36
    ) -> None:
        super().__init__(modalities, tau, return_logits=return_logits)
        self.patches = patches

    def _loss(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        _, tiles, patches, _ = tokens.shape
        if patches != self.patches:
            raise ValueError(
                f"MILNCE_easy: tiles of {patches} patches, the loss was made for {self.patches}; pass patches={patches}"
            )
        if tiles < 2:
            raise ValueError(f"MILNCE_easy: negatives come from other tiles, and the batch has {tiles}; drop it")
        with without_autocast(tokens.device.type):
            options = {"exclude": self.exclude, "reduction": "none", "return_accuracy": True}
            # With positives in the denominator: log(1 + e^x), where the published loss of a row is x.
            found = patch_info_nce(tokens.double(), temperature=self.tau, **cast(Any, options))
            rows, accuracy = cast(tuple[Tensor, Tensor], found)
            loss = (rows + torch.log(-torch.expm1(-rows))).mean()
        dtype = tokens.dtype if tokens.dtype == torch.float64 else torch.float32
        return loss.to(dtype), accuracy.to(dtype)


def retrieval_accuracy(tokens: Tensor) -> Tensor:
    """The published accuracy of each modality, (M,), for tokens (M, B, P, D). It cannot exceed 1/M.

    Among the M most similar tokens of an anchor (itself included): the share of its M-1 matches, averaged over
    the tokens of *all* modalities instead of the anchor's.
    """
    modalities, rows = tokens.shape[0], tokens.flatten(0, 2)
    place = torch.arange(len(rows) // modalities, device=tokens.device).repeat(modalities)
    unit = F.normalize(rows, dim=1, eps=1e-8)
    hits = []
    for part, where in zip(unit.chunk(modalities), place.chunk(modalities), strict=True):
        nearest = (part @ unit.T).topk(modalities, dim=1).indices  # (B*P, M)
        hits.append(((place[nearest] == where[:, None]).sum(1) - 1).sum() / (modalities - 1))
    return torch.stack(hits) / len(rows)
