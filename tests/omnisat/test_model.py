"""Encodings depend on the tile alone, on whatever modalities it has."""

import dataclasses

import pytest
import torch

from fusion.data import Modality, TileBatch, collate
from fusion.data.tiles import Tile
from fusion.omnisat import OmniSat, OmniSatConfig


@pytest.fixture
def model(config, batch):
    """In evaluation, with statistics of some data and position tables that matter."""
    model = OmniSat(config)
    for module in model.modules():
        if isinstance(getattr(module, "table", None), torch.nn.Parameter):
            torch.nn.init.normal_(module.table, std=3.0)
    model(batch(4, seed=7))
    return model.eval()


def close(a, b):
    for ours, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def tile(batch, i, keep=None):
    """Tile i of a batch alone; ``keep`` dates of the series."""
    values = {n: v[i : i + 1] for n, v in batch.values.items()}
    days, valid = batch.days["s2"][i : i + 1], {n: v[i : i + 1] for n, v in batch.valid.items()}
    if keep is not None:
        values["s2"], days, valid["s2"] = values["s2"][:, keep], days[:, keep], valid["s2"][:, keep]
    return TileBatch(values, {"s2": days}, valid)


def test_shapes(model, batch):
    summary, patches = model(batch(3))
    assert summary.shape == (3, 16)
    assert patches.shape == (3, 6, 16)


@torch.no_grad()
def test_an_encoding_depends_on_its_tile_only(model, batch):
    together = batch(3)
    together.valid["s2"][1, 3:] = False
    together.valid["aerial"][2] = False
    together.values["aerial"][2] = 1e6  # what is not valid must not matter
    together.values["s2"][1, 3:] = torch.nan_to_num(torch.full_like(together.values["s2"][1, 3:], 1e6))
    out = model(together)
    close(model(tile(together, 0)), (out.summary[:1], out.patches[:1]))
    close(model(tile(together, 1, slice(0, 3))), (out.summary[1:2], out.patches[1:2]))
    close(model(tile(together, 2).select(["s2", "dem"])), (out.summary[2:], out.patches[2:]))


@torch.no_grad()
@pytest.mark.parametrize("names", [["aerial"], ["s2"], ["dem"], ["aerial", "s2"], ["dem", "aerial", "s2"]])
def test_any_subset_in_any_order(model, batch, names):
    whole = batch(2)
    out = model(whole.select(names))
    assert out.patches.isfinite().all()
    close(model(whole.select(sorted(names))), out)


@torch.no_grad()
def test_a_tile_without_anything_is_finite(model, batch):
    empty = batch(2)
    for valid in empty.valid.values():
        valid[1] = False
    out = model(empty)
    assert out.summary.isfinite().all()
    close(model(tile(empty, 0)), (out.summary[:1], out.patches[:1]))


@torch.no_grad()
def test_positions_are_relative_and_shared_by_modalities(config):
    """Turning the tile upside down turns the encodings, since distances stay the same."""
    model = OmniSat(config).combiner.eval()
    for module in model.modules():
        if hasattr(module, "table"):
            torch.nn.init.normal_(module.table, std=3.0)
    tokens, present = torch.randn(2, 3, 6, 16), torch.ones(2, 3, dtype=torch.bool)
    out, turned = model(tokens, present), model(tokens.flip(2), present)
    close(turned[:, 1:].flip(1), out[:, 1:])
    close(turned[:, :1], out[:, :1])
    swapped = model(tokens[:, [2, 0, 1]], present)  # no token knows its place in the sequence
    close(swapped, out)
    moved = tokens.clone()
    moved[:, 1] = moved[:, 1].roll(1, dims=1)  # but it does know its place on the ground
    assert (model(moved, present) - out).abs().max() > 1e-3


@torch.no_grad()
def test_queries_start_at_their_own_patch(config):
    """With nothing to choose between tokens, half of the attention is on the own patch, in every modality alike."""
    combiner = OmniSat(config).combiner.eval()
    attention = combiner.cross.attention
    attention.project_in.weight[:16] = 0  # keys say nothing
    attention.project_in.bias[:16] = 0
    attention.project_out.weight.copy_(torch.eye(16))
    attention.project_out.bias.zero_()
    position, seen = combiner.positions(2, 1, torch.device("cpu")), []
    for patch in range(1, 7):
        tokens = (position == patch).float()[None, :, None].expand(-1, -1, 16)  # (1, 13, 16): 1 where the patch is
        attention.project_in.weight[16:] = torch.eye(16)
        attention.project_in.bias[16:] = 0
        seen.append(attention(tokens, query=combiner.query.expand(1, 7, -1), key_position=position)[0, :, 0])
    share = torch.stack(seen, 1)  # (1+P, P): attention of each query to each patch
    torch.testing.assert_close(share[1:].diagonal(), torch.full((6,), 0.5), atol=0.05, rtol=0)
    torch.testing.assert_close(share[0], share[0].mean().expand(6))  # the tile's query favours none


def test_values_are_standardised_inside(model, batch, config):
    raw = batch(2)
    plain = [dataclasses.replace(m, mean=(), std=()) for m in config.modalities]
    other = OmniSat(dataclasses.replace(config, modalities=tuple(plain)))
    other.load_state_dict(model.state_dict())
    ready = batch(2)
    mean = torch.tensor(config.modalities[0].mean)[:, None, None]
    ready.values["aerial"] = (ready.values["aerial"] - mean) / 2
    close(other.eval()(ready), model(raw))


def test_every_parameter_learns(config, batch):
    model = OmniSat(config)
    out = model(batch(3))
    (out.summary.square().sum() + (out.patches * torch.randn_like(out.patches)).sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_training_goes_on_after_an_evaluation_in_inference_mode(config, batch):
    model = OmniSat(config)
    with torch.inference_mode():
        model.eval()(batch(2))
    model.train()(batch(2)).summary.sum().backward()


def test_training_after_inference(model, batch):
    with torch.inference_mode():
        model(batch(2))
    model(batch(2)).patches.sum().backward()


def test_recomputation_is_only_about_memory(config, batch):
    torch.manual_seed(1)
    one = OmniSat(config)
    other = OmniSat(dataclasses.replace(config, recompute=True))
    other.load_state_dict(one.state_dict())
    gradients = []
    for model in (one, other):
        model(batch(2)).patches.square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_collated_tiles(model, batch):
    """A tile without a modality, and series of different lengths, straight from the reader's form."""
    whole = batch(2)
    tiles = [
        Tile("a", {n: v[0] for n, v in whole.values.items()}, {"s2": whole.days["s2"][0]}),
        Tile("b", {"s2": whole.values["s2"][1, :2]}, {"s2": whole.days["s2"][1, :2]}),
    ]
    out = model(collate(tiles, ["aerial", "s2", "dem"]))
    close(model(tile(whole, 1, slice(0, 2)).select(["s2"])), (out.summary[1:], out.patches[1:]))


def test_what_does_not_fit_is_refused(model, batch):
    wrong = batch(2)
    wrong.values["aerial"] = wrong.values["aerial"][:, :2]
    with pytest.raises(ValueError, match=r"aerial must be \(B, C, H, W\) with \(C, H, W\) = \(3, 20, 30\) \(R, G, B"):
        model(wrong)
    wrong = batch(2)
    wrong.days = {}
    with pytest.raises(ValueError, match="s2 is a series, but the batch has no days"):
        model(wrong)
    wrong = batch(2)
    wrong.values["s9"], wrong.valid["s9"] = wrong.values["s2"], wrong.valid["s2"]
    with pytest.raises(ValueError, match="unknown modality 's9'; the model has aerial, s2, dem"):
        model(wrong)


def test_config_is_plain_and_checked(config):
    import json

    assert OmniSatConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="unknown field wings"):
        OmniSatConfig.from_dict({**config.to_dict(), "wings": 2})
    with pytest.raises(ValueError, match="unknown preset 'huge'; one of tiny, small, paper"):
        OmniSatConfig.preset("huge", config.modalities, (2, 3))
    with pytest.raises(ValueError, match="same ground in every modality: aerial 10 x 2 m, s1 4 x 10 m"):
        OmniSatConfig((config.modalities[0], Modality("s1", "series", ("VV",), 10.0, 4)), (2, 3))
    with pytest.raises(ValueError, match="dim=20 is not a multiple of 2"):
        dataclasses.replace(config, dim=20, heads=4)
