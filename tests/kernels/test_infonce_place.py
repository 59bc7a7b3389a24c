"""Patch InfoNCE with whole tiles excluded (``exclude="place"``): negatives come from other tiles alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fusion.kernels import PatchInfoNCE, patch_info_nce, patch_info_nce_ragged
from fusion.kernels.infonce import reference


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_negatives_come_from_other_tiles_alone_where_tile_also_takes_its_own_from_other_modalities(
    backend: str,
) -> None:
    """Two modalities that agree about 2 tiles of 3 patches, all orthogonal: cosine 1 with the positive, 0 else."""
    tokens = torch.eye(6, dtype=torch.float64).reshape(2, 3, 6).expand(2, -1, -1, -1)
    place, tile = (patch_info_nce(tokens, temperature=1.0, exclude=exclude).item() for exclude in ("place", "tile"))
    others = 2 * 3  # tokens of the other tile
    assert place == pytest.approx(math.log((math.e + others) / math.e), rel=1e-12)
    # Its own tile's other patches, seen by the other modality, are negatives too.
    assert tile == pytest.approx(math.log((math.e + others + 2) / math.e), rel=1e-12)


@pytest.mark.parametrize("modalities", [2, 3])
def test_one_tile_has_loss_and_gradient_zero(backend: str, modalities: int) -> None:
    tokens = _random(modalities, 1, 7, 5).requires_grad_()
    temperature = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    rows, accuracy = patch_info_nce(
        tokens, temperature=temperature, exclude="place", reduction="none", return_accuracy=True
    )
    rows.sum().backward()
    assert (rows == 0).all()
    assert accuracy == 1  # nothing else is in the denominator
    assert (tokens.grad == 0).all()
    assert temperature.grad == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_follow_from_those_of_the_original_which_leaves_positives_out_of_the_denominator(
    backend: str, dtype: torch.dtype
) -> None:
    """log(1 + e^x) of x = logsumexp over other tiles - logsumexp over positives, OmniSat's ``MILNCE_easy``."""
    m, b, p = 3, 4, 5
    tokens = _random(m, b, p, 8)
    directions = torch.nn.functional.normalize(tokens, dim=-1)
    logits = torch.einsum("mbpd,ncqd->mbpncq", directions, directions) / 0.2
    for tile in range(b):
        for patch in range(p):
            for modality in range(m):
                of_anchor = logits[modality, tile, patch]  # (M, B, P)
                others = of_anchor[:, [c for c in range(b) if c != tile]]
                positives = of_anchor[[n for n in range(m) if n != modality], tile, patch]
                original = others.flatten().logsumexp(0) - positives.logsumexp(0)
                logits[modality, tile, patch, 0, 0, 0] = torch.nn.functional.softplus(original)
    want = logits[..., 0, 0, 0]
    rows = patch_info_nce(tokens.to(dtype), temperature=0.2, exclude="place", reduction="none")
    torch.testing.assert_close(rows.double(), want, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=1e-6)


def test_a_token_of_the_same_tile_moves_only_the_rows_of_its_positives(backend: str) -> None:
    tokens = _random(2, 3, 4, 6)
    changed = tokens.clone()
    changed[1, 0, 2] = _random(6)
    first, second = (patch_info_nce(x, exclude="place", reduction="none") for x in (tokens, changed))
    moved = first != second
    assert moved[:, 0].sum() == 2  # the anchor itself and its positive
    assert moved[:, 0, 2].all()
    assert moved[:, 1:].all()  # a negative of every other tile


def test_a_patch_seen_twice_by_one_modality_is_no_negative_of_itself(backend: str) -> None:
    """As where a modality of a tile is excluded: neither positive nor in the denominator."""
    tokens = _random(5, 4)
    modality, tile, patch = torch.tensor([[0, 0, 1, 0, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]])
    rows = patch_info_nce_ragged(tokens, modality, tile, patch, exclude="place", reduction="none")
    once = [0, 2, 3, 4]
    without = patch_info_nce_ragged(
        tokens[once], modality[once], tile[once], patch[once], exclude="place", reduction="none"
    )
    torch.testing.assert_close(rows[0], without[0])
    want = reference.patch_info_nce_ragged(tokens, modality, tile, patch, exclude="place", reduction="none")
    torch.testing.assert_close(rows, want)


def test_dense_tokens_are_ragged_ones_with_their_labels(backend: str) -> None:
    """Modalities in any order of numbers, and the module."""
    shape = 3, 4, 5
    tokens, valid = _random(*shape, 6), torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.3
    modality, tile, patch = torch.meshgrid(torch.tensor([9, -2, 4]), torch.arange(4), torch.arange(5), indexing="ij")
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    labels = (label.flatten()[shuffled] for label in (modality, tile, patch))
    options = {"valid": valid.flatten()[shuffled], "exclude": "place", "reduction": "none"}
    ragged = patch_info_nce_ragged(tokens.flatten(0, 2)[shuffled], *labels, **options)
    dense = PatchInfoNCE(exclude="place", reduction="none")(tokens, valid=valid)
    assert dense.shape == shape
    assert dense.is_contiguous()
    torch.testing.assert_close(dense.flatten()[shuffled], ragged)
