"""Which token is what."""

import pytest
import torch

from fusion.token_fusion import Tokens


def test_layout_says_what_every_token_is(fitted):
    layout = fitted.tokenizer.layout
    assert len(layout) == 4 + 4 + 2 * 6
    assert layout.slices == {"height": slice(0, 4), "photo": slice(4, 8), "weather": slice(8, 20)}
    assert layout.vocabulary == {"height": 32, "photo": 16, "weather": 32}
    assert layout.modality.tolist() == [0] * 4 + [1] * 4 + [2] * 12
    assert layout.position.tolist() == [1, 2, 3, 4] * 2 + [0] * 12
    assert layout.channel[8:].tolist() == [0] * 6 + [1] * 6
    assert layout.time[:8].isnan().all()
    assert layout.time[8:14].tolist() == [15, 45, 75, 105, 135, 165]


def test_select_leaves_the_others_unobserved(fitted, batch):
    tokens = fitted.tokenize(batch())
    assert tokens.observed.all()
    some = tokens.select(["weather"])
    assert some.names == ("height", "photo", "weather")
    assert not some.observed[:, :8].any()
    assert torch.equal(some.of("weather"), tokens.of("weather"))
    with pytest.raises(ValueError, match="no tokens of a modality 'radar'; there are height, photo, weather"):
        tokens.select(["radar"])


def test_codes_must_fit_the_layout(fitted):
    with pytest.raises(ValueError, match=r"codes must be \(B, 20\) int64"):
        Tokens(torch.zeros(2, 19, dtype=torch.int64), fitted.tokenizer.layout)
