"""Codebooks that learn: the original's numbers, restarts, k-means, residual and product forms, checkpoints, ranks."""

from __future__ import annotations

import math

import pytest
import torch

from fusion.kernels.quantize import (
    FiniteScalarQuantizer,
    ProductVectorQuantizer,
    ResidualVectorQuantizer,
    VectorQuantizer,
    code_usage,
    kmeans,
    nearest_code,
)

from ..ranks import results_of_ranks

pytestmark = pytest.mark.usefixtures("seeded")


def grid(rows: int, columns: int, function: str, a: float, b: float) -> torch.Tensor:
    i, j = torch.arange(rows)[:, None], torch.arange(columns)
    return getattr(torch, function)(a * i + b * j)


def load(quantizer: VectorQuantizer, codebook: torch.Tensor) -> VectorQuantizer:
    """Starts a quantizer from a given codebook instead of k-means."""
    state = quantizer.state_dict()
    state |= {"codebook": codebook, "sums": codebook, "started": torch.tensor(True)}
    quantizer.load_state_dict(state)
    return quantizer


def clusters(rows: int, dim: int = 8, number: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 5 * torch.randn(number, dim, generator=generator)
    return centres[torch.arange(rows) % number] + 0.1 * torch.randn(rows, dim, generator=generator)


# ------------------------------------------------------------------------------------------- reference numbers


def test_a_moving_average_step_matches_the_original(golden):
    expected = golden("quantize_and_context")["vector_quantization"]["vq"]["ema_step"]
    quantizer = load(VectorQuantizer(4, 16, decay=0.8, commitment=1.0), grid(16, 4, "sin", 1.3, 0.9)).train()
    x = grid(32, 4, "cos", 0.37, 0.5).requires_grad_()
    quantized, _, loss = quantizer(x)
    assert loss.item() == pytest.approx(expected["commit_loss"], abs=1e-6)
    torch.testing.assert_close(quantizer.counts, torch.tensor(expected["cluster_size_after"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(quantizer.codebook, torch.tensor(expected["codebook_after"]), atol=1e-5, rtol=0)
    (quantized * torch.arange(1, 5)).sum().backward()
    assert x.grad[0].tolist() == expected["ste_grad_row0"]


def test_residual_layers_match_the_original(golden):
    expected = golden("quantize_and_context")["vector_quantization"]["residual_vq"]
    quantizer = ResidualVectorQuantizer(4, 16, 3).eval()
    for i, layer in enumerate(quantizer.layers):
        load(layer, 0.5**i * grid(16, 4, "sin", 1.3, 0.9))
    x = grid(32, 4, "cos", 0.37, 0.5)
    quantized, codes, losses = quantizer(x)
    assert codes.tolist() == expected["indices"]
    assert losses.shape == (3,)
    torch.testing.assert_close(quantized[:2], torch.tensor(expected["reconstruction_first2"]), atol=1e-5, rtol=0)
    assert (quantized - x).square().mean().item() == pytest.approx(expected["mse"], abs=1e-6)
    assert torch.equal(quantizer.encode(x), codes)
    torch.testing.assert_close(quantizer.decode(codes), quantized)


def test_product_parts_match_the_original(golden):
    expected = golden("quantize_and_context")["vector_quantization"]["product_vq"]
    quantizer = ProductVectorQuantizer(8, 16, 2).eval()
    load(quantizer.parts[0], grid(16, 4, "sin", 1.3, 0.9))
    load(quantizer.parts[1], grid(16, 4, "cos", 0.8, 0.6))
    x = grid(32, 8, "cos", 0.37, 0.5)
    quantized, codes, _ = quantizer(x)
    assert codes.tolist() == expected["indices"] == expected["nanopq_codes"]
    assert torch.equal(quantizer.encode(x), codes)
    assert torch.equal(quantizer.decode(codes), quantized)


def test_gradient_codebook_matches_totem(golden):
    expected = golden("quantize_and_context")["vector_quantization"]["totem_vq"]
    quantizer = load(VectorQuantizer(4, 16, learning="gradient"), grid(16, 4, "sin", 1.3, 0.9)).train()
    x = grid(32, 4, "cos", 0.37, 0.5)
    _, codes, loss = quantizer(x)
    assert codes.tolist() == expected["indices"]
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-6)  # beta 0.25
    assert code_usage(codes, 16)[1] == pytest.approx(expected["perplexity"], rel=1e-5)
    loss.backward()
    mean = torch.stack([x[codes == k].sum(0) - (codes == k).sum() * quantizer.codebook[k] for k in range(16)])
    torch.testing.assert_close(quantizer.codebook.grad, -2 * mean.detach() / x.numel(), atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------------------------- learning


def test_kmeans_finds_well_separated_clusters():
    x = clusters(600)
    codebook = kmeans(x, 60)  # so many that drawing finds every cluster
    codes = nearest_code(x, codebook)
    assert (x - codebook[codes]).square().mean() < 0.012  # the clusters' own variance is 0.01
    used = codes.unique()
    means = torch.stack([x[codes == k].mean(0) for k in used])
    assert (codebook[used] - means).abs().max() < 0.1


def test_moving_averages_converge_to_the_cluster_means():
    quantizer = load(VectorQuantizer(8, 12, decay=0.5), clusters(12)).train()
    for step in range(40):
        _, _, loss = quantizer(clusters(240, seed=0) + 0.01 * step / 40)
    assert loss < 0.01
    assert quantizer.usage() == 1.0
    assert quantizer.perplexity() == pytest.approx(12, rel=0.05)


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_dead_codes_restart_on_data(learning):
    x = clusters(240)
    codebook = torch.cat([x[:1], torch.full((11, 8), 1e3)])
    quantizer = load(VectorQuantizer(8, 12, decay=0.5, restart_below=0.5, learning=learning), codebook).train()
    for _ in range(30):
        quantizer(x)
    assert quantizer.codebook.abs().max() < 100
    assert code_usage(quantizer.encode(x), 12)[0] > 0.9


def test_without_restarts_dead_codes_stay():
    x = clusters(240)
    codebook = torch.cat([x[:1], torch.full((11, 8), 1e3)])
    quantizer = load(VectorQuantizer(8, 12, decay=0.5), codebook).train()
    for _ in range(10):
        quantizer(x)
    assert code_usage(quantizer.encode(x), 12)[0] == pytest.approx(1 / 12)
    assert quantizer.codebook.isfinite().all()


def test_missing_vectors_never_reach_the_codebook():
    x = clusters(240)
    holes = x.clone()
    holes[::5, 3] = math.nan
    holes[1::7, 0] = math.inf
    seen = holes.isfinite().all(1)
    quantizers = [load(VectorQuantizer(8, 12), x[:12]).train() for _ in range(2)]
    quantizers[0](holes)
    quantizers[1](x[seen])
    torch.testing.assert_close(quantizers[0].state_dict(), quantizers[1].state_dict())
    restarting = VectorQuantizer(8, 12, restart_below=50.0).train()
    for _ in range(5):
        restarting(holes)
    assert restarting.codebook.isfinite().all()


def test_a_batch_of_nothing_starts_nothing():
    quantizer = VectorQuantizer(3, 4).train()
    quantizer(torch.full((5, 3), math.nan))
    quantizer(torch.empty(0, 3))
    assert not quantizer.started
    _, codes, loss = quantizer(torch.randn(2, 3))  # fewer vectors than codes
    assert quantizer.started
    assert ((codes >= 0) & (codes < 4)).all()
    assert loss.isfinite()


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_cosine_codes_have_unit_length(learning):
    quantizer = VectorQuantizer(8, 12, metric="cosine", learning=learning).train()
    x = clusters(240) * torch.rand(240, 1)
    for _ in range(3):
        quantized, codes, loss = quantizer(x)
        loss.backward() if learning == "gradient" else None
    torch.testing.assert_close(quantized.norm(dim=1), torch.ones(240))
    assert torch.equal(quantizer.eval().encode(x), quantizer(x)[1])
    torch.testing.assert_close(quantizer.decode(codes).norm(dim=1), torch.ones(240))


def test_evaluation_learns_nothing():
    quantizer = load(VectorQuantizer(8, 12), torch.randn(12, 8)).eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(clusters(50))
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_decode_inverts_encode_and_marks_the_missing():
    quantizer = load(VectorQuantizer(3, 7), torch.randn(7, 3))
    codes = torch.tensor([[0, 6], [-1, 2]])
    vectors = quantizer.decode(codes)
    assert vectors[1, 0].isnan().all()
    assert torch.equal(quantizer.encode(vectors), codes)
    with pytest.raises(ValueError, match=r"-1\.\.6.*7"):
        quantizer.decode(torch.tensor([7]))


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [3, 5, 4]])
@pytest.mark.parametrize("form", ["tanh", "sigmoid"])
def test_scalar_codes_decode_to_what_was_quantized(levels, form):
    quantizer = FiniteScalarQuantizer(levels, form=form)
    z = 3 * torch.randn(500, len(levels))
    z[3, 1] = math.nan
    quantized, codes, _ = quantizer(z)
    torch.testing.assert_close(quantizer.decode(codes), quantized, equal_nan=True, atol=1e-6, rtol=0)
    assert torch.equal(quantizer.encode(z), codes)
    with pytest.raises(ValueError, match="codes must be in"):
        quantizer.decode(torch.tensor([quantizer.codebook_size]))


def test_residual_gradients_and_missing_vectors():
    quantizer = ResidualVectorQuantizer(8, 16, 3, gradient="rotation", restart_below=1.0).train()
    x = clusters(200)
    x[5, 2] = math.nan
    x.requires_grad_()
    quantized, codes, losses = quantizer(x)
    assert (codes[5] == -1).all()
    assert quantized[5].isnan().all()
    assert losses[0] > losses[1] > losses[2]
    (quantized[codes[:, 0] >= 0].sum() + losses.sum()).backward()
    assert x.grad.isfinite().all()
    assert (x.grad[5] == 0).all()
    assert torch.equal(quantizer.eval()(x.detach().bfloat16())[0].isnan(), quantized.isnan())


def test_training_compiles_and_agrees():
    quantizers = [load(VectorQuantizer(8, 12, restart_below=2.0), torch.linspace(-1, 1, 96).view(12, 8)) for _ in "ab"]
    compiled = torch.compile(quantizers[1].train(), fullgraph=True)
    for step in range(3):
        x = clusters(100, seed=step)
        expected, got = quantizers[0].train()(x), compiled(x)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(quantizers[1].state_dict(), quantizers[0].state_dict())


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_autocast_keeps_the_codebook_in_float32(metric):
    encoder = torch.nn.Linear(5, 8)
    quantizers = [load(VectorQuantizer(8, 12, metric=metric, restart_below=2.0), clusters(12)).train() for _ in "ab"]
    x = torch.randn(100, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = encoder(x)
        quantized, codes, loss = quantizers[0](latents)
    assert latents.dtype == quantized.dtype == torch.bfloat16
    loss.backward()
    assert encoder.weight.grad.isfinite().all()
    expected = quantizers[1](latents.detach().float())
    assert torch.equal(codes, expected[1])
    torch.testing.assert_close(quantizers[0].state_dict(), quantizers[1].state_dict(), atol=1e-5, rtol=1e-4)
    assert quantizers[0].codebook.dtype == torch.float32


def test_a_resumed_run_continues_exactly(tmp_path):
    def train(quantizer, steps):
        for step in steps:
            quantizer(clusters(100, seed=step))
        return quantizer

    whole = train(VectorQuantizer(8, 24, restart_below=2.0, seed=3).train(), range(8))
    torch.save(train(VectorQuantizer(8, 24, restart_below=2.0, seed=3).train(), range(4)).state_dict(), tmp_path / "q")
    resumed = VectorQuantizer(8, 24, restart_below=2.0, seed=3).train()
    resumed.load_state_dict(torch.load(tmp_path / "q", weights_only=True))
    train(resumed, range(4, 8))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: VectorQuantizer(4, 0), "codes=0"),
        (lambda: VectorQuantizer(4, 8, decay=1.0), r"decay.*1\.0"),
        (lambda: VectorQuantizer(4, 8, learning="sgd"), "learning='sgd'"),
        (lambda: ResidualVectorQuantizer(4, 8, 0), "layers.*0"),
        (lambda: ResidualVectorQuantizer(4, 8, 2, metric="cosine"), "metric must be 'l2'"),
        (lambda: ProductVectorQuantizer(10, 8, 3), "dim=10.*parts=3"),
        (lambda: FiniteScalarQuantizer([5, 1]), r"\[5, 1\]"),
    ],
)
def test_bad_arguments_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()


# ------------------------------------------------------------------------------------------------------- ranks

ROWS = {0: slice(0, 150), 1: slice(150, 180), 2: slice(180, 180)}  # uneven, and a rank with nothing


def _train_on_a_rank(rank: int) -> dict:
    quantizer = VectorQuantizer(8, 12, decay=0.5, restart_below=4.0).train()
    for step in range(5):
        x = clusters(180, seed=step)
        quantizer(x[ROWS[rank]])
    return quantizer.state_dict()


def test_every_rank_learns_the_codebook_of_the_joined_batch(tmp_path):
    states = results_of_ranks(_train_on_a_rank, tmp_path, len(ROWS))
    alone = VectorQuantizer(8, 12, decay=0.5, restart_below=4.0).train()
    for step in range(5):
        alone(clusters(180, seed=step))
    for name, value in alone.state_dict().items():
        for state in states:
            torch.testing.assert_close(state[name], states[0][name], atol=0, rtol=0)
        torch.testing.assert_close(states[0][name], value, atol=1e-5, rtol=1e-5)
