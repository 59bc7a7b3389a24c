"""Relative-position attention on a GPU: every dtype against float64, no worse than plain PyTorch in the same dtype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from fusion.compat.irpe import rpe_index
from fusion.kernels import RelativeAttention, euclidean_buckets, relative_attention, use_backend
from fusion.kernels.attention import reference

HALF = (torch.bfloat16, torch.float16)
# B, H, Lq, Lk, D, grid side, modalities and options.
CASES = {
    "treesatai": (4, 16, 109, 109, 16, 6, {}),
    "treesatai cross": (4, 16, 37, 109, 16, 6, {"broadcast": True}),
    "flair": (2, 16, 201, 201, 16, 10, {"masked": True}),
    "pastis": (1, 4, 3073, 3073, 16, 32, {}),
    "pastis cross": (1, 4, 1025, 3073, 16, 32, {"masked": True, "broadcast": True}),
    "dropout": (3, 4, 201, 109, 16, 10, {"dropout": 0.2, "masked": True}),
    "bias": (2, 4, 101, 201, 32, 10, {"mode": "bias", "shared": False}),
    "odd head": (2, 3, 37, 73, 13, 6, {"shared": False}),
    "wide head": (1, 2, 101, 101, 64, 10, {"dropout": 0.1}),
    "widest head": (1, 2, 37, 37, 128, 6, {}),
    "one token": (2, 2, 1, 1, 8, 1, {}),
}


def _inputs(name: str) -> tuple[list[Tensor], Tensor, dict, dict]:
    """query, key, value, table in float64, the gradient of the output, and the options of op and definition."""
    batch, heads, queries, keys, dim, side, options = CASES[name]
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda", dtype=torch.float64)

    table = (1 if options.get("shared", True) else heads, dim, 8)
    mode = options.get("mode", "contextual")
    tensors = [
        normal(1 if options.get("broadcast") else batch, heads, queries, dim),
        *(normal(batch, heads, keys, dim) for _ in range(2)),
        normal(*(table if mode == "contextual" else table[::2])),
    ]
    patches = torch.arange(max(queries, keys) - 1, device="cuda") % (side * side)
    position = torch.cat([torch.zeros(1, dtype=torch.long, device="cuda"), 1 + patches])
    common = {
        "bucket": euclidean_buckets(side, side).cuda(),
        "query_position": position[:queries],
        "key_position": position[:keys],
        "key_valid": None,
        "dropout_p": options.get("dropout", 0.0),
    }
    if options.get("masked"):
        common["key_valid"] = torch.rand(batch, keys, generator=generator, device="cuda") > 0.3
        common["key_valid"][-1] = False
    return tensors, normal(batch, heads, queries, dim), common, {"mode": mode}


def _results(attention, tensors: list[Tensor], gradient: Tensor, dtype: torch.dtype, **options) -> list[Tensor]:
    *operands, table = tensors
    operands = [t.to(dtype).requires_grad_() for t in (t.detach() for t in operands)]
    table = table.detach().to(torch.float32 if dtype in HALF else dtype).requires_grad_()
    torch.manual_seed(0)
    if attention is reference.relative_attention:
        seed = torch.randint(0, 2**62, (1,), device="cuda", dtype=torch.int64)
        options |= {"seed": seed, "scale": operands[0].shape[-1] ** -0.5}
    output = attention(*operands, table=table, **options)
    output.backward(gradient.to(dtype))
    return [output.detach(), *(t.grad for t in operands), table.grad]


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_errs_at_most_twice_as_much_as_plain_pytorch(case: str, dtype: torch.dtype) -> None:
    tensors, gradient, common, mode = _inputs(case)
    want = _results(reference.relative_attention, tensors, gradient, torch.float64, **common)
    plain = _results(reference.relative_attention, tensors, gradient, dtype, **common)
    for backend in ("triton", "eager"):
        with use_backend(backend):
            got = _results(relative_attention, tensors, gradient, dtype, **common, **mode)
            again = _results(relative_attention, tensors, gradient, dtype, **common, **mode)
        for name, g, a, p, w in zip(("output", "query", "key", "value", "table"), got, again, plain, want, strict=True):
            assert torch.equal(g, a), f"{backend} {name}: other bits the second time"
            ours, theirs = (float((x.double() - w).square().mean().sqrt()) for x in (g, p))
            if w.abs().max() < 1e-6:  # zero because terms cancel: plain PyTorch may hit it exactly
                theirs = 2 * torch.finfo(dtype).eps
            assert ours <= 2 * theirs, f"{backend} {name}: {ours:.2e}, plain PyTorch {theirs:.2e}"


def test_masked_tile_gives_zeros_and_no_gradient() -> None:
    tensors, gradient, common, _ = _inputs("flair")
    with use_backend("triton"):
        output, *gradients, _ = _results(relative_attention, tensors, gradient, torch.float32, **common)
    for tensor in (output, *gradients):
        assert tensor[-1].abs().max() == 0
        assert torch.isfinite(tensor).all()


def test_dropout_is_the_same_mask_on_every_device() -> None:
    tensors, _, common, _ = _inputs("dropout")
    seed = torch.tensor([12345])
    position = common["query_position"], common["key_position"], common["key_valid"]
    arguments = [t.float() for t in tensors] + [common["bucket"], *position]
    outputs = []
    for device in ("cpu", "cuda"):
        moved = [t.to(device) for t in (*arguments, seed)]
        outputs.append(torch.ops.fusion.relative_attention(*moved, 0.2, 0.25)[0].cpu())
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)


def test_automatic_choice_takes_many_buckets_too() -> None:
    """More buckets than the GPU kernels add gradients up for: eager, and the same numbers as on the CPU."""
    torch.manual_seed(0)
    bucket = torch.randint(100, (40, 40))
    inputs = [torch.randn(2, 2, 40, 16) for _ in range(3)] + [torch.randn(1, 16, 100)]
    results = []
    for device in ("cpu", "cuda"):
        *operands, table = (t.detach().to(device).requires_grad_() for t in inputs)
        output = relative_attention(*operands, table=table, bucket=bucket.to(device))
        output.square().sum().backward()
        results.append([output.cpu(), table.grad.cpu()])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)


def test_compiles_and_autocasts() -> None:
    layer = RelativeAttention(64, 4, euclidean_buckets(6, 6), dropout=0.1).cuda()
    tokens = torch.randn(3, 37, 64, device="cuda")
    compiled = torch.compile(layer, fullgraph=True)
    with torch.autocast("cuda", torch.bfloat16):
        output = compiled(tokens)
        output.float().square().sum().backward()
    assert output.dtype == torch.bfloat16
    assert torch.isfinite(layer.table.grad).all()
    layer.eval()
    torch.testing.assert_close(compiled(tokens), layer(tokens))


def test_memory_does_not_grow_with_the_square() -> None:
    position = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.arange(1024).repeat(3)]).cuda()
    query, key, value = (torch.randn(2, 16, 3073, 16, device="cuda", requires_grad=True) for _ in range(3))
    options = dict(bucket=euclidean_buckets(32, 32).cuda(), query_position=position, key_position=position)
    table = torch.randn(1, 16, 8, device="cuda", requires_grad=True)
    with use_backend("triton"):
        relative_attention(query, key, value, table=table, **options).sum().backward()  # compiles
        query.grad = key.grad = value.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        relative_attention(query, key, value, table=table, **options).sum().backward()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra <= 12 * query.nbytes  # one map of the logits would be 96 times a query


def test_index_operator_is_deterministic() -> None:
    values = torch.randn(8, 4, 109, 8, device="cuda", requires_grad=True)
    index = torch.randint(8, (109, 109), device="cuda")
    gradient = torch.randn(8, 4, 109, 109, device="cuda")
    first, second = (torch.autograd.grad(rpe_index(values, index), values, gradient)[0] for _ in range(2))
    assert torch.equal(first, second)
    expected = torch.zeros(8, 4, 109, 8, device="cuda", dtype=torch.float64)
    expected.scatter_add_(3, index.expand(8, 4, -1, -1), gradient.double())
    torch.testing.assert_close(first.double(), expected, rtol=1e-4, atol=1e-4)
