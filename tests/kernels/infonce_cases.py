"""Cases of patch InfoNCE for the Triton kernels: the same on a GPU and, smaller, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fusion.kernels import patch_info_nce, use_backend
from fusion.kernels.infonce import reference

__all__ = ["CASES", "DTYPES", "arguments", "check", "compare", "results", "tokens_of"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """Tokens (M, B, P, D), for a GPU and for the interpreter, and the options of the loss."""

    shape: tuple[int, int, int, int]
    small: tuple[int, int, int, int]
    options: dict[str, Any] = field(default_factory=dict)
    temperature: float = 0.1
    alike: float = 1.0  # how much the modalities agree about a patch
    offset: float = 0.0  # added to every value: all tokens point the same way
    missing: float = 0.0  # share of tokens that were not observed
    strided: bool = False  # tokens are not contiguous


CASES = {
    "treesatai": Case((3, 16, 36, 256), (3, 2, 20, 16)),
    "modality": Case((4, 5, 13, 33), (2, 2, 20, 16), {"exclude": "modality"}),
    "self": Case((2, 9, 100, 64), (2, 3, 11, 24), {"exclude": "self", "reduction": "sum"}),
    "place": Case((3, 11, 36, 256), (3, 2, 17, 16), {"exclude": "place"}),
    "place, rows": Case((2, 9, 70, 64), (2, 3, 11, 24), {"exclude": "place", "reduction": "none"}),
    "place, one tile": Case((3, 1, 36, 256), (3, 1, 12, 16), {"exclude": "place"}),
    "place, running maximum": Case(
        (3, 9, 25, 300), (2, 3, 7, 16), {"exclude": "place"}, temperature=0.005, missing=0.3
    ),
    "place, alike": Case((3, 8, 36, 256), (2, 4, 6, 64), {"exclude": "place"}, alike=10.0, missing=0.1),
    "place, dot products": Case(
        (3, 4, 50, 33), (3, 3, 20, 33), {"exclude": "place", "normalize": False}, temperature=1.0, strided=True
    ),
    "rows": Case((3, 7, 50, 64), (2, 3, 11, 24), {"reduction": "none"}),
    "missing": Case((3, 5, 200, 24), (4, 3, 5, 10), missing=0.3),
    "nothing observed": Case((2, 2, 3, 24), (2, 2, 3, 24), missing=1.0),
    "running maximum": Case((2, 100, 1, 512), (2, 9, 1, 300), {"exclude": "modality"}, temperature=0.01),
    "running maximum, missing": Case((3, 4, 50, 33), (3, 3, 7, 16), temperature=0.005, missing=0.3),
    "dot products": Case((3, 4, 50, 33), (3, 3, 20, 33), {"normalize": False}, temperature=1.0),
    "alike": Case((3, 8, 36, 256), (2, 4, 6, 64), alike=10.0),
    "one direction": Case((3, 16, 36, 256), (2, 3, 11, 64), offset=5.0),
    "one tile": Case((3, 1, 36, 256), (3, 1, 36, 16)),
    "tiles wider than the kernels'": Case((2, 1, 1000, 24), (2, 1, 70, 8)),
    "wide tokens": Case((2, 9, 25, 768), (2, 2, 8, 300)),
    "strided": Case((3, 6, 36, 64), (3, 2, 9, 16), strided=True),
}


def tokens_of(case: Case, shape: tuple[int, ...], device: str) -> Tensor:
    """float64 tokens, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(shape[1:], generator=generator, dtype=torch.float64)
    x = case.offset + case.alike * shared + torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.to(device)


def results(loss: Any, tokens: Tensor, temperature: Tensor, **options: Any) -> list[Tensor]:
    """Loss, accuracy, and the gradients of the tokens and the temperature."""
    tokens = tokens.detach().requires_grad_()
    temperature = temperature.detach().clone().requires_grad_()
    value, accuracy = loss(tokens, temperature=temperature, return_accuracy=True, **options)
    weight = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype, device=value.device).reshape(value.shape)
    (value * weight).sum().backward()
    return [value.detach(), accuracy, tokens.grad, temperature.grad]


def check(name: str, dtype: torch.dtype, device: str, *, small: bool) -> None:
    """Errs at most twice as much as plain PyTorch in the same dtype, and gives the same bits twice."""
    tokens, temperature, options = arguments(name, dtype, device, small=small)
    with use_backend("triton"):
        got, again = (results(patch_info_nce, tokens, temperature, **options) for _ in range(2))
    for name_, first, second in zip(("loss", "accuracy", "tokens", "temperature"), got, again, strict=True):
        assert torch.equal(first.nan_to_num(-7.0), second.nan_to_num(-7.0)), f"{name_}: other bits the second time"
    compare(name, tokens, temperature, options, got)


def arguments(name: str, dtype: torch.dtype, device: str, *, small: bool) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Tokens, temperature and options of a case."""
    case = CASES[name]
    shape = case.small if small else case.shape
    tokens = tokens_of(case, shape, device).to(dtype)
    if case.strided:
        tokens = tokens.transpose(1, 2).contiguous().transpose(1, 2)
        assert not tokens.is_contiguous()
    options = dict(case.options)
    if case.missing:
        draw = torch.rand(shape[:3], generator=torch.Generator().manual_seed(1))
        options["valid"] = (draw >= case.missing).to(device)
    return tokens, torch.tensor(case.temperature, device=device), options


def compare(name: str, tokens: Tensor, temperature: Tensor, options: dict[str, Any], got: list[Tensor]) -> None:
    """Holds results against plain PyTorch in float64 and in the dtype of the tokens."""
    case, dtype = CASES[name], tokens.dtype
    want = results(reference.patch_info_nce, tokens.double(), temperature.double(), **options)
    plain = results(reference.patch_info_nce, tokens, temperature, **options)
    for name, k, unit in zip(("loss", "tokens", "temperature"), (0, 2, 3), _units(case, tokens, want), strict=True):
        assert got[k].dtype == plain[k].dtype or k == 0
        ours, theirs = ((x[k].double() - want[k]).square().mean().sqrt() for x in (got, plain))
        assert ours <= 2 * theirs + torch.finfo(dtype).eps * unit, f"{name}: {ours:.2e}, plain PyTorch {theirs:.2e}"
    if dtype == torch.float32:  # rounded tokens may rank otherwise
        torch.testing.assert_close(got[1].double(), want[1], rtol=0, atol=2e-3, equal_nan=True)


def _units(case: Case, tokens: Tensor, want: list[Tensor]) -> tuple[float, float, float]:
    """What one unit of rounding of a similarity over the temperature does to loss and gradients.

    Plain PyTorch may be right by luck, as where the loss saturates; this much is always allowed. A gradient is at
    least that of one softmax entry, which the loss of a saturated row has lost.
    """
    steepness = 1 / case.temperature
    entry = steepness / float(tokens.double().norm(dim=-1).mean())
    if case.options.get("reduction", "mean") == "mean":
        entry /= tokens[..., 0].numel()
    loss, of_tokens, of_temperature = (float(want[k].abs().max()) for k in (0, 2, 3))
    slope = steepness**2  # of a similarity over the temperature, times how large similarities are
    if not case.options.get("normalize", True):
        slope *= float(tokens.double().square().sum(-1).mean())
    return max(steepness, loss), steepness * max(of_tokens, entry), max(slope, steepness * of_temperature)
