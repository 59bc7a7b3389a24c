"""Patch InfoNCE: the public functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..operators import call
from .checks import check_labels, check_options, check_tokens, dense_mask
from .inputs import Options
from .layout import Layout, dense_layout, dense_order, ragged_layout
from .registration import forward_rows

__all__ = ["patch_info_nce", "patch_info_nce_ragged"]


def patch_info_nce(
    tokens: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    valid: Tensor | None = None,
    exclude: str = "tile",
    normalize: bool = True,
    reduction: str = "mean",
    group: Any = None,
    return_accuracy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Contrastive loss between the patches of several modalities (OmniSat, arXiv 2404.08351, Eq. 3).

    Token (m, b, p) is the anchor of one row of the similarity matrix. Its positives are the tokens of the same
    tile and patch in the other modalities; its denominator is every token outside its excluded set, positives
    included. Row loss = logsumexp(denominator) - logsumexp(positives), similarities divided by ``temperature``.
    (The paper's Eq. 3 lacks the minus sign that its code has; this is the quantity to minimise.)

    Memory beyond inputs and gradients is O(N) for N = M B P tokens: the N x N matrix is never formed. (``"place"``
    puts the tokens in the order of their tiles, a copy of them.)

    Tokens that are not finite make the loss NaN, and are no hit; so does a temperature that is NaN. Differentiable
    once, in reverse mode.

    Args:
        tokens: (M, B, P, D) float: M modalities, B tiles, P patches a tile. Under autocast they are cast.
            float16 and bfloat16 tokens are multiplied in their dtype and summed in float32.
        temperature: positive number, or a tensor with one element, which receives a gradient.
        valid: (M, B, P) or (M, B) bool. A token that was not observed is neither anchor, positive nor negative;
            its gradient is zero. An anchor without a positive is left out of the mean.
        exclude: what is left out of an anchor's denominator: ``"tile"`` its modality within its tile (Eq. 3),
            ``"self"`` the anchor alone (with M=2, P=1: NT-Xent), ``"modality"`` all of its modality (with
            M=2, P=1: CLIP's symmetric loss), ``"place"`` its tile in every modality but for its positives:
            negatives come from other tiles alone, and the loss of one tile is 0. (``MILNCE_easy`` of OmniSat's
            code leaves the positives out too: where one of its row losses is x, this one is log(1 + e^x).)
        normalize: cosine similarities (a token shorter than 1e-8 has cosine 0 with everything and no
            gradient); otherwise plain dot products.
        reduction: ``"mean"`` over the anchors that have a positive (0 where there is none), ``"sum"``, or
            ``"none"``, which gives (M, B, P) with 0 where an anchor is left out.
        group: a ``torch.distributed`` group (``torch.distributed.group.WORLD`` for all processes) whose ranks
            share negatives; B may differ between ranks. Mean and sum are those of the joined batch, equal on
            every rank; gradients are those of the single-process loss with respect to the rank's own tokens,
            and for the temperature the rank's share, so that gradients *summed* over ranks are the
            single-process ones (DistributedDataParallel averages: multiply the loss by the number of ranks).
            M, P, D and dtype are the same on all ranks. Joined tokens of up to 256 MiB are gathered on every rank; of
            more, ranks pass theirs on to each other, and memory beyond inputs and gradients stays O(B M P D) of one
            rank; tokens then travel again for the backward pass.
        return_accuracy: also return the retrieval accuracy: the share of anchors (that have a positive) whose
            most similar token in the denominator is a positive. A tie with a negative, to within a relative
            1e-5, is a miss, so that collapsed tokens score 0. NaN where there is no anchor. No gradient.
            With ``group`` the share is that of the joined batch.

    Returns:
        The loss, float32 (float64 for float64 tokens), or (loss, accuracy).

    Raises:
        ValueError: wrong shapes, an unknown option, a temperature that is not positive.
        TypeError: tokens that are not floating point, a mask that is not bool.
    """
    check_tokens("patch_info_nce", tokens)
    if tokens.ndim != 4:
        raise ValueError(
            f"patch_info_nce: tokens must be (M, B, P, D) = (modalities, tiles, patches, features), got "
            f"{tuple(tokens.shape)}; for another mix of tokens use patch_info_nce_ragged"
        )
    learned, value = check_options("patch_info_nce", temperature, exclude, reduction)
    modalities, tiles, patches, _ = tokens.shape
    shape = modalities, tiles, patches
    if valid is not None:
        valid = dense_mask(valid, tokens)
    if group is not None:
        from .distributed import joined_tiles

        options = Options(value, exclude, normalize, return_accuracy)
        loss, anchors, hits = joined_tiles(tokens, valid, learned, options, group)
    else:
        if valid is not None and exclude == "place":
            valid = dense_order(valid.reshape(shape), exclude)
        layout = dense_layout(shape, exclude, valid, tokens.device)
        rows = dense_order(tokens, exclude)
        loss, anchors, hits = _rows(rows, layout, learned, value, normalize, return_accuracy, exclude)
        if exclude == "place":
            loss = loss.reshape(tiles, modalities, patches).transpose(0, 1).contiguous()
    return _reduce(loss, anchors, hits, shape, reduction, group, return_accuracy)


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
    group: Any = None,
    return_accuracy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`patch_info_nce` for any mix of tokens, each with its own labels.

    Args:
        tokens: (N, D) float.
        modality, tile, patch: (N,) integers; any values. Positives share tile and patch and differ in modality.
        group: as in :func:`patch_info_nce`; labels are global: the same tile number on two ranks is one tile. Tokens
            of all ranks are gathered, however many they are.
        temperature, valid (N,), exclude, normalize, reduction, return_accuracy: as in :func:`patch_info_nce`;
            ``reduction="none"`` gives (N,).

    Raises:
        ValueError, TypeError: as :func:`patch_info_nce`.
    """
    check_tokens("patch_info_nce_ragged", tokens)
    if tokens.ndim != 2:
        raise ValueError(f"patch_info_nce_ragged: tokens must be (N, D), got {tuple(tokens.shape)}")
    learned, value = check_options("patch_info_nce_ragged", temperature, exclude, reduction)
    check_labels("patch_info_nce_ragged", tokens, modality=modality, tile=tile, patch=patch, valid=valid)
    if group is not None:
        from .distributed import joined_rows

        options = Options(value, exclude, normalize, return_accuracy)
        loss, anchors, hits = joined_rows(tokens, modality, tile, patch, valid, learned, options, group)
    else:
        order, layout = ragged_layout(modality, tile, patch, exclude, valid)
        results = _rows(tokens[order], layout, learned, value, normalize, return_accuracy, exclude)
        place = order.argsort()
        loss, anchors, hits = (x[place] if len(x) else x for x in results)
    return _reduce(loss, anchors, hits, tokens.shape[:1], reduction, group, return_accuracy)


def _rows(
    tokens: Tensor,
    layout: Layout,
    temperature: Tensor | None,
    value: float,
    normalize: bool,
    accuracy: bool,
    exclude: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Row losses (N,), which rows count (N,) and which found their positive (N,) or (0,)."""
    loss, log_z, _, _, hits = call(
        *(forward_rows, tokens.contiguous(), *layout, None, temperature, value, normalize, accuracy),
        exclude == "place",
    )
    return loss, log_z != torch.inf, hits


def _reduce(
    loss: Tensor,
    anchors: Tensor,
    hits: Tensor,
    shape: tuple[int, ...],
    reduction: str,
    group: Any,
    return_accuracy: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    count = anchors.sum()
    total, found = loss.sum(), hits.sum() if return_accuracy else count
    if group is not None:
        from .distributed import joined_sum

        total, count, found = (joined_sum(x, group) for x in (total, count, found))
    if reduction == "none":
        result = loss.reshape(shape)
    else:
        result = total / count.clamp(min=1) if reduction == "mean" else total
    return (result, found.to(loss.dtype) / count) if return_accuracy else result
