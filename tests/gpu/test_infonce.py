"""Patch InfoNCE on a GPU: every dtype against float64, no worse than plain PyTorch in the same dtype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from fusion.kernels import patch_info_nce, use_backend
from fusion.kernels.infonce import reference


def _tokens(*shape: int, alike: float = 1.0) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(0)
    shared = torch.randn(shape[1:], generator=generator, device="cuda", dtype=torch.float64)
    return alike * shared + torch.randn(shape, generator=generator, device="cuda", dtype=torch.float64)


def _results(loss, tokens: Tensor, temperature: Tensor, **options) -> list[Tensor]:
    tokens = tokens.detach().clone().requires_grad_()
    temperature = temperature.detach().clone().requires_grad_()
    value, accuracy = loss(tokens, temperature=temperature, return_accuracy=True, **options)
    value.sum().backward()
    return [value.detach(), accuracy, tokens.grad, temperature.grad]


CASES = {
    "treesatai": ((3, 16, 36, 256), {}),
    "modality": ((4, 5, 13, 33), {"exclude": "modality"}),
    "self": ((2, 9, 100, 64), {"exclude": "self", "reduction": "sum"}),
    "missing": ((3, 5, 200, 24), {"missing": True}),
    "running maximum": ((2, 100, 1, 512), {"exclude": "modality", "temperature": 0.01}),
    "running maximum, missing": ((3, 4, 50, 40), {"temperature": 0.005, "missing": True}),
    "dot products": ((3, 4, 50, 40), {"normalize": False, "temperature": 1.0}),
    "alike": ((3, 8, 36, 256), {"alike": 10.0}),
    "one tile": ((3, 1, 36, 256), {}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_errs_at_most_twice_as_much_as_plain_pytorch(case: str, dtype: torch.dtype) -> None:
    shape, options = CASES[case]
    options = dict(options)
    tokens = _tokens(*shape, alike=options.pop("alike", 1.0)).to(dtype)
    temperature = torch.tensor(options.pop("temperature", 0.1), device="cuda")
    if options.pop("missing", False):
        options["valid"] = torch.rand(shape[:3], device="cuda", generator=torch.Generator("cuda").manual_seed(1)) > 0.3
    want = _results(reference.patch_info_nce, tokens.double(), temperature.double(), **options)
    plain = _results(reference.patch_info_nce, tokens, temperature, **options)
    with use_backend("triton"):
        got = _results(patch_info_nce, tokens, temperature, **options)
    # Where the loss saturates, plain PyTorch may be right by luck: one unit of rounding is always allowed.
    unit = torch.finfo(dtype).eps / temperature.item()
    for name, k, scale in (("loss", 0, 1.0), ("tokens", 2, float(want[2].abs().max())), ("temperature", 3, 1.0)):
        ours, theirs = ((x[k].double() - want[k]).square().mean().sqrt() for x in (got, plain))
        assert ours <= 2 * theirs + unit * scale, f"{name}: {ours:.2e}, plain PyTorch {theirs:.2e}"
    if dtype == torch.float32:
        torch.testing.assert_close(got[1], want[1].float(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("temperature", [0.1, 0.01])  # one shift for all rows, and a maximum for each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_large_enough_for_half_of_the_tiles(dtype: torch.dtype, temperature: float) -> None:
    """Without accuracy; the temperature is on the device, so that kernels of both kinds are launched."""
    tokens = _tokens(3, 32, 36, 256).to(dtype)
    temperature = torch.tensor(temperature, device="cuda")
    with use_backend("triton"):
        half, again = (patch_info_nce(tokens, temperature=temperature, reduction="none") for _ in range(2))
        whole, _ = patch_info_nce(tokens, temperature=temperature, reduction="none", return_accuracy=True)
    assert torch.equal(half, again)
    torch.testing.assert_close(half, whole, rtol=1e-5, atol=1e-5)
    assert (whole > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_wherever_the_temperature_lives(dtype: torch.dtype) -> None:
    tokens = _tokens(3, 20, 36, 128).to(dtype)
    on_host, on_device = torch.tensor(0.1), torch.tensor(0.1, device="cuda")
    with use_backend("triton"):
        first, second, third = (_results(patch_info_nce, tokens, t) for t in (on_host, on_host, on_device))
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a.cpu(), c.cpu())


def test_float64_and_others_run_by_the_automatic_choice() -> None:
    tokens = _tokens(2, 3, 4, 8)
    torch.testing.assert_close(patch_info_nce(tokens), reference.patch_info_nce(tokens))
    torch.testing.assert_close(patch_info_nce(tokens.float()), reference.patch_info_nce(tokens).float())


def test_compiles_in_one_graph_and_under_autocast() -> None:
    tokens = _tokens(3, 8, 36, 64).float().requires_grad_()
    loss = torch.compile(patch_info_nce, fullgraph=True)
    torch.testing.assert_close(loss(tokens), patch_info_nce(tokens))
    with torch.autocast("cuda", torch.bfloat16):
        value = patch_info_nce(tokens)
    assert value.dtype == torch.float32
    assert torch.equal(value, patch_info_nce(tokens.bfloat16()))


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
