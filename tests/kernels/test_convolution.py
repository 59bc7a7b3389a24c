"""3x3 convolutions of small maps: every backend against PyTorch's in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.kernels import convolution_3x3, plain_operators, use_backend
from fusion.kernels.backends import BackendError, chosen
from fusion.kernels.convolution import convolution_3x3_backward, eager, native

# maps, channels, channels of the result, height, width: channels that fill vectors and that do not
SIZES = {
    "one pixel": (3, 4, 4, 1, 1),
    "one map": (1, 16, 16, 6, 6),
    "even": (5, 32, 48, 12, 12),
    "odd": (4, 17, 9, 7, 5),
    "one row": (3, 8, 8, 1, 9),
    "one column": (3, 8, 8, 8, 1),
    "wide": (2, 24, 8, 3, 31),
    "three pixels": (50, 40, 20, 3, 3),
    "no maps": (0, 8, 8, 4, 4),
}
LIKE_THE_ENCODER = (72, 128, 128, 12, 12)


def inputs(size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and a gradient of the result."""
    count, channels, out, height, width = size
    rng = torch.Generator().manual_seed(0)
    shapes = (count, channels, height, width), (out, channels, 3, 3), (count, out, height, width)
    x, weight, grad = (torch.randn(*shape, generator=rng).to(dtype) for shape in shapes)
    return x.contiguous(memory_format=torch.channels_last), weight / 12, grad


def results(run, x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """What ``run`` returns, and the gradients of x and the weight."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    out = run(x, weight)
    return [out.detach(), *torch.autograd.grad(out, (x, weight), grad)]


def plainly(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm().clamp_min(1e-300)) for a, b in zip(found, exact, strict=True)]


@pytest.fixture(params=["cpp", "eager"])
def backend(request):
    with use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("cpp", torch.float32), *(("eager", d) for d in (torch.float32, torch.bfloat16, torch.float16, torch.float64))],
)
def test_it_errs_at_most_twice_as_much_as_pytorch(size: str, backend: str, dtype: torch.dtype) -> None:
    given = inputs(SIZES[size], dtype)
    exact = results(plainly, *(t.double() for t in given))
    with use_backend(backend):
        found = results(convolution_3x3, *given)
    plain = results(plainly, *given)
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(found, plain, strict=True))
    # Sums of few numbers err less than the transforms of Winograd's round.
    least = 5e-7 if dtype == torch.float32 else 0.0
    for mine, others in zip(errors(found, exact), errors(plain, exact), strict=True):
        assert mine <= max(2 * others, least)


@pytest.mark.parametrize("side", [12, 6, 8])
def test_where_it_is_chosen_it_errs_no_more_than_twice(side: int) -> None:
    given = inputs((72 * 144 // side**2, 128, 128, side, side))
    exact = results(plainly, *(t.double() for t in given))
    found, plain = results(convolution_3x3, *given), results(plainly, *given)
    assert chosen()["convolution_3x3"] == chosen()["convolution_3x3_backward"] == "cpp"
    for mine, others in zip(errors(found, exact), errors(plain, exact), strict=True):
        assert mine <= 2 * others


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        ((72, 64, 64, 12, 12), torch.float32),  # few channels
        ((72, 128, 64, 12, 12), torch.float32),
        ((600, 128, 128, 3, 3), torch.float32),  # three pixels are four in tiles
        ((9, 128, 128, 12, 12), torch.float32),  # few tiles
        (LIKE_THE_ENCODER, torch.bfloat16),
        (LIKE_THE_ENCODER, torch.float64),
    ],
)
def test_what_is_faster_in_pytorch_is_left_to_it(size: tuple[int, ...], dtype: torch.dtype, caplog) -> None:
    x, weight, _ = inputs(size, dtype)
    convolution_3x3(x, weight)
    assert chosen()["convolution_3x3"] == "eager"
    assert not caplog.records  # nothing is amiss


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_refused_on_request(dtype: torch.dtype) -> None:
    x, weight, _ = inputs(SIZES["even"], dtype)
    with use_backend("cpp"), pytest.raises(BackendError, match=f"takes float32, not {dtype}"):
        convolution_3x3(x, weight)


def test_any_memory_format_and_views(backend: str) -> None:
    x, weight, grad = inputs(SIZES["odd"])
    expected = results(convolution_3x3, x, weight, grad)
    assert expected[0].is_contiguous(memory_format=torch.channels_last)
    assert expected[1].is_contiguous(memory_format=torch.channels_last)
    wide = torch.randn(4, 40, 9, 5)
    wide[:, 3:37:2, 2:] = x
    others = {
        "channels first": x.contiguous(),
        "a view": wide[:, 3:37:2, 2:],
    }
    for view in others.values():
        turned = weight.contiguous(memory_format=torch.channels_last)
        for found, wanted in zip(results(convolution_3x3, view, turned, grad), expected, strict=True):
            torch.testing.assert_close(found, wanted)


def test_slices_of_maps_add_up(monkeypatch, backend: str) -> None:
    given = inputs((7, 16, 24, 6, 6))
    whole = results(convolution_3x3, *given)
    monkeypatch.setattr(native, "_SLICE", 2 * given[0][:1].nbytes)
    for found, wanted in zip(results(convolution_3x3, *given), whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_again(threads: int) -> None:
    given = inputs(LIKE_THE_ENCODER)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, again = (results(convolution_3x3, *given) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("width", [1, 3, 6, 12, 23])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_maps_side_by_side_are_nobodys_neighbours(width: int, count: int) -> None:
    maps = torch.randn(count, 5, 4, width).contiguous(memory_format=torch.channels_last)
    (placed,) = eager.side_by_side(maps)
    beside = placed.shape[3] // (width + 1)
    cut = placed.unflatten(3, (beside, width + 1)).permute(0, 3, 1, 2, 4).flatten(0, 1)  # (rows*k, C, h, w + 1)
    assert torch.equal(cut[:count, ..., :width], maps)
    assert not cut[..., width].any()
    assert not cut[count:].any()
    assert placed.shape[3] >= min(24, count * (width + 1))


def test_bfloat16_takes_the_gradient_of_the_weight_of_maps_side_by_side(monkeypatch) -> None:
    calls = []
    usual = eager.side_by_side
    monkeypatch.setattr(eager, "side_by_side", lambda *maps: calls.append(1) or usual(*maps))
    results(convolution_3x3, *inputs(SIZES["even"], torch.bfloat16))
    assert len(calls) == 1
    results(convolution_3x3, *inputs(SIZES["even"]))
    results(convolution_3x3, *inputs(SIZES["wide"], torch.bfloat16))
    assert len(calls) == 1


def test_only_what_is_wanted(backend: str) -> None:
    x, weight, grad = inputs(SIZES["odd"])
    exact = results(plainly, x, weight, grad)
    for wanted in ([True, False], [False, True]):
        mine = x.clone().requires_grad_(wanted[0]), weight.clone().requires_grad_(wanted[1])
        convolution_3x3(*mine).backward(grad)
        for leaf, want, value in zip(mine, wanted, exact[1:], strict=True):
            assert (leaf.grad is not None) == want
            if want:
                torch.testing.assert_close(leaf.grad, value, rtol=1e-4, atol=1e-4)
    assert not convolution_3x3(x, weight).requires_grad


def test_the_backward_pass_alone(backend: str) -> None:
    x, weight, grad = inputs(SIZES["odd"])
    for found, wanted in zip(
        convolution_3x3_backward(grad, x, weight), results(plainly, x, weight, grad)[1:], strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_gradients_by_finite_differences() -> None:
    x, weight, _ = inputs((2, 3, 2, 3, 4), torch.float64)
    assert torch.autograd.gradcheck(convolution_3x3, (x.requires_grad_(), weight.requires_grad_()))


def test_operators_are_registered_as_torch_wants_them(backend: str) -> None:
    x, weight, grad = inputs(SIZES["odd"])
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    torch.library.opcheck(torch.ops.fusion.convolution_3x3.default, leaves)
    torch.library.opcheck(torch.ops.fusion.convolution_3x3_backward.default, (grad, x, weight, [True, True]))
    torch.library.opcheck(torch.ops.fusion.convolution_3x3_backward.default, (grad, x, weight, [True, False]))


def test_one_graph_and_autocast() -> None:
    x, weight, grad = inputs(SIZES["even"])
    compiled = torch.compile(convolution_3x3, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(
        results(compiled, x, weight, grad), results(convolution_3x3, x, weight, grad), strict=True
    ):
        torch.testing.assert_close(found, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        out, grad_x, grad_weight = results(convolution_3x3, x, weight, grad.bfloat16())
    assert out.dtype == torch.bfloat16
    assert grad_x.dtype == grad_weight.dtype == torch.float32
    torch.testing.assert_close(out.float(), plainly(x, weight), rtol=0.05, atol=0.05)


def test_a_backward_pass_inside_autocast() -> None:
    x, weight, grad = inputs(LIKE_THE_ENCODER)
    expected = results(convolution_3x3, x, weight, grad)
    x.requires_grad_()
    out = convolution_3x3(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        out.backward(grad)
    assert torch.equal(x.grad, expected[1])


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_a_precision_of_matrix_products_is_not_one_of_convolutions(precision: str) -> None:
    x, weight, grad = inputs(LIKE_THE_ENCODER)
    exact = results(plainly, *(t.double() for t in (x, weight, grad)))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        found = results(convolution_3x3, x, weight, grad)
        assert chosen()["convolution_3x3"] == chosen()["convolution_3x3_backward"] == "eager"
        with use_backend("cpp"), pytest.raises(BackendError, match="told to do in"):
            convolution_3x3(x, weight)
    finally:
        torch.set_float32_matmul_precision(before)
    assert max(errors(found, exact)) < 5e-6


def test_a_tracer_sees_pytorch() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return convolution_3x3(x, weight)

    x, weight, _ = inputs(SIZES["even"])
    with torch.no_grad(), plain_operators():
        program = torch.export.export(Layer(), (x, weight))
    assert not any("fusion" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x, weight), plainly(x, weight))


def test_batches_of_transforms() -> None:
    x, weight, _ = inputs(SIZES["odd"])
    batch = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.vmap(convolution_3x3, (0, None))(batch, weight), torch.stack([plainly(x, weight), plainly(2 * x, weight)])
    )


def test_no_second_and_no_forward_derivative() -> None:
    x, weight, _ = inputs((2, 3, 2, 3, 4), torch.float64)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.functional.hessian(lambda x: convolution_3x3(x, weight).square().sum(), x)
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda x: convolution_3x3(x, weight), (x,), (x,))


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ({"x": torch.ones(3, 4, 5)}, ValueError, r"x \(3, 4, 5\), want \(N, C, h, w\)"),
        ({"weight": torch.ones(8, 7, 3, 3)}, ValueError, r"weight \(8, 7, 3, 3\), want \(D, 17, 3, 3\)"),
        ({"weight": torch.ones(9, 17, 5, 5)}, ValueError, r"want \(D, 17, 3, 3\)"),
        ({"x": torch.ones(4, 17, 7, 5, dtype=torch.int64)}, TypeError, "must be floating point"),
        ({"x": None}, TypeError, "must be a torch.Tensor, got NoneType"),
        ({"weight": torch.ones(9, 17, 3, 3).double()}, TypeError, r"x is torch.float32, weight torch.float64"),
    ],
)
def test_refused_input(change: dict[str, Tensor], kind: type[Exception], told: str) -> None:
    x, weight, _ = inputs(SIZES["odd"])
    with pytest.raises(kind, match=f"convolution_3x3: .*{told}"):
        convolution_3x3(**{"x": x, "weight": weight} | change)
