"""Dates that were not observed take no part in anything."""

import math

import pytest
import torch
import torch.nn.functional as F

from fusion.layers import encode_days
from fusion.omnisat.series import (
    SeriesDecoder,
    SeriesEncoder,
    TemporalAttention,
    patchify_series,
    select_dates,
)


def make(length=6, tiles=3, patches=2):
    series = torch.randn(tiles, patches, length, 4, dtype=torch.float64)
    days = torch.randint(0, 366, (tiles, length)).sort(1).values
    valid = torch.arange(length) < torch.tensor([[length], [length - 2], [1]])
    return series, days, valid


def encoder(**options):
    options = {"heads": 2, "key_dim": 4, "widths": (8,), "mlp_dim": 16, "dropout": 0.0, **options}
    return SeriesEncoder(4, 8, attention_dropout=0.0, **options).double()


def test_patches_are_in_raster_order_and_channel_major():
    values = torch.zeros(1, 1, 2, 24, 24)
    values[0, 0, 1, 5, 13] = 1
    patches = patchify_series(values, 4)  # (1, 36, 1, 2*4*4)
    assert patches.nonzero().tolist() == [[0, 9, 0, 16 + 1 * 4 + 1]]
    assert patchify_series(torch.arange(36.0).view(1, 1, 1, 6, 6), 1)[0, 9, 0, 0] == 9


@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing(training):
    series, days, valid = make()
    plain, padded = encoder(), encoder()
    padded.load_state_dict(plain.state_dict())
    more = torch.full((3, 2, 3, 4), 1e3, dtype=torch.float64)  # what padding holds must not matter
    plain.train(training)
    padded.train(training)
    tokens, attention = plain(series, days, valid)
    others, wider = padded(
        torch.cat((series, more), 2), F.pad(days, (0, 3), value=99), F.pad(valid, (0, 3), value=False)
    )
    torch.testing.assert_close(others, tokens)
    torch.testing.assert_close(wider, F.pad(attention, (0, 3)))
    for (name, a), b in zip(padded.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_gradient_does_not_reach_padding():
    series, days, valid = make()
    series.requires_grad_()
    tokens, _ = encoder()(series, days, valid)
    (tokens * torch.randn_like(tokens)).sum().backward()
    reached = series.grad.abs().sum((1, 3)) > 0
    assert torch.equal(reached, valid)


def test_a_missing_series_teaches_nothing():
    series, days, valid = make()
    one, other = encoder(), encoder()
    other.load_state_dict(one.state_dict())
    valid[2] = False
    tokens, attention = one(series, days, valid)
    assert tokens.isfinite().all()
    assert (attention[2] == 0).all()
    torch.testing.assert_close(other(series[:2], days[:2], valid[:2])[0], tokens[:2])
    for a, b in zip(one.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_attention_is_the_textbook_one():
    """Keys of every date, positions added to values patch by patch, as the paper of the encoder writes it."""
    dim, heads, key_dim = 8, 2, 4
    attention = TemporalAttention(dim, heads, key_dim, dropout=0.0).double()
    torch.nn.init.normal_(attention.key.bias)
    values, valid = torch.randn(2, 3, 5, dim, dtype=torch.float64), torch.ones(2, 5, dtype=torch.bool)
    valid[1, 2] = False
    positions = encode_days(torch.randint(0, 366, (2, 5)), dim // heads).double()
    pooled, weights = attention(values, positions, valid)

    placed = values + positions.repeat(1, 1, heads)[:, None]
    keys = attention.key(placed).unflatten(-1, (heads, key_dim))  # (B, P, L, H, K)
    scores = (keys * attention.query).sum(-1) / math.sqrt(key_dim)
    expected = scores.masked_fill(~valid[:, None, :, None], -math.inf).softmax(2)
    torch.testing.assert_close(weights, expected)
    by_head = placed.unflatten(-1, (heads, -1))
    torch.testing.assert_close(pooled, (expected[..., None] * by_head).sum(2).flatten(2))


@pytest.mark.parametrize(("dates", "chosen"), [(0, 0), (1, 1), (2, 1), (4, 1), (5, 2), (8, 2), (50, 13)])
def test_a_quarter_of_the_dates_is_chosen(dates, chosen):
    attention = torch.rand(1, 50)
    valid = (torch.randperm(50) < dates)[None]
    index, keep = select_dates(attention, valid)
    assert int(keep.sum()) == chosen
    picked = index[keep]
    assert len(picked.unique()) == chosen
    assert valid[0, picked].all()
    if 0 < chosen < dates:
        others = valid[0].clone()
        others[picked] = False
        assert attention[0, picked].min() > attention[0, others].max()


def test_the_last_date_can_be_chosen():
    attention = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    index, keep = select_dates(attention, torch.ones(1, 4, dtype=torch.bool))
    assert index[keep].tolist() == [3]


def test_decoder_is_linear_in_token_plus_day():
    decoder = SeriesDecoder(8, 3, period=50.0)
    tokens, days, tile = torch.randn(4, 8), torch.randint(0, 366, (2, 5)), torch.tensor([0, 1, 1, 0])
    code = encode_days(days, 8, period=50.0)[tile]  # (R, K, D)
    expected = F.linear(tokens[:, None] + code, decoder.weight, decoder.bias)
    torch.testing.assert_close(decoder(tokens, days, tile), expected)
