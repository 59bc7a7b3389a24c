"""One model on patches of several sizes: tokens merged before they are combined."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fusion.omnisat import OmniSat, PretrainingObjective
from fusion.omnisat.combiner import merged


@pytest.fixture
def large(config):
    """A grid of 4 x 6 patches."""
    return dataclasses.replace(config, grid=(4, 6))


@pytest.fixture
def wide(batch):
    """A batch of the large grid: four small tiles, two by two."""

    def make(tiles=2, seed=0):
        parts = [batch(tiles, seed=seed + k) for k in range(4)]
        whole = parts[0]
        for name in whole.values:
            a, b, c, d = (part.values[name] for part in parts)
            whole.values[name] = torch.cat((torch.cat((a, b), -1), torch.cat((c, d), -1)), -2)
        return whole

    return make


def test_tokens_of_neighbours_are_averaged_in_place():
    tokens = torch.arange(24.0)[:, None].expand(-1, 2)  # raster order of 4 x 6
    out = merged(tokens, (4, 6), 2)[:, 0].view(2, 3)
    assert out.tolist() == [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]  # e.g. (0 + 1 + 6 + 7) / 4
    assert torch.equal(merged(tokens, (4, 6), 1), tokens)
    with pytest.raises(ValueError, match="patch_scale 3 does not divide a tile of 4 x 6 patches; 1, 2 do"):
        merged(tokens, (4, 6), 3)


@torch.no_grad()
def test_larger_patches_are_encoded_by_the_same_weights(large, wide):
    model, data = OmniSat(large), wide()
    for module in model.modules():
        if hasattr(module, "table"):
            torch.nn.init.normal_(module.table, std=3.0)
    model(data)
    model.eval()
    summary, patches = model(data, patch_scale=2)
    assert summary.shape == (2, 16)
    assert patches.shape == (2, 6, 16)
    # What a token stands for enters as the mean, wherever in the block it comes from; the place of the block counts.
    seen = model.encode(data)
    coarse = merged(seen.tokens, large.grid, 2)
    torch.testing.assert_close(model.combine(coarse, seen.valid, patch_scale=2).patches, patches)
    turned = model.combine(coarse.flip(2), seen.valid, patch_scale=2).patches
    torch.testing.assert_close(turned.flip(1), patches, atol=1e-5, rtol=1e-4)  # distances are those of the turned tile
    moved = model.combine(coarse[:, :, [1, 0, 2, 3, 4, 5]], seen.valid, patch_scale=2).patches
    assert (moved[:, [1, 0, 2, 3, 4, 5]] - patches).abs().max() > 1e-3


@torch.no_grad()
def test_distances_on_the_ground_stay_what_they_were(large):
    """Merged tokens stand at patches of the finer grid, so that their distance is told in its units."""
    position = OmniSat(large).combiner.positions(1, 2, torch.device("cpu"))
    assert position.tolist() == [0, 1, 3, 5, 13, 15, 17]


def test_training_on_several_scales_reconstructs_every_masked_patch(large, wide):
    model, data = OmniSat(large), wide()
    objective = PretrainingObjective(large, patch_scales=(2, 1))
    objective.eval()  # validation takes the first
    model.eval()
    with torch.no_grad():
        coarse = objective(model, data, torch.Generator().manual_seed(0))
        rows = objective.reconstruct(model, model.encode(data), data, torch.Generator().manual_seed(0))
        fine = PretrainingObjective(large).eval()
        fine.load_state_dict(objective.state_dict())
        own = fine(model, data, torch.Generator().manual_seed(0))
    count = sum(len(error) for error, _ in rows.values())
    assert count == 2 * 4 * (18 - int(0.25 * 18))  # tiles x patches of a token x masked of 3 x 6 tokens
    assert torch.equal(coarse.contrastive, own.contrastive)  # tokens are compared before they are merged
    assert not torch.equal(coarse.reconstruction, own.reconstruction)
    objective.train()
    scales = {objective._scale(torch.Generator().manual_seed(seed)) for seed in range(20)}
    assert scales == {1, 2}
    objective(model.train(), data).total.backward()


@pytest.mark.parametrize("positions", ["absolute", "none"])
def test_other_positions_can_be_merged_too(large, wide, positions):
    model = OmniSat(dataclasses.replace(large, positions=positions))
    assert model(wide(), patch_scale=2).patches.shape == (2, 6, 16)
