"""Encoding without gradients on a CPU merges layers and pools dates in C++: the same numbers, and only where it may."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from fusion.kernels import use_backend
from fusion.omnisat import series as module
from fusion.omnisat.series import SeriesEncoder


def encoder(**options) -> SeriesEncoder:
    """With norms that have seen data, in evaluation."""
    torch.manual_seed(0)
    options = {"heads": 4, "key_dim": 8, "widths": (16, 24), "mlp_dim": 40, **options}
    made = SeriesEncoder(5, 32, **options)
    for norm in itertools.chain(made.date_norms, made.norms):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.3, 3)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    return made.eval()


def tiles(length: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    series = torch.randn(6, 7, length, 5, generator=rng)
    valid = torch.rand(6, length, generator=rng) > 0.4
    valid[0], valid[1], valid[2] = True, False, False
    valid[2, 4] = True
    return series, torch.arange(length).mul(37).expand(6, -1), valid


@pytest.fixture
def pooled(monkeypatch) -> list[int]:
    """How often dates were pooled by the operator."""
    calls: list[int] = []
    operator = module.pool_dates
    monkeypatch.setattr(module, "pool_dates", lambda *args, **options: calls.append(1) or operator(*args, **options))
    return calls


def exact(made: SeriesEncoder, given: tuple[Tensor, Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
    """In float64, layer by layer."""
    series, days, valid = given
    return copy.deepcopy(made).double()(series.double(), days, valid)


def distance(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> float:
    return max(float((a.double() - b).abs().max()) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_it_is_as_right_as_layer_by_layer(normalise, masked, backend, pooled):
    made, (series, days, valid) = encoder(normalise=normalise), tiles()
    given = series, days, valid if masked else None
    wanted = exact(made, given)
    plain = made(*given)  # with gradients
    assert not pooled
    with torch.inference_mode(), use_backend(backend):
        found = made(*given)
    assert pooled
    assert distance(found, wanted) <= 2 * distance(plain, wanted) + 1e-6


def test_in_bfloat16_it_is_as_right_as_layer_by_layer(pooled):
    made, given = encoder(), tiles()
    wanted = exact(made, given)
    with torch.autocast("cpu", torch.bfloat16):
        plain = made(*given)
        assert not pooled
        with torch.inference_mode():
            found = made(*given)
    assert pooled
    assert distance(found, wanted) <= 2 * distance(plain, wanted)


def test_in_float64_it_is_exact(pooled):
    made, (series, days, valid) = encoder().double(), tiles()
    with torch.no_grad():
        found = made(series.double(), days, valid)
    assert pooled
    torch.testing.assert_close(found, made(series.double(), days, valid), rtol=1e-10, atol=1e-10)


def test_what_is_not_valid_plays_no_part(pooled):
    made, (series, days, valid) = encoder(), tiles()
    with torch.inference_mode():
        wanted = made(series, days, valid)
        found = made(series.masked_fill(~valid[:, None, :, None], 1e6), days, valid)
    assert len(pooled) == 2
    assert all(map(torch.equal, found, wanted))


class Adapter(nn.Linear):
    """A layer in the place of another, as of low-rank adapters."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def watched(made: SeriesEncoder) -> SeriesEncoder:
    made.date_layers[2].register_forward_hook(lambda *_: None)
    return made


def adapted(made: SeriesEncoder) -> SeriesEncoder:
    last = made.date_layers[2]
    made.date_layers[2] = Adapter(last.in_features, last.out_features).eval()
    return made


def parametrized(made: SeriesEncoder) -> SeriesEncoder:
    nn.utils.parametrizations.weight_norm(made.attention.key)
    return made


def half(made: SeriesEncoder) -> SeriesEncoder:
    return made.bfloat16()


@pytest.mark.parametrize("change", [nn.Module.train, watched, adapted, parametrized, half])
def test_layers_are_left_to_themselves_where_something_else_is_asked_of_them(change, pooled):
    made, (series, days, valid) = change(encoder()), tiles()
    dtype = next(made.parameters()).dtype
    with torch.no_grad():
        torch.manual_seed(2)
        found = made(series.to(dtype), days, valid)
    assert not pooled
    if not made.training:
        torch.testing.assert_close(found, made(series.to(dtype), days, valid), rtol=1e-4, atol=1e-4)


def test_dropout_follows_the_encoder_whatever_its_norms_do(pooled):
    """Norms are often frozen while the rest is trained."""
    made, given = encoder().train(), tiles()
    for norm in itertools.chain(made.date_norms, made.norms):
        norm.eval()
    made.attention.eval()
    with torch.no_grad():
        first, second = made(*given)[1], made(*given)[1]  # attention, before the dropout of tokens
    assert not pooled
    assert not torch.equal(first, second)


def test_hooks_of_early_layers_run(pooled):
    made, given, seen = encoder(), tiles(), []
    for layer in (*made.date_layers[:2], *made.date_norms[:2], *made.layers, *made.norms):
        layer.register_forward_hook(lambda *_: seen.append(1))
    with torch.inference_mode():
        found = made(*given)
    assert len(seen) == 10
    assert pooled  # the last layer of dates is not watched
    torch.testing.assert_close(found, made(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_graph_has_layers(training, dynamic, pooled):
    made, given = encoder(dropout=0.2).train(training), tiles()
    with torch.no_grad():
        compiled = torch.compile(made, backend="aot_eager", fullgraph=True, dynamic=dynamic)(*given)
        assert not pooled
        if training:
            assert compiled[0].isfinite().all()  # what is dropped differs
        else:
            torch.testing.assert_close(compiled, made(*given), rtol=1e-4, atol=1e-5)
