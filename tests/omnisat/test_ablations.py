"""Every ablation changes what it says, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fusion.kernels import patch_info_nce
from fusion.omnisat import OmniSat, PretrainingObjective
from fusion.omnisat.masking import draw_masked
from fusion.omnisat.objectives import Losses


def losses_of(config, data, seed=0, **settings) -> tuple[Losses, PretrainingObjective, OmniSat]:
    """One step of a model and an objective whose weights are the same whatever the settings."""
    torch.manual_seed(3)
    model = OmniSat(config).eval()
    objective = PretrainingObjective(config, **settings).eval()
    return objective(model, data, torch.Generator().manual_seed(seed)), objective, model


@pytest.mark.parametrize("weight", ["contrastive_weight", "reconstruction_weight"])
def test_a_term_of_weight_0_is_not_computed_and_the_other_stays(config, batch, weight):
    data = batch(3)
    whole, _, _ = losses_of(config, data)
    part, objective, model = losses_of(config, data, **{weight: 0.0})
    kept = "reconstruction" if weight == "contrastive_weight" else "contrastive"
    torch.testing.assert_close(getattr(part, kept), getattr(whole, kept), rtol=0, atol=0)
    torch.testing.assert_close(part.total, getattr(whole, kept), rtol=0, atol=0)
    part.total.backward()
    decoded = [p.grad is not None for p in objective.decoders.parameters()]
    assert all(decoded) if kept == "reconstruction" else not any(decoded)
    assert (model.combiner.query.grad is None) == (kept == "contrastive")


@pytest.mark.parametrize("exclude", ["tile", "self", "modality", "place"])
@torch.no_grad()
def test_exclude_is_what_the_contrastive_loss_leaves_out(config, batch, exclude):
    data = batch(3)
    whole, _, _ = losses_of(config, data)
    other, _, model = losses_of(config, data, exclude=exclude)
    seen = model.encode(data)
    expected = patch_info_nce(seen.tokens, temperature=0.1, valid=seen.valid, exclude=exclude)
    torch.testing.assert_close(other.contrastive, expected)
    assert torch.equal(other.contrastive, whole.contrastive) == (exclude == "tile")
    assert torch.equal(other.reconstruction, whole.reconstruction)


@torch.no_grad()
def test_without_date_filtering_every_valid_date_is_reconstructed(config, batch):
    data = batch(2, 6)
    data.valid["s2"][1, 4:] = False
    whole, _, _ = losses_of(config, data)
    every, objective, model = losses_of(config, data, date_share=1.0)
    assert torch.equal(every.contrastive, whole.contrastive)
    assert torch.equal(every.by_modality["aerial"], whole.by_modality["aerial"])
    seen = model.encode(data)
    masked = draw_masked(2, 3, 6, 0.75, torch.Generator().manual_seed(0))
    tokens = torch.where(masked[..., None], objective.mask_token, seen.tokens)
    encodings = model.combine(tokens, seen.valid).patches
    errors = []
    for b, p in masked[1].nonzero().tolist():
        dates = data.valid["s2"][b].nonzero()[:, 0]
        predicted = objective.decoders["s2"](encodings[b, p][None], data.days["s2"][b, dates][None], torch.tensor([0]))
        errors.append((predicted[0] - seen.patches["s2"][b, p, dates]).square().mean())
    torch.testing.assert_close(every.by_modality["s2"], torch.stack(errors).mean())


@torch.no_grad()
def test_without_index_bypass_pooling_positions_do_not_reach_the_decoder(config, batch):
    data = batch(2)
    whole, _, _ = losses_of(config, data)
    without, objective, model = losses_of(config, data, index_bypass=False)
    assert torch.equal(without.contrastive, whole.contrastive)
    assert not torch.equal(without.by_modality["aerial"], whole.by_modality["aerial"])
    seen, token = model.encode(data), torch.randn(12, 16)
    decoder = objective.decoders["aerial"]
    moved = [index.flip(0) for index in seen.indices["aerial"]]
    assert torch.equal(decoder(token, seen.indices["aerial"]), decoder(token, moved))
    assert decoder(token, seen.indices["aerial"]).shape == (12, 3, 10, 10)


@pytest.mark.parametrize("patch_size", [1, 2, 3, 5, 10, 16, 40, 50])
def test_decoders_without_bypass_reach_every_patch_size(config, patch_size):
    image = dataclasses.replace(config.modalities[0], patch_size=patch_size, resolution=20 / patch_size)
    small = dataclasses.replace(config, modalities=(image,))
    objective = PretrainingObjective(small, index_bypass=False)
    size = (3, 2 * patch_size, 3 * patch_size)
    seen = OmniSat(small).encoders["aerial"](torch.randn(2, 3, patch_size, patch_size))
    assert objective.decoders["aerial"](*seen).shape == (2, 3, patch_size, patch_size), size


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
@torch.no_grad()
def test_the_mask_ratio_is_the_share_of_masked_tokens(config, batch, ratio):
    masked = draw_masked(50, 3, 6, ratio, torch.Generator().manual_seed(0))
    assert (masked.sum((0, 2)) == 18 - max(1, int((1 - ratio) * 18))).all()
    whole, _, _ = losses_of(config, batch(2))
    other, _, _ = losses_of(config, batch(2), mask_ratio=ratio)
    assert torch.equal(other.contrastive, whole.contrastive)
    assert not torch.equal(other.reconstruction, whole.reconstruction)


def test_modality_masking_masks_whole_valid_modalities_and_keeps_one():
    valid = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)  # 3, 2, 1 and no modality
    seen = set()
    for seed in range(40):
        masked = draw_masked(4, 3, 6, 0.75, torch.Generator().manual_seed(seed), "modality", valid)
        assert torch.equal(masked.any(2), masked.all(2))
        whole = masked.all(2)
        assert not (whole & ~valid).any()
        assert whole.sum(0).tolist() == [2, 1, 0, 0]
        seen.add(tuple(whole[:, 0].tolist()))
    assert len(seen) == 3  # any two of three


@torch.no_grad()
def test_dropped_tokens_are_not_seen_at_all(config, batch):
    """What a masked token was, and the token that would replace it, changes no encoding; the kept ones do."""
    data = batch(2)
    _, objective, model = losses_of(config, data, masked_tokens="drop")
    seen = model.encode(data)
    masked = draw_masked(2, 3, 6, 0.75, torch.Generator().manual_seed(0))
    before = objective(model, data, torch.Generator().manual_seed(0)).reconstruction
    objective.mask_token.fill_(100.0)
    assert torch.equal(objective(model, data, torch.Generator().manual_seed(0)).reconstruction, before)
    valid = seen.valid[..., None] & ~masked
    out = model.combine(seen.tokens, valid).patches
    noise = torch.where(masked[..., None], torch.randn_like(seen.tokens) * 50, seen.tokens)
    torch.testing.assert_close(model.combine(noise, valid).patches, out)
    assert not torch.allclose(model.combine(seen.tokens + ~masked[..., None], valid).patches, out)


@torch.no_grad()
def test_absolute_positions_tell_patches_apart_and_distances_do_not_matter(config, batch):
    absolute = dataclasses.replace(config, positions="absolute")
    combiner = OmniSat(absolute).combiner.eval()
    tokens, valid = torch.randn(2, 3, 6, 16), torch.ones(2, 3, dtype=torch.bool)
    out = combiner(tokens, valid)
    order = torch.tensor([3, 1, 5, 0, 2, 4])  # no symmetry of the grid: every distance changes
    moved = OmniSat(absolute).combiner.eval()
    moved.load_state_dict(combiner.state_dict())
    moved.place[:, 1:] = combiner.place[:, 1:][:, order]
    moved.query_place[:, 1:] = combiner.query_place[:, 1:][:, order]
    torch.testing.assert_close(moved(tokens[:, :, order], valid)[:, 1:], out[:, 1:][:, order], atol=1e-5, rtol=1e-4)
    assert (combiner(tokens[:, :, order], valid)[:, 1:] - out[:, 1:][:, order]).abs().max() > 1e-4


@torch.no_grad()
def test_without_positions_the_self_attention_knows_no_place_and_queries_do(config):
    nowhere = OmniSat(dataclasses.replace(config, positions="none")).combiner.eval()
    tokens = torch.randn(2, 1 + 18, 16)
    order = torch.randperm(19)
    block, position = nowhere.blocks[0], nowhere.positions(3, 1, torch.device("cpu"))
    straight = block(tokens, key_position=position, valid=None)
    turned = block(tokens[:, order], key_position=position, valid=None)
    torch.testing.assert_close(turned, straight[:, order], atol=1e-5, rtol=1e-4)
    out = nowhere(torch.randn(2, 3, 6, 16), torch.ones(2, 3, dtype=torch.bool))
    assert (out[:, 1] - out[:, 2]).abs().max() > 1e-4


@pytest.mark.parametrize("positions", ["relative", "absolute", "none"])
def test_what_is_trained_gets_a_gradient(config, batch, positions):
    changed = dataclasses.replace(config, positions=positions)
    torch.manual_seed(0)
    model, objective = OmniSat(changed), PretrainingObjective(changed)
    objective(model, batch(3)).total.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert all(name.endswith("table") for name in frozen)
    assert bool(frozen) == (positions != "relative")


def test_a_configuration_from_before_has_relative_positions(config):
    saved = config.to_dict()
    del saved["positions"]
    assert type(config).from_dict(saved) == config
    with pytest.raises(ValueError, match="positions is one of relative, absolute, none, not 'learned'"):
        dataclasses.replace(config, positions="learned")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masking": "all"}, "masking is 'token' or 'modality', not 'all'"),
        ({"masked_tokens": "zero"}, "masked_tokens is 'replace' or 'drop', not 'zero'"),
        ({"exclude": "none"}, "exclude is 'tile' or 'self' or 'modality' or 'place', not 'none'"),
        ({"date_share": 0}, r"date_share must lie in \(0, 1\], not 0"),
        ({"contrastive_weight": 0, "reconstruction_weight": 0}, "must be positive"),
        ({"patch_scales": ()}, "patch_scales is empty"),
        ({"patch_scales": (2,)}, "patch_scale 2 does not divide a tile of 2 x 3 patches; 1 do"),
    ],
)
def test_settings_that_mean_nothing_are_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        PretrainingObjective(config, **settings)


def test_modality_masking_of_one_modality_is_refused(config):
    alone = dataclasses.replace(config, modalities=config.modalities[:1])
    with pytest.raises(ValueError, match="needs two modalities at least, the model has one"):
        PretrainingObjective(alone, masking="modality")
