"""Hidden dates, a decoder in which patches differ in their course, and an objective that always has work."""

import pytest
import torch
import torch.nn.functional as F

from fusion.data import Modality, TileBatch
from fusion.kernels import patch_info_nce
from fusion.layers import draw_hidden_dates, encode_days
from fusion.omnisat import MaskedDatesObjective, OmniSat, OmniSatConfig, OmniSatPretraining, PretrainingObjective
from fusion.omnisat.masking import drop_modalities
from fusion.omnisat.season_decoder import SeasonDecoder
from fusion.omnisat.series import SeriesDecoder, patchify_series
from fusion.omnisat.views import split_dates


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def test_hidden_dates_are_a_share_of_the_valid_ones_and_half_of_the_tiles_hide_a_span():
    valid = torch.ones(400, 12, dtype=torch.bool)
    valid[:, 8:] = False
    hidden = draw_hidden_dates(valid, 0.5, drawn())
    assert (hidden.sum(1) == 4).all()
    assert not hidden[:, 8:].any()
    steps = (hidden[:, :8].int() != hidden[:, :8].int().roll(1, 1)).sum(1)  # a span round the year has two borders
    assert 0.45 < (steps == 2).float().mean() < 0.65
    assert (hidden[:, :8].float().mean(0) - 0.5).abs().max() < 0.1
    assert torch.equal(hidden, draw_hidden_dates(valid, 0.5, drawn()))


def test_a_tile_with_few_dates_keeps_one_and_hides_one():
    valid = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert draw_hidden_dates(valid, 0.9, drawn()).sum(1).tolist() == [1, 0, 0]
    assert draw_hidden_dates(valid, 0.1, drawn()).sum(1).tolist() == [1, 0, 0]


def test_given_and_hidden_dates_share_no_date(batch):
    data = batch(3)
    hidden = draw_hidden_dates(data.valid["s2"], 0.5, drawn())
    given, rest = split_dates(data, {"s2": hidden})
    assert torch.equal(given.valid["s2"] ^ rest.valid["s2"], data.valid["s2"])
    assert rest.modalities == ("s2",)
    assert given.valid["aerial"].all()


def test_modalities_are_dropped_with_their_probability_and_one_stays():
    valid = torch.ones(3, 2000, dtype=torch.bool)
    valid[2, :1000] = False
    left = drop_modalities(valid, 0.5, drawn())
    assert left.any(0).all()
    assert not left[2, :1000].any()
    assert abs(left[0, 1000:].float().mean() - (0.5 + 0.5**3 / 3)) < 0.04  # all three would go: one of them stays
    assert drop_modalities(valid, 0.0) is valid


def test_season_decoder_is_its_formula():
    decoder, tokens, days = SeasonDecoder(8, 3), torch.randn(5, 8), torch.randint(0, 366, (2, 4))
    tile = torch.tensor([0, 0, 1, 1, 1])
    code = encode_days(days, 8, period=367.0)[tile]  # (R, K, D)
    a, c = decoder.by_token(tokens)[:, None].chunk(2, -1)
    b, d = decoder.by_day(code).chunk(2, -1)
    torch.testing.assert_close(decoder(tokens, days, tile), decoder.out(F.gelu(a * b + c + d)))


def test_only_the_season_decoder_says_that_two_patches_differ_in_their_course():
    """One patch is high in spring and low in autumn, the other the reverse: their mean is one and the same."""
    days, tile, tokens = torch.tensor([[60, 250]]), torch.zeros(2, dtype=torch.long), torch.eye(2, 16)
    wanted = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[..., None]  # (R, K, C)

    def error(decoder):
        optimizer = torch.optim.Adam(decoder.parameters(), 0.03)
        for _ in range(300):
            optimizer.zero_grad()
            loss = (decoder(tokens, days, tile) - wanted).square().mean()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    assert error(SeasonDecoder(16, 1)) < 0.01
    assert error(SeriesDecoder(16, 1)) > 0.99  # all that is left to it is the mean, 0


@torch.no_grad()
def test_losses_are_those_of_hidden_dates_masked_patches_and_views(config, batch):
    model, objective = OmniSat(config).eval(), MaskedDatesObjective(config).eval()
    data = batch(3)
    data.valid["s2"][1, 2:] = False
    data.valid["aerial"][2] = False
    losses = objective(model, data, drawn())

    generator = drawn()
    hidden = draw_hidden_dates(data.valid["s2"], 0.5, generator)
    given, rest = split_dates(data, {"s2": hidden})
    seen, other = model.encode(given), model.encode(rest)
    tokens, valid = torch.cat((seen.tokens, other.tokens)), torch.cat((seen.valid, other.valid))
    contrastive = patch_info_nce(tokens, temperature=0.1, valid=valid)
    torch.testing.assert_close(losses.contrastive, contrastive)

    masked = torch.rand(3, 18, generator=generator).argsort(1)  # the draw of masking.py
    keep = torch.zeros(3, 18, dtype=torch.bool).scatter_(1, masked[:, :9], True).view(3, 3, 6).transpose(0, 1)
    encoded = model.combine(torch.where(keep[..., None], seen.tokens, objective.mask_token), seen.valid)
    standard = patchify_series(model.standardisation(data, "s2"), 2)  # (B, P, L, C)
    errors = []
    for b in range(3):
        dates = hidden[b].nonzero()[:, 0]
        for p in range(6):
            made = objective.decoders["s2"](
                encoded.patches[b, p][None], data.days["s2"][b, dates][None], torch.tensor([0])
            )
            errors.append((made[0] - standard[b, p, dates]).square().mean())
    torch.testing.assert_close(losses.by_modality["s2"], torch.stack(errors).mean())


def test_a_hidden_date_is_not_seen_by_what_reconstructs_it(config, batch):
    """Changing the hidden values changes targets, and not the encodings."""
    model, data = OmniSat(config).eval(), batch(2)
    hidden = draw_hidden_dates(data.valid["s2"], 0.5, drawn())
    before = model.encode(split_dates(data, {"s2": hidden})[0]).tokens
    data.values["s2"][hidden] += 5
    torch.testing.assert_close(model.encode(split_dates(data, {"s2": hidden})[0]).tokens, before)


def one_pixel(kind, tiles=8):
    modality = Modality("s2", kind, ("B04", "B08"), 10.0, 1)
    values = {"s2": torch.randn(tiles, 6, 2, 1, 1) if kind == "series" else torch.randn(tiles, 2, 1, 1)}
    days = {"s2": torch.arange(6).expand(tiles, 6) * 60} if kind == "series" else {}
    valid = {"s2": torch.ones(values["s2"].shape[: 2 if kind == "series" else 1], dtype=torch.bool)}
    config = OmniSatConfig.preset("tiny", (modality,), (1, 1))
    return config, TileBatch(values, days, valid, names=tuple("abcdefgh"[:tiles]))


def test_a_single_pixel_of_a_single_sensor_trains_every_part():
    config, data = one_pixel("series")
    module = OmniSatPretraining(config, objective="masked-dates")
    losses = module.objective(module.model, data, drawn())
    assert losses.contrastive > 0
    assert losses.reconstruction > 0
    losses.total.backward()
    without = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    # The one token is never masked; positions of one patch leave nothing to tell apart.
    assert set(without) <= {"objective.mask_token"}
    assert module.model.combiner.summary.grad.abs().max() > 0


def test_what_could_learn_nothing_is_refused():
    config, _ = one_pixel("series")
    with pytest.raises(ValueError, match=r"nothing is masked and nothing compared.*masked-dates"):
        PretrainingObjective(config)
    image, _ = one_pixel("image")
    with pytest.raises(ValueError, match=r"single image of one patch.*s2"):
        MaskedDatesObjective(image)


def test_paper_without_reconstruction_wants_two_modalities(config):
    import dataclasses

    alone = dataclasses.replace(config, modalities=config.modalities[:1])
    with pytest.raises(ValueError, match="nothing is masked and nothing compared"):
        PretrainingObjective(alone, reconstruction_weight=0.0)
    PretrainingObjective(alone)  # masked patches of one modality are something to learn from


def test_settings_of_the_other_objective_are_refused(config):
    with pytest.raises(ValueError, match="'masked-dates' has no date_share"):
        OmniSatPretraining(config, objective="masked-dates", date_share=0.5)
    with pytest.raises(ValueError, match="'paper' has no summary_weight"):
        OmniSatPretraining(config, summary_weight=0.1)
    with pytest.raises(ValueError, match="objective is 'paper' or 'masked-dates', not 'dates'"):
        OmniSatPretraining(config, objective="dates")
    assert OmniSatPretraining(config).objective.mask_ratio == 0.75
    assert OmniSatPretraining(config, objective="masked-dates").objective.mask_ratio == 0.5


@torch.no_grad()
def test_tokens_of_a_season_see_its_dates_alone(config, batch):
    model, data = OmniSat(config).eval(), batch(2)
    data.days["s2"][:] = torch.tensor([10, 100, 190, 280, 375])  # the last one is a January, too
    names, tokens, valid = model.encode_seasons(data, 4)
    assert names == ("aerial", "s2", "dem")
    assert tokens.shape == (3, 4, 2, 6, 16)
    assert valid.all()
    year = model.encode(data).tokens
    torch.testing.assert_close(tokens[0], year[0].expand(4, -1, -1, -1))  # an image has one
    spring = data.select(["s2"])
    spring.valid = {"s2": torch.tensor([[False, True, False, False, False]] * 2)}
    torch.testing.assert_close(tokens[1, 1], model.encode(spring).tokens[0])
    data.valid["s2"][0, 1] = False
    torch.testing.assert_close(model.encode_seasons(data, 4)[1][1, 1, 0], model.encode(data).tokens[1, 0])


@torch.no_grad()
def test_weather_is_reconstructed_once_a_tile_and_not_contrasted_by_patch(config, batch):
    model, objective, data = OmniSat(config).eval(), MaskedDatesObjective(config).eval(), batch(2)
    data.values["s2"][0] = data.values["s2"][0, :, :, :1, :1]  # the same in all patches of the first tile
    errors = []

    def counted(name, summary, encodings, inputs, *more):
        found = MaskedDatesObjective._series(objective, name, summary, encodings, inputs, *more)
        errors.append(found[0][0].view(2, 6))
        return found

    objective._series = counted
    losses = objective(model, data, drawn())
    (error,) = errors
    torch.testing.assert_close(losses.by_modality["s2"], (error[0, 0] + error[1].sum()) / 7)
    hidden = draw_hidden_dates(data.valid["s2"], 0.5, drawn())
    seen, rest = (model.encode(part) for part in split_dates(data, {"s2": hidden}))
    valid = torch.cat((seen.valid, rest.valid))
    valid[[1, 3], 0] = False
    torch.testing.assert_close(
        losses.contrastive, patch_info_nce(torch.cat((seen.tokens, rest.tokens)), temperature=0.1, valid=valid)
    )


def test_settings_hold_the_share_that_is_masked(config):
    assert OmniSatPretraining(config).hparams["mask_ratio"] == 0.75  # as runs before had it, which so go on
    assert OmniSatPretraining(config, objective="masked-dates").hparams["mask_ratio"] == 0.5
