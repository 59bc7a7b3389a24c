"""The definition of patch InfoNCE: plain PyTorch on N x N matrices, differentiable, in any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

NO_DIRECTION = 1e-8  # tokens shorter than this have no direction: cosine 0 with everything, no gradient
TIE = 1e-5  # relative gap below which two similarities count as equal


def patch_info_nce(
    tokens: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    valid: Tensor | None = None,
    exclude: str = "tile",
    normalize: bool = True,
    reduction: str = "mean",
    group: object = None,
    return_accuracy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """See :func:`fusion.kernels.patch_info_nce`. tokens (M, B, P, D)."""
    shape = tokens.shape[:3]
    sizes = [torch.arange(size, device=tokens.device) for size in shape]
    modality, tile, patch = (label.flatten() for label in torch.meshgrid(*sizes, indexing="ij"))
    if valid is not None:
        valid = (valid if valid.ndim == 3 else valid[..., None]).expand(shape).flatten()
    labels = modality, tile, patch
    _require_one_process(group)
    loss, accuracy = _loss_and_accuracy(
        tokens.flatten(0, 2), *labels, temperature, valid, exclude, normalize, reduction, return_accuracy
    )
    if reduction == "none":
        loss = loss.reshape(shape)
    return (loss, accuracy) if return_accuracy else loss


def patch_info_nce_ragged(
    tokens: Tensor,
    modality: Tensor,
    tile: Tensor,
    patch: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    valid: Tensor | None = None,
    exclude: str = "tile",
    normalize: bool = True,
    reduction: str = "mean",
    group: object = None,
    return_accuracy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """See :func:`fusion.kernels.patch_info_nce_ragged`. tokens (N, D); modality, tile, patch, valid (N,)."""
    labels = modality, tile, patch
    _require_one_process(group)
    loss, accuracy = _loss_and_accuracy(
        tokens, *labels, temperature, valid, exclude, normalize, reduction, return_accuracy
    )
    return (loss, accuracy) if return_accuracy else loss


def _loss_and_accuracy(
    tokens: Tensor,
    modality: Tensor,
    tile: Tensor,
    patch: Tensor,
    temperature: float | Tensor,
    valid: Tensor | None,
    exclude: str,
    normalize: bool,
    reduction: str,
    return_accuracy: bool,
) -> tuple[Tensor, Tensor]:
    """The loss, () or (N,), and the accuracy, (), without meaning unless asked for."""
    if normalize:
        tokens = unit(tokens)[0]
    similarity = tokens @ tokens.T  # (N, N)

    observed = torch.ones_like(modality, dtype=torch.bool) if valid is None else valid
    observed = observed[:, None] & observed
    same_modality = modality[:, None] == modality
    same_tile = tile[:, None] == tile
    same_patch = patch[:, None] == patch
    myself = torch.eye(len(tokens), dtype=torch.bool, device=tokens.device)
    same_place = same_tile & same_patch & ~same_modality
    excluded = {
        "tile": same_modality & same_tile,
        "self": myself,
        "modality": same_modality,
        "place": same_tile & ~same_place,
    }[exclude]
    positive = observed & same_place
    admissible = observed & ~excluded

    anchor = positive.any(1)  # rows without a positive are left out
    logits = similarity[anchor] / temperature
    log_z = logits.masked_fill(~admissible[anchor], -torch.inf).logsumexp(1)
    log_y = logits.masked_fill(~positive[anchor], -torch.inf).logsumexp(1)
    rows = log_z - log_y
    if reduction == "none":
        loss = rows.new_zeros(len(tokens)).index_put((anchor.nonzero()[:, 0],), rows)
    else:
        loss = rows.sum()
        if reduction == "mean":
            loss = loss / anchor.sum().clamp(min=1)
    if not return_accuracy:
        return loss, loss

    best = similarity.masked_fill(~positive, -torch.inf)[anchor].amax(1)
    rival = similarity.masked_fill(~admissible | positive, -torch.inf)[anchor].amax(1)
    hit = best - rival > TIE * torch.maximum(best.abs(), rival.abs()).nan_to_num(posinf=0.0)
    return loss, hit.to(loss.dtype).mean()


def _require_one_process(group: object) -> None:
    if group is not None:
        raise ValueError("the definition of patch_info_nce is that of one process: give it the joined batch")


def unit(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (N, D) scaled to norm 1, zero where there is no direction, and their inverse norms (N, 1)."""
    square = tokens.square().sum(-1, keepdim=True)
    directed = square > NO_DIRECTION**2
    inverse = torch.where(directed, square, 1.0).rsqrt() * directed
    inverse = inverse.masked_fill(square.isinf(), torch.nan)  # too long to be squared: not cosine 0 with everything
    return tokens * inverse, inverse
