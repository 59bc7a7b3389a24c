"""Tokenizers of series: the originals' ids, round trips, missing values, and real temperatures."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch

from fusion.kernels.quantize import (
    MeanScaleBins,
    MuLaw,
    QuantileBins,
    SymbolicAggregate,
    UniformBins,
)

nan = math.nan
POINTWISE = [lambda: UniformBins(64), lambda: QuantileBins(64), lambda: MuLaw(63)]
ALL = [*POINTWISE, lambda: MeanScaleBins(259), lambda: SymbolicAggregate(10, 8)]

pytestmark = pytest.mark.usefixtures("seeded")


def walks(places: int = 5, length: int = 101) -> torch.Tensor:
    """Random walks of three variables in different units, with gaps; (B, 3, T)."""
    unit = torch.tensor([1.0, 100.0, 0.01])[:, None]
    level = torch.tensor([0.0, 101300.0, 5.0])[:, None]
    x = torch.randn(places, 3, length).cumsum(-1) * unit + level
    x[torch.rand_like(x) < 0.1] = nan
    x[0, 1] = nan
    x[2, :, length // 2 :] = nan
    return x


# ------------------------------------------------------------------------------------------- reference numbers

t = torch.arange(48.0)
CHRONOS = {
    "sin(0.1 t)": torch.sin(0.1 * t),
    "10+5 sin(0.1 t)": 10 + 5 * torch.sin(0.1 * t),
    "0.25 t": 0.25 * t,
    "sin(0.1 t), 1000 at t=20": torch.where(t == 20, 1000.0, torch.sin(0.1 * t)),
    "2 cos(0.2 t), NaN where t%7==3": torch.where(t % 7 == 3, nan, 2 * torch.cos(0.2 * t)),
    "0": 0 * t,
}


@pytest.mark.parametrize("case", range(12))
def test_mean_scale_bins_give_chronos_ids_to_the_digit(golden, case):
    expected = golden("quantize_and_context")["chronos"]["cases"][case]
    tokenizer, series = MeanScaleBins(expected["n_tokens"]), CHRONOS[expected["series"]]
    codes, scale = tokenizer.encode(series)
    assert tokenizer.ids(codes).tolist() == expected["token_ids"]
    assert scale.item() == pytest.approx(expected["scale"], rel=1e-6)
    error = (tokenizer.decode(codes, scale) - series).abs()
    largest = error[~error.isnan()].max().item()
    assert largest == pytest.approx(expected["max_abs_reconstruction_error_on_observed"], rel=1e-4, abs=1e-6)
    assert torch.equal(tokenizer.codes(tokenizer.ids(codes)[:-1]), codes)


@pytest.mark.parametrize("case", range(3))
def test_symbols_match_three_sax_libraries(golden, case):
    sax = golden("quantize_and_context")["sax"]
    expected = sax["cases"][case]
    time = torch.arange(96, dtype=torch.float64)
    series = torch.stack([torch.sin(0.1 * time), torch.sin(0.1 * time) + 0.01 * time, torch.cos(0.005 * time * time)])
    tokenizer = SymbolicAggregate(expected["n_segments"], expected["alphabet"])
    codes, _ = tokenizer.encode(series)
    assert tokenizer.words(codes) == expected["saxpy"]["words"] == expected["pyts_normal_on_paa"]["words"]
    assert codes.tolist() == expected["tslearn"]["symbols"]
    for alphabet, breakpoints in sax["breakpoints"].items():
        edges = SymbolicAggregate(4, int(alphabet)).edges[1:-1]
        torch.testing.assert_close(edges, torch.tensor(breakpoints), atol=1e-5, rtol=0)


def test_mu_law_matches_the_formula(golden):
    expected = golden("quantize_and_context")["mu_law"]
    tokenizer, series = MuLaw(expected["mu"]), torch.sin(0.1 * t)
    codes = tokenizer.encode(series)
    assert codes.tolist() == expected["codes"]
    error = (tokenizer.decode(codes) - series).abs().max().item()
    assert error == pytest.approx(expected["max_abs_decode_error"], rel=1e-4)


# ---------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize("make", ALL)
def test_missing_values_are_marked_and_stay_missing(make):
    x = walks()
    tokenizer = make().fit(x)
    encoded = tokenizer.encode(x)
    codes = encoded[0] if isinstance(encoded, tuple) else encoded
    assert codes.dtype == torch.int64
    assert ((codes >= -1) & (codes < tokenizer.codebook_size)).all()
    back = tokenizer.reconstruct(x)
    assert back.shape == x.shape
    if not isinstance(tokenizer, SymbolicAggregate):  # which needs to be told the length
        torch.testing.assert_close(tokenizer.decode(encoded), back, equal_nan=True, atol=0, rtol=0)
    if codes.shape == x.shape:
        assert torch.equal(codes == -1, x.isnan())
        assert torch.equal(back.isnan(), x.isnan())
    assert back[0, 1].isnan().all()
    assert math.isfinite(tokenizer.reconstruction_error(x))
    assert 0 < tokenizer.rate(101) < 32


@pytest.mark.parametrize("make", POINTWISE)
def test_pointwise_codes_keep_the_series_shape(make):
    x = walks()
    tokenizer = make().fit(x)
    codes = tokenizer.encode(x)
    assert torch.equal(tokenizer.encode(x[1]), codes[1])
    assert torch.equal(tokenizer.decode(codes[1]).nan_to_num(), tokenizer.decode(codes)[1].nan_to_num())
    with pytest.raises(ValueError, match="fitted on 3 variables"):
        tokenizer.encode(x[:, :2])
    single = make().fit(x[1, 0])
    assert single.encode(x[1, 0]).shape == (101,)


@pytest.mark.parametrize("make", ALL)
def test_a_state_dict_restores_the_tokenizer(make, tmp_path):
    x = walks(9)
    tokenizer = make().fit(x)
    torch.save(tokenizer.state_dict(), tmp_path / "state.pt")
    restored = make().eval()
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.testing.assert_close(restored.reconstruct(x), tokenizer.reconstruct(x), equal_nan=True, atol=0, rtol=0)


def test_uniform_bins_stay_within_half_a_bin():
    x = walks()
    tokenizer = UniformBins(64).fit(x)
    for c in range(3):
        seen = x[:, c][~x[:, c].isnan()]
        error = (tokenizer.reconstruct(x)[:, c] - x[:, c]).abs()
        assert error[~error.isnan()].max() <= (seen.max() - seen.min()) / 64 / 2 * 1.01 + 1e-5 * seen.abs().max()
    fixed = UniformBins(10, low=0.0, high=1.0)
    assert fixed.encode(torch.tensor([-5.0, 0.05, 0.5, 0.999, 7.0, math.inf])).tolist() == [0, 0, 5, 9, 9, 9]


def test_a_narrow_range_far_from_zero_keeps_its_bins():
    pressure = 101325 + 5 * torch.rand(1, 1, 4000)  # less than 1,000 float32 numbers lie in it
    tokenizer = UniformBins(4096).fit(pressure)
    assert tokenizer.reconstruction_error(pressure) < 0.01


@pytest.mark.parametrize("make", POINTWISE)
def test_a_constant_variable_comes_back(make):
    x = torch.full((2, 1, 9), 5.0)
    torch.testing.assert_close(make().fit(x).reconstruct(x), x, atol=0.07, rtol=0)


def test_quantile_bins_hold_equally_many_and_merge_ties():
    x = torch.randn(1, 1, 6400).exp()
    tokenizer = QuantileBins(16).fit(x)
    counts = torch.bincount(tokenizer.encode(x).flatten(), minlength=16)
    assert (counts == 400).all()
    rain = torch.cat([torch.zeros(900), torch.rand(100)]).view(1, 1, -1)
    tokenizer = QuantileBins(10).fit(rain)
    assert tokenizer.sizes[0] < 10
    assert tokenizer.decode(tokenizer.encode(torch.zeros(1))).item() == 0


def test_segments_need_not_divide_the_length():
    x = walks(4, 37)
    tokenizer = SymbolicAggregate(8, 16)
    assert tokenizer.encode(x)[0].shape == (4, 3, 8)
    assert tokenizer.reconstruct(x).shape == x.shape
    even = torch.arange(8.0).repeat_interleave(5)
    odd = torch.arange(8.0).repeat_interleave(4)
    assert torch.equal(tokenizer.encode(even)[0], tokenizer.encode(odd)[0])


def test_real_temperatures_cost_more_bits_for_less_error(data_dir):
    with open(data_dir("daily_temperature_stations") / "tmean_2019.csv") as file:
        rows = list(csv.reader(file))[1:]
    x = torch.tensor([[float(v) if v else nan for v in row[1:]] for row in rows])[:, None]  # (61, 1, 365)
    errors = [UniformBins(bins).fit(x).reconstruction_error(x) for bins in (16, 64, 256)]
    assert errors[0] > 3.5 * errors[1] > 12 * errors[2]
    assert errors[1] < 0.25  # degrees
    assert QuantileBins(64).fit(x).reconstruction_error(x) < 0.4
    assert SymbolicAggregate(52, 8).reconstruction_error(x) < 3


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: UniformBins(0), ValueError, "bins.*0"),
        (lambda: UniformBins(4, low=1.0), ValueError, "low=1.0, high=None"),
        (lambda: UniformBins(4, low=2.0, high=1.0), ValueError, "low=2.0, high=1.0"),
        (lambda: UniformBins(4).encode(torch.zeros(3)), RuntimeError, "not fitted"),
        (lambda: UniformBins(4).fit(torch.full((2, 3), nan)), ValueError, r"variable 0.*\(2, 3\)"),
        (lambda: QuantileBins(4).fit(torch.zeros(2, 3, 4, 5)), ValueError, r"\(2, 3, 4, 5\)"),
        (lambda: MuLaw().encode(torch.zeros(3).int()), TypeError, "int32"),
        (lambda: MuLaw(0), ValueError, "mu.*0"),
        (lambda: MeanScaleBins(4), ValueError, "vocabulary=4"),
        (lambda: MeanScaleBins().decode(torch.zeros(3).long()), TypeError, "pass what encode returned"),
        (lambda: SymbolicAggregate(8, 1), ValueError, "alphabet=1"),
        (lambda: UniformBins(4, channels=2).fit(torch.zeros(1, 3, 5)), ValueError, "made for 2 variables, got 3"),
        (lambda: MuLaw(channels=2).fit(torch.zeros(1, 3, 5)), ValueError, "made for 2 variables, got 3"),
    ],
)
def test_bad_arguments_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("make", POINTWISE)
def test_what_was_fitted_lies_where_the_series_are(make):
    series = walks()
    tokenizer = make().to("meta").fit(series)  # a device that holds no numbers: nothing may be left there
    assert {buffer.device.type for buffer in tokenizer.buffers()} == {"cpu"}
    again = make()
    again.load_state_dict(tokenizer.state_dict())
    assert torch.equal(tokenizer.encode(series), again.encode(series))


def test_a_tokenizer_fitted_again_forgets_its_first_bins():
    tokenizer = UniformBins(8).fit(torch.tensor([0.0, 1.0]))
    assert tokenizer.encode(torch.tensor([0.9])).tolist() == [7]
    tokenizer.fit(torch.tensor([0.0, 8.0]))
    assert tokenizer.encode(torch.tensor([0.9])).tolist() == [0]
    tokenizer.edges.mul_(0.1)
    assert tokenizer.encode(torch.tensor([0.75])).tolist() == [7]


MADE_FOR_THREE = [
    lambda: UniformBins(64, channels=3),
    lambda: QuantileBins(64, channels=3),
    lambda: MuLaw(63, channels=3),
]


@pytest.mark.parametrize("make", MADE_FOR_THREE)
def test_buffers_have_their_final_shapes_before_the_fit(make):
    x = walks()
    x[:, 2] = x[:, 2].round()  # ties: quantiles merge
    fresh, tokenizer = make(), make().fit(x)
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {
        k: v.shape for k, v in tokenizer.state_dict().items()
    }
    assert tokenizer.sizes.shape == (3,)
    assert tokenizer.code_values().shape == (3, 64)
    if not isinstance(fresh, MuLaw):  # which need not be fitted
        with pytest.raises(RuntimeError, match="not fitted"):
            fresh.encode(x)
    codes = tokenizer.encode(x)
    assert all(int(codes[:, c].max()) < tokenizer.sizes[c] for c in range(3))
    values = tokenizer.code_values()[torch.arange(3)[:, None], codes.clamp_min(0)]
    assert torch.equal(values[codes >= 0], tokenizer.decode(codes)[codes >= 0])


def test_a_margin_lets_uniform_bins_reach_beyond_what_was_seen():
    tokenizer = UniformBins(10, margin=0.1).fit(torch.tensor([0.0, 10.0]))
    assert tokenizer.edges[0, [0, -1]].tolist() == pytest.approx([-1, 11])
    assert UniformBins(10, low=0.0, high=1.0, channels=2).sizes.tolist() == [10, 10]


@pytest.mark.parametrize(
    "make", [lambda: UniformBins(8), lambda: QuantileBins(4), MuLaw, MeanScaleBins, lambda: SymbolicAggregate(4)]
)
def test_arrays_are_series_too_and_what_they_mask_is_missing(make):
    values = np.array([[0.1, 0.5, -9.0, 0.9, 0.3, 0.7, 0.2, 0.8]], dtype=">f4")
    series = torch.tensor(values.astype("float32")).masked_fill(torch.tensor(values == -9), torch.nan)
    arrays, tensors = make().fit(np.ma.masked_values(values, -9)), make().fit(series)
    for name, buffer in tensors.named_buffers():
        assert torch.equal(buffer, arrays.get_buffer(name))
    found, want = arrays.encode(np.ma.masked_values(values, -9)), tensors.encode(series)
    for f, w in zip(found, want, strict=True):
        assert torch.equal(f, w)
    torch.testing.assert_close(
        arrays.reconstruct(np.ma.masked_values(values, -9)), tensors.reconstruct(series), equal_nan=True
    )
