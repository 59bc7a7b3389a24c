"""Patch InfoNCE on a GPU: every dtype against float64, no worse than plain PyTorch in the same dtype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from fusion.kernels import patch_info_nce, use_backend
from fusion.kernels.infonce import reference
from fusion.kernels.infonce.triton import plan

from ..kernels.infonce_cases import CASES, DTYPES, check, results


def _tokens(*shape: int, alike: float = 1.0) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(0)
    shared = torch.randn(shape[1:], generator=generator, device="cuda", dtype=torch.float64)
    return alike * shared + torch.randn(shape, generator=generator, device="cuda", dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_errs_at_most_twice_as_much_as_plain_pytorch(case: str, dtype: torch.dtype) -> None:
    check(case, dtype, "cuda", small=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", ["treesatai", "missing", "wide tokens", "running maximum"])
def test_tiles_of_the_other_architecture(case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of sm_86 run on every GPU; what they compute does not depend on where."""
    monkeypatch.setattr(plan, "architecture", lambda device: 86)
    plan.plan_for.cache_clear()
    try:
        check(case, dtype, "cuda", small=False)
    finally:
        plan.plan_for.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_batch_of_the_paper(dtype: torch.dtype) -> None:
    """Sums of 13,824 terms on tensor cores, which cut off what they add, are as exact as PyTorch."""
    tokens, temperature = _tokens(3, 128, 36, 256).to(dtype), torch.tensor(0.1, device="cuda")
    want, plain = (
        results(reference.patch_info_nce, x, temperature.to(x.dtype)) for x in (tokens.double(), tokens.float())
    )
    if dtype != torch.float32:
        plain = results(reference.patch_info_nce, tokens, temperature)
    with use_backend("triton"):
        got = results(patch_info_nce, tokens, temperature)
    for k in (0, 2, 3):
        ours, theirs = ((x[k].double() - want[k]).square().mean().sqrt() for x in (got, plain))
        slack = torch.finfo(dtype).eps * (float(want[k].abs().max()) if k == 2 else 10.0 if k == 0 else 100.0)
        assert ours <= 2 * theirs + slack, f"{k}: {ours:.2e}, plain PyTorch {theirs:.2e}"


@pytest.mark.parametrize("exclude", ["tile", "place"])
@pytest.mark.parametrize("temperature", [0.1, 0.02])  # one shift for all rows, and a maximum for each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [256, 512])
def test_a_batch_large_enough_for_half_of_the_tiles(
    dtype: torch.dtype, temperature: float, dim: int, exclude: str
) -> None:
    """Without accuracy; the temperature is on the device, so that kernels of both kinds are launched."""
    tokens = _tokens(3, 32, 36, dim).to(dtype)
    temperature = torch.tensor(temperature, device="cuda")
    options = {"temperature": temperature, "exclude": exclude, "reduction": "none"}
    with use_backend("triton"):
        half, again = (patch_info_nce(tokens, **options) for _ in range(2))
        whole, _ = patch_info_nce(tokens, **options, return_accuracy=True)
    assert torch.equal(half, again)
    torch.testing.assert_close(half, whole, rtol=1e-5, atol=1e-5)
    want = reference.patch_info_nce(tokens.double(), **options | {"temperature": temperature.double()})
    assert (half - want).abs().max() < (1e-4 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits_wherever_the_temperature_lives(dtype: torch.dtype) -> None:
    tokens = _tokens(3, 20, 36, 128).to(dtype)
    on_host, on_device = torch.tensor(0.1), torch.tensor(0.1, device="cuda")
    with use_backend("triton"):
        first, second, third = (results(patch_info_nce, tokens, t) for t in (on_host, on_host, on_device))
        number = patch_info_nce(tokens, temperature=0.1)
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a.cpu(), c.cpu())
    assert torch.equal(number, first[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_twenty_runs_give_the_same_bits(dtype: torch.dtype) -> None:
    tokens = _tokens(3, 24, 36, 256).to(dtype).requires_grad_()
    with use_backend("triton"):
        runs = [torch.autograd.grad(patch_info_nce(tokens), tokens)[0] for _ in range(20)]
    assert all(torch.equal(run, runs[0]) for run in runs)


def test_float64_and_others_run_by_the_automatic_choice() -> None:
    tokens = _tokens(2, 3, 4, 8)
    torch.testing.assert_close(patch_info_nce(tokens), reference.patch_info_nce(tokens))
    torch.testing.assert_close(patch_info_nce(tokens.float()), reference.patch_info_nce(tokens).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_cuda_graph_replays_on_new_tokens(dtype: torch.dtype) -> None:
    tokens = _tokens(3, 32, 36, 64).to(dtype).requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        loss = patch_info_nce(tokens)
        return loss.detach(), torch.autograd.grad(loss, tokens)[0]

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, gradient = step()
    with torch.no_grad():
        tokens.copy_(_tokens(3, 32, 36, 64, alike=2.0))
    graph.replay()
    for captured, now in zip((loss, gradient), step(), strict=True):
        assert torch.equal(captured, now)


def test_streams_do_not_disturb_each_other() -> None:
    inputs = [_tokens(3, 24, 36, 128, alike=a).bfloat16() for a in (1.0, 2.0)]
    alone = [patch_info_nce(x, reduction="none") for x in inputs]
    torch.cuda.synchronize()
    streams, beside = [torch.cuda.Stream() for _ in inputs], [[], []]
    for _ in range(10):
        for x, stream, out in zip(inputs, streams, beside, strict=True):
            with torch.cuda.stream(stream):
                out.append(patch_info_nce(x, reduction="none"))
    torch.cuda.synchronize()
    for want, out in zip(alone, beside, strict=True):
        assert all(torch.equal(want, x) for x in out)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_another_gpu_than_the_current_one() -> None:
    tokens = _tokens(3, 8, 36, 64).float()
    here, there = patch_info_nce(tokens), patch_info_nce(tokens.to("cuda:1"))
    torch.testing.assert_close(here, there.to(here.device))


def test_memory_grows_with_n_not_with_its_square() -> None:
    tokens = _tokens(3, 128, 36, 256).bfloat16().requires_grad_()
    with use_backend("triton"):
        patch_info_nce(tokens).backward()
        tokens.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        patch_info_nce(tokens).backward()
    # Gradient 7 MiB, f 7, partial gradients of up to 8 splits at 13.5 each; the matrix in bfloat16 is 364 MiB.
    assert torch.cuda.max_memory_allocated() - before < 150 * 2**20


def test_the_loss_is_not_biased() -> None:
    """Truncated products err to one side; rounded ones do not."""
    tokens = _tokens(3, 64, 36, 256, alike=3.0).float()
    with use_backend("triton"):
        rows = patch_info_nce(tokens, reduction="none")
    error = rows.double() - reference.patch_info_nce(tokens.double(), reduction="none")
    assert error.mean().abs() < 1e-6


def test_compiles_in_one_graph_and_under_autocast() -> None:
    tokens = _tokens(3, 8, 36, 64).float().requires_grad_()
    loss = torch.compile(patch_info_nce, fullgraph=True)
    torch.testing.assert_close(loss(tokens), patch_info_nce(tokens))
    with torch.autocast("cuda", torch.bfloat16):
        value = patch_info_nce(tokens)
    assert value.dtype == torch.float32
    assert torch.equal(value, patch_info_nce(tokens.bfloat16()))
