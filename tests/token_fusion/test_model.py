"""What must not change what the model says, and what must."""

import pytest
import torch

from fusion.data import TileBatch
from fusion.evaluation import extract
from fusion.token_fusion import TokenFusion, TokenFusionConfig
from fusion.token_fusion.embedding import relation_buckets
from fusion.training import load_model, save_model


def padded(batch: TileBatch, more: int = 4) -> TileBatch:
    values, days, valid = batch.values["weather"], batch.days["weather"], batch.valid["weather"]
    count = len(batch)
    return TileBatch(
        batch.values | {"weather": torch.cat([values, torch.full((count, more, *values.shape[2:]), 9.0)], 1)},
        {"weather": torch.cat([days, torch.zeros(count, more, dtype=days.dtype)], 1)},
        batch.valid | {"weather": torch.cat([valid, torch.zeros(count, more, dtype=torch.bool)], 1)},
        names=batch.names,
    )


def single(batch: TileBatch, i: int) -> TileBatch:
    def pick(tensors):
        return {name: tensor[i : i + 1] for name, tensor in tensors.items()}

    return TileBatch(pick(batch.values), pick(batch.days), pick(batch.valid), names=batch.names[i : i + 1])


def same(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_order_of_modalities_and_padding_do_not_matter(fitted, batch):
    wanted = fitted(batch())
    assert wanted.summary.shape == (4, 16)
    assert wanted.patches.shape == (4, 4, 16)
    same(fitted(batch(4, ["weather", "height", "photo"])), wanted)
    same(fitted(padded(batch())), wanted)


@torch.no_grad()
def test_a_tile_does_not_depend_on_its_neighbours(fitted, batch):
    some = batch(4)
    some.valid["photo"][1] = False
    some.valid["weather"][2] = False
    together = fitted(some)
    for i in range(4):
        same(fitted(single(some, i)), [part[i : i + 1] for part in together])


@torch.no_grad()
def test_a_missing_modality_is_as_if_the_model_was_not_given_it(fitted, batch):
    some = batch(2)
    some.valid["photo"][:] = False
    some.values["photo"].fill_(float("nan"))
    same(fitted(some), fitted(batch(2, ["height", "weather"])))
    assert (fitted(batch(2)).summary - fitted(some).summary).abs().max() > 1e-3


@torch.no_grad()
def test_a_tile_of_which_nothing_was_observed_has_finite_vectors(fitted, batch):
    some = batch(2)
    for name in some.valid:
        some.valid[name][0] = False
    for part in fitted(some):
        assert part.isfinite().all()
        assert not part[0].any()
    tokens = fitted.tokenize(some)
    nothing = torch.zeros_like(tokens.observed)
    assert fitted.predict(tokens, nothing, "weather").isfinite().all()


@torch.no_grad()
def test_hidden_slots_influence_nothing(fitted, batch):
    tokens = fitted.tokenize(batch())
    visible = torch.zeros_like(tokens.observed)
    visible[:, [0, 3, 5, 9]] = True
    full = fitted.hidden(tokens, visible)
    other = tokens.with_codes("weather", torch.where(visible[:, 8:], tokens.of("weather"), 0))
    same([fitted.hidden(other, visible)], [full])  # codes that are hidden
    slots = torch.tensor([0, 3, 5, 7, 9, 12])
    same([fitted.hidden(tokens, visible, slots)], [full[:, slots]])  # slots that are left out
    changed = tokens.with_codes("height", (tokens.of("height") + 5) % 32)
    assert (fitted.hidden(changed, visible)[:, 12] - full[:, 12]).abs().max() > 1e-3  # and what is visible does


@torch.no_grad()
def test_predict_is_hidden_and_logits(fitted, batch):
    tokens = fitted.tokenize(batch())
    visible = tokens.select(["height"]).observed
    scores = fitted.predict(tokens, visible, "weather")
    assert scores.shape == (4, 12, 32)
    hidden = fitted.hidden(tokens, visible)[:, tokens.layout.slices["weather"]]
    same([fitted.logits(hidden, "weather")], [scores])
    table = fitted.codes["weather"]
    by_hand = torch.einsum("bnd,nkd->bnk", hidden, table[tokens.layout.channel[8:]]) * 3 / 16**0.5
    same([by_hand], [scores])


@torch.no_grad()
def test_codes_that_a_channel_does_not_have_are_never_predicted(places, config):
    tokenizers = config.tokenizers | {"weather": {"kind": "sax", "step": 10, "length": 18, "alphabet": 8}}
    model = TokenFusion(TokenFusionConfig.from_dict(config.to_dict() | {"tokenizers": tokenizers}))
    model.tokenizer.fit(places)
    tokens = model.tokenize(single_batch(places))
    scores = model.predict(tokens, tokens.observed, "weather")
    channel = tokens.layout.channel[tokens.layout.slices["weather"]]
    assert tokens.layout.vocabulary["weather"] == 256
    assert (scores[:, channel < 2, 8:] == -torch.inf).all()
    assert scores[:, channel < 2, :8].isfinite().all()
    assert scores[:, channel >= 2].isfinite().all()
    probabilities = scores.softmax(-1)
    assert model.tokenizer.expected("weather", probabilities).isfinite().all()


def single_batch(places):
    from fusion.data import collate

    return collate([places[0]], [m.name for m in places.modalities])


def test_only_observed_tokens_can_be_visible(fitted, batch):
    tokens = fitted.tokenize(batch(2, ["height"]))
    with pytest.raises(ValueError, match="visible tokens must be observed ones"):
        fitted.embed(tokens, torch.ones_like(tokens.observed))


def test_gradients_reach_the_embeddings_of_what_is_visible(fitted, batch):
    tokens = fitted.tokenize(batch(2))
    visible = tokens.select(["height", "photo"]).observed
    embedded = fitted.embed(tokens, visible).detach().requires_grad_()
    fitted.run(embedded, visible)[:, 8:].square().sum().backward()
    seen = embedded.grad.abs().amax(-1) > 0
    assert seen[:, :8].all()
    assert fitted.tokenizer.parts["photo"].tokenizer.encoder[0].weight.grad is None
    fitted.zero_grad()


def test_relations_of_tokens(fitted):
    layout = fitted.tokenizer.layout
    bucket, place = relation_buckets(layout)
    assert place.shape == (20,)
    assert int(bucket.max()) < 16
    assert torch.equal(bucket, bucket.T)
    relation = bucket[place[:, None], place]  # (N, N)
    assert torch.equal(relation[:4, :4], relation[:4, 4:8])  # one grid for both images
    assert relation[0, :4].tolist() == [0, 1, 1, 1]
    assert torch.equal(relation[8:14, 8:14], relation[8:14, 14:])  # one calendar for both variables
    assert relation[8, 8:14].tolist() == [4, 5, 6, 7, 7, 7]  # same day, then 1, 2, 3-5 steps
    assert (relation[:8, 8:] == bucket.max()).all()


@pytest.mark.parametrize("kind", ["bins", "quantile", "mu-law", "mean-scale", "sax", "patch-vq", "patch-fsq"])
def test_checkpoints_hold_the_fitted_tokenizer(kind, places, config, batch, tmp_path):
    settings = {"kind": kind, "start": 0, "step": 10, "length": 18}
    if kind.startswith("patch"):
        settings["steps"] = 5
    changed = config.to_dict() | {"tokenizers": config.tokenizers | {"weather": settings}}
    model = TokenFusion(TokenFusionConfig.from_dict(changed))
    model.tokenizer.fit(places)
    again = load_model(save_model(tmp_path / "model.safetensors", model), system="token-fusion")
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again.tokenize(batch()).codes, model.tokenize(batch()).codes)
        same(again(batch()), model.eval()(batch()))


def test_features_of_every_level_and_pool(fitted, places):
    for pool, width in (("mean", 16), ("summary", 16), ("both", 32), ("tokens", 48)):
        assert extract(fitted, places, pool=pool).x.shape == (24, width)
    assert extract(fitted, places, level="patch").x.shape == (96, 16)
    assert extract(fitted, places, ["weather"], pool="tokens").x.shape == (24, 16)


def test_wrong_sizes_are_named(config):
    with pytest.raises(ValueError, match="unknown preset 'huge'; one of tiny, small, base"):
        TokenFusionConfig.preset("huge", config.modalities, config.grid)
    with pytest.raises(ValueError, match="dim=18 must be a multiple of heads=2 and of 4"):
        TokenFusionConfig.preset("tiny", config.modalities, config.grid, dim=18, heads=2)
    with pytest.raises(ValueError, match="no modality given"):
        TokenFusionConfig((), (1, 1))
    assert TokenFusionConfig.from_dict(config.to_dict()) == config


def test_tables_of_bins_are_smooth_and_others_are_free(fitted):
    def alike(table, apart):
        return torch.nn.functional.cosine_similarity(table[:, :-apart], table[:, apart:], dim=-1).mean().item()

    heights, photos = fitted.codes["height"], fitted.codes["photo"]
    assert heights.shape == (1, 32, 16)
    assert alike(heights, 1) > 0.9 > alike(heights, 12)
    assert abs(alike(photos, 1)) < 0.3
