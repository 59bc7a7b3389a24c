"""What is true of every supervised baseline."""

from dataclasses import replace

import pytest
import torch

from fusion.training import SYSTEMS, Finetuning, load_finetuned, load_model, save_model
from fusion.training.systems import system_of

from .kinds import GRID, KINDS, batch, built, changed, configured, trained

EACH = pytest.mark.parametrize("kind", list(KINDS))
SERIES = pytest.mark.parametrize("kind", ["pse-ltae", "utae", "median", "mean"])


def same(a, b):
    return torch.equal(a.summary, b.summary) and torch.equal(a.patches, b.patches)


@EACH
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_a_tile_has_a_summary_and_a_vector_a_patch(kind, size):
    system, modalities, fields = KINDS[kind]
    config = SYSTEMS[system].load("config").preset(size, modalities, GRID, **fields)
    model = SYSTEMS[system].load("model")(config)
    found = model(batch(kind, tiles=2))
    assert found.summary.shape == (2, config.dim)
    assert found.patches.shape == (2, 6, config.dim)
    assert system_of(model) == system


@EACH
def test_what_a_missing_modality_holds_does_not_matter(kind):
    model, tiles = trained(kind), batch(kind)
    other = KINDS[kind][1][1].name
    tiles.valid[other][1] = False
    garbage = replace(tiles, values=dict(tiles.values))
    garbage.values[other] = tiles.values[other].clone()
    garbage.values[other][1] = torch.nan
    expected = model(tiles)
    assert torch.isfinite(expected.summary).all()
    assert same(model(garbage), expected)
    everything = model(batch(kind))
    torch.testing.assert_close(everything.summary[0], expected.summary[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(everything.summary[1], expected.summary[1])


@EACH
def test_a_modality_that_no_tile_has_is_as_if_it_were_not_in_the_batch(kind):
    model, tiles = trained(kind), batch(kind)
    first, other = (m.name for m in KINDS[kind][1])
    tiles.valid[other][:] = False
    assert same(model(tiles), model(tiles.select([first])))


@EACH
def test_missing_tiles_move_no_statistic_of_training(kind):
    """Weights and running statistics after a step are those of the tiles that have the modality."""
    outcomes = []
    for garbage in (0.0, 1e6):
        model, tiles = built(kind), batch(kind, tiles=4)
        for m in KINDS[kind][1]:
            tiles.valid[m.name][0] = False
            tiles.values[m.name][0] = garbage
        torch.manual_seed(1)
        model(tiles).summary[1:].square().sum().backward()
        outcomes.append([p.grad for p in model.parameters()] + list(model.buffers()))
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


@SERIES
def test_padding_does_not_matter(kind):
    model, tiles = trained(kind), batch(kind)
    padded = replace(tiles, values=dict(tiles.values), days=dict(tiles.days), valid=dict(tiles.valid))
    for name, days in tiles.days.items():
        shape = tiles.values[name].shape
        padded.values[name] = torch.cat([tiles.values[name], torch.full((3, 2, *shape[2:]), torch.inf)], 1)
        padded.days[name] = torch.cat([days, torch.full((3, 2), 999)], 1)
        padded.valid[name] = torch.cat([tiles.valid[name], torch.zeros(3, 2, dtype=torch.bool)], 1)
    assert same(model(padded), model(tiles))


@SERIES
def test_a_date_that_is_not_valid_is_not_seen(kind):
    model, tiles = trained(kind), batch(kind)
    tiles.valid["s2"][0, 2] = False
    expected = model(tiles)
    tiles.values["s2"][0, 2] = torch.nan
    tiles.days["s2"][0, 2] = 7
    assert same(model(tiles), expected)
    tiles.values["s2"][0, 1] += 1
    assert not torch.equal(model(tiles).summary[0], expected.summary[0])


@SERIES
def test_a_pixel_that_was_not_observed_is_not_seen(kind):
    model, tiles = trained(kind), batch(kind)
    tiles.observed["s2"] = torch.ones_like(tiles.values["s2"], dtype=torch.bool)
    tiles.observed["s2"][0, :, :, :5, :5] = False  # one whole patch, always
    tiles.observed["s2"][1, 2, :, 3, 4] = False
    expected = model(tiles)
    tiles.values["s2"][~tiles.observed["s2"]] = torch.nan
    assert same(model(tiles), expected)
    assert torch.isfinite(expected.patches).all()


@EACH
def test_a_tile_is_encoded_alike_in_any_batch(kind):
    model, tiles = trained(kind), batch(kind)
    for name in tiles.days:
        tiles.valid[name][0, 3:] = False
    alone = model(changed(tiles, lambda tensor: tensor[:1]))
    together = model(tiles)
    torch.testing.assert_close(alone.summary, together.summary[:1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone.patches, together.patches[:1], rtol=1e-5, atol=1e-5)


@EACH
@pytest.mark.parametrize("part", ["summary", "patches"])
def test_gradients_reach_every_parameter(kind, part):
    model = built(kind).double()
    tiles = batch(kind, tiles=4)
    tiles.values |= {name: values.double() for name, values in tiles.values.items()}
    out = getattr(model(tiles), part)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@EACH
def test_a_saved_model_says_the_same(kind, tmp_path):
    model = trained(kind)
    loaded = load_model(save_model(tmp_path / "model.safetensors", model), system=KINDS[kind][0], config=model.config)
    assert loaded.config == configured(kind)
    assert same(loaded(batch(kind)), model(batch(kind)))


@EACH
def test_a_fine_tuned_model_says_the_same(kind, tmp_path):
    module = Finetuning(trained(kind), "multiclass", ["meadow", "forest"]).eval()
    saved = save_model(tmp_path / "model.safetensors", module.model, finetuned=module)
    assert torch.equal(load_finetuned(saved)(batch(kind)), module(batch(kind)))


@EACH
def test_batches_that_do_not_fit_are_refused(kind):
    model, tiles = built(kind), batch(kind)
    first = KINDS[kind][1][0].name
    with pytest.raises(ValueError, match="unknown modality 'radar'; the model has"):
        model(replace(tiles, values=tiles.values | {"radar": tiles.values[first]}))
    with pytest.raises(ValueError, match=f"{first} must be"):
        model(replace(tiles, values=tiles.values | {first: tiles.values[first][..., :-1]}))
    with pytest.raises(ValueError, match="the batch has no modality"):
        model(replace(tiles, values={}))
