"""Patch InfoNCE: every backend against the float64 definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fusion.kernels import PatchInfoNCE, patch_info_nce, patch_info_nce_ragged
from fusion.kernels.infonce import reference
from fusion.kernels.infonce.layout import dense_layout, dense_order


def _tokens(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0, alike: float = 1.0) -> Tensor:
    """Tokens (M, B, P, D) whose modalities agree about the patches, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(shape[1:], generator=generator, dtype=torch.float64)
    return (alike * shared + torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def _gradients(loss, tokens: Tensor, temperature: float, **options) -> list[Tensor]:
    """Loss, accuracy, and gradients of the tokens and the temperature."""
    tokens = tokens.detach().clone().requires_grad_()
    t = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    value, accuracy = loss(tokens, temperature=t, return_accuracy=True, **options)
    weight = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    (value * weight).sum().backward()
    return [value.detach(), accuracy, tokens.grad, t.grad]


def _agree(tokens: Tensor, temperature: float = 0.1, *, loss: float, gradient: float, **options) -> None:
    """Bounds are relative to the largest entry of the float64 result, or to its scale where the loss saturates."""
    length = float(tokens.double().norm(dim=-1).mean())
    scales = (1.0, 0.0, 1 / (temperature * length * tokens[..., 0].numel()), 1 / temperature)
    got = _gradients(patch_info_nce, tokens, temperature, **options)
    want = _gradients(reference.patch_info_nce, tokens.double(), temperature, **options)
    names, bounds = ("loss", "accuracy", "tokens", "temperature"), (loss, 1e-7, gradient, gradient)
    for name, g, w, bound, scale in zip(names, got, want, bounds, scales, strict=True):
        if name == "accuracy" and tokens.dtype in (torch.bfloat16, torch.float16):
            continue  # rounded tokens may rank otherwise
        assert g.shape == w.shape
        worst = bound * max(float(w.abs().max()), scale)
        torch.testing.assert_close(g.double(), w, rtol=0, atol=worst, equal_nan=True)


EXCLUDE = ["tile", "self", "modality", "place"]


@pytest.mark.parametrize("exclude", EXCLUDE)
@pytest.mark.parametrize("mask", [None, 2, 3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_float64_is_the_definition(backend: str, exclude: str, mask: int | None, reduction: str) -> None:
    shape = (3, 4, 5)
    valid = None if mask is None else torch.rand(shape[:mask], generator=torch.Generator().manual_seed(1)) > 0.3
    options = {"exclude": exclude, "valid": valid, "reduction": reduction}
    _agree(_tokens(*shape, 7), 0.3, loss=1e-12, gradient=1e-12, **options)
    _agree(_tokens(*shape, 7), 0.3, loss=1e-12, gradient=1e-12, normalize=False, **options)


@pytest.mark.parametrize(
    "shape",
    [(3, 9, 36, 256), (2, 7, 100, 64), (4, 5, 13, 33), (3, 1, 36, 16), (2, 65, 1, 48), (2, 1, 1, 3), (3, 2, 200, 8)],
    ids=str,
)
@pytest.mark.parametrize("exclude", EXCLUDE)
def test_float32_on_ragged_sizes(backend: str, shape: tuple[int, ...], exclude: str) -> None:
    _agree(_tokens(*shape, dtype=torch.float32), exclude=exclude, loss=2e-6, gradient=2e-5)


@pytest.mark.parametrize("exclude", ["tile", "place"])
@pytest.mark.parametrize("alike", [1.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_errs_at_most_twice_as_much_as_plain_pytorch(
    backend: str, dtype: torch.dtype, alike: float, exclude: str
) -> None:
    if (backend, dtype) == ("cpp", torch.float16):
        pytest.skip("the C++ backend leaves float16 to eager")
    tokens = _tokens(3, 6, 36, 64, dtype=dtype, alike=alike)
    want = _gradients(reference.patch_info_nce, tokens.double(), 0.1, exclude=exclude)
    got = _gradients(patch_info_nce, tokens, 0.1, exclude=exclude)
    plain = _gradients(reference.patch_info_nce, tokens, 0.1, exclude=exclude)
    for k in (0, 2, 3):
        ours, theirs = ((x[k].double() - want[k]).square().mean().sqrt() for x in (got, plain))
        size = want[k].square().mean().sqrt() + (0 if k == 2 else 10)  # of logits up to 1 / temperature
        luck = torch.finfo(torch.float32).eps * size  # of plain PyTorch, which differs between processors
        assert ours <= 2 * theirs + luck
    assert got[0].dtype == torch.float32
    assert got[2].dtype == dtype


@pytest.mark.parametrize("exclude", ["tile", "place"])
@pytest.mark.parametrize("temperature", [0.005, 0.02, 0.07, 1.0, 10.0])
@pytest.mark.parametrize("alike", [0.0, 10.0])
def test_temperatures(backend: str, temperature: float, alike: float, exclude: str) -> None:
    tokens = _tokens(3, 5, 20, 24, dtype=torch.float32, alike=alike)
    # Similarities are divided by the temperature, and with them float32's rounding of the cosines.
    bounds = {"loss": 3e-6 + 3e-7 / temperature, "gradient": 1e-5 + 5e-6 / temperature}
    _agree(tokens, temperature, exclude=exclude, **bounds)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_unnormalised_vectors_of_any_size(backend: str, size: float) -> None:
    tokens = _tokens(3, 4, 10, 16, dtype=torch.float32)
    tokens = size * tokens / tokens.norm(dim=-1, keepdim=True)
    _agree(tokens, 0.5, normalize=False, loss=1e-5, gradient=2e-4 if size > 1 else 1e-5)
    _agree(tokens, 0.5, normalize=True, loss=2e-6, gradient=2e-5)


@pytest.mark.parametrize("exclude", EXCLUDE)
def test_rows_without_positives_are_left_out(backend: str, exclude: str) -> None:
    tokens = _tokens(2, 3, 4, 8)
    valid = torch.ones(2, 3, dtype=torch.bool)
    valid[1, 0] = False  # tile 0 has one modality: negative for others, anchor of nothing
    rows = patch_info_nce(tokens, valid=valid, exclude=exclude, reduction="none")
    assert (rows[:, 0] == 0).all()
    assert (rows[:, 1:] > 0).all()
    torch.testing.assert_close(patch_info_nce(tokens, valid=valid, exclude=exclude), rows[:, 1:].mean())
    _agree(tokens, valid=valid, exclude=exclude, loss=1e-12, gradient=1e-12)


@pytest.mark.parametrize("exclude", EXCLUDE)
def test_nothing_to_compare_gives_zero(backend: str, exclude: str) -> None:
    for tokens, valid in [
        (_tokens(3, 2, 4, 8), torch.zeros(3, 2, dtype=torch.bool)),
        (_tokens(1, 2, 4, 8), None),
        (torch.empty(3, 0, 4, 8), None),
        (torch.empty(0, 3, 4, 8), None),
    ]:
        tokens = tokens.requires_grad_()
        loss, accuracy = patch_info_nce(tokens, valid=valid, exclude=exclude, return_accuracy=True)
        loss.backward()
        assert loss == 0
        assert accuracy.isnan()
        assert (tokens.grad == 0).all()


@pytest.mark.parametrize("exclude", ["tile", "place"])
def test_unobserved_tokens_count_for_nothing_whatever_they_hold(backend: str, exclude: str) -> None:
    tokens = _tokens(3, 4, 5, 8, dtype=torch.float32)
    valid = torch.ones(3, 4, 5, dtype=torch.bool)
    valid[0, 1], valid[2, :, 3] = False, False
    options = {"valid": valid, "exclude": exclude}
    want = _gradients(patch_info_nce, tokens, 0.1, **options)
    got = _gradients(patch_info_nce, tokens.masked_fill(~valid[..., None], torch.nan), 0.1, **options)
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)
    assert (got[2][~valid] == 0).all()


def test_equal_tokens_score_nothing(backend: str) -> None:
    loss, accuracy = patch_info_nce(torch.ones(3, 2, 3, 8), return_accuracy=True)
    assert math.isclose(loss.item(), math.log(15 / 2), rel_tol=1e-6)
    assert accuracy == 0  # a tie is a miss


def test_tokens_of_length_zero(backend: str) -> None:
    tokens = _tokens(3, 3, 4, 8, dtype=torch.float32)
    tokens[0, 0] = 0
    _agree(tokens, loss=2e-6, gradient=2e-5)
    assert (_gradients(patch_info_nce, tokens, 0.1)[2][0, 0] == 0).all()


def test_accuracy_counts_anchors_whose_nearest_token_is_a_positive(backend: str) -> None:
    tokens = torch.eye(12).reshape(1, 3, 4, 12).repeat(2, 1, 1, 1)
    assert patch_info_nce(tokens, return_accuracy=True)[1] == 1
    tokens[1, 0, 0] = tokens[0, 1, 1]  # this pair is lost, and so is the pair of the token it now equals
    assert patch_info_nce(tokens, return_accuracy=True)[1] == 20 / 24
    value = patch_info_nce(_tokens(3, 40, 6, 16, dtype=torch.float32, alike=0.7), return_accuracy=True)[1]
    want = reference.patch_info_nce(
        _tokens(3, 40, 6, 16, dtype=torch.float32, alike=0.7).double(), return_accuracy=True
    )
    assert 0 < value < 1
    assert value == want[1].float()


def test_ragged_mix(backend: str) -> None:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(151, 9, generator=generator, dtype=torch.float64)
    modality, tile, patch = (torch.randint(0, n, (151,), generator=generator) - 1 for n in (4, 5, 6))
    valid = torch.rand(151, generator=generator) > 0.2  # some patches are seen twice by one modality
    for exclude in EXCLUDE:
        for reduction in ("mean", "none"):
            results = []
            for f in (patch_info_nce_ragged, reference.patch_info_nce_ragged):
                x = tokens.clone().requires_grad_()
                loss, accuracy = f(
                    x, modality, tile, patch, valid=valid, exclude=exclude, reduction=reduction, return_accuracy=True
                )
                loss.square().sum().backward()
                results.append((loss.detach(), accuracy, x.grad))
            for g, w in zip(*results, strict=True):
                torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("exclude", ["tile", "place"])
def test_strided_and_expanded_input(backend: str, exclude: str) -> None:
    loss = PatchInfoNCE(exclude=exclude, reduction="none")
    tokens = _tokens(3, 4, 5, 8, dtype=torch.float32)
    assert torch.equal(loss(tokens.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0)), loss(tokens))
    assert torch.equal(loss(tokens.transpose(0, 1).contiguous().transpose(0, 1)), loss(tokens))
    one = _tokens(1, 4, 5, 8, dtype=torch.float32)
    assert torch.equal(loss(one.expand(3, -1, -1, -1)), loss(one.repeat(3, 1, 1, 1)))


@pytest.mark.parametrize("exclude", ["tile", "place"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_two_runs_give_the_same_bits(backend: str, dtype: torch.dtype, exclude: str) -> None:
    tokens = _tokens(3, 11, 36, 40, dtype=dtype)
    valid = torch.rand(3, 11, generator=torch.Generator().manual_seed(2)) > 0.1
    first, second = (_gradients(patch_info_nce, tokens, 0.1, valid=valid, exclude=exclude) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gradcheck(backend: str) -> None:
    tokens = _tokens(3, 2, 3, 4).requires_grad_()
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True, True], [True, False], [True, True]])
    for exclude in EXCLUDE:
        for normalize in (True, False):

            def loss(x: Tensor, t: Tensor, exclude: str = exclude, normalize: bool = normalize) -> Tensor:
                return patch_info_nce(x, temperature=t, valid=valid, exclude=exclude, normalize=normalize)

            assert torch.autograd.gradcheck(loss, (tokens, temperature))


@pytest.mark.parametrize("exclude", ["tile", "place"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(backend: str, dtype: torch.dtype, exclude: str) -> None:
    tokens = dense_order(_tokens(2, 3, 4, 8, dtype=dtype), exclude)
    layout, place = dense_layout((2, 3, 4), exclude, None, tokens.device), exclude == "place"
    op = torch.ops.fusion.patch_info_nce_forward
    for temperature in ((torch.tensor(0.1), 0.0), (torch.tensor(0.1, requires_grad=True), 0.0), (None, 0.1)):
        torch.library.opcheck(op, (tokens.requires_grad_(), *layout, None, *temperature, True, True, place))
    torch.library.opcheck(op, (tokens.detach(), *layout, torch.arange(3), None, 0.1, False, False, place))


@pytest.mark.parametrize("exclude", ["tile", "place"])
def test_compiles_in_one_graph(backend: str, exclude: str) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def loss(tokens: Tensor, valid: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        return patch_info_nce(tokens, temperature=temperature, valid=valid, exclude=exclude, return_accuracy=True)

    module = PatchInfoNCE(0.2, learn_temperature=True, exclude=exclude)
    module = torch.compile(module, fullgraph=True, backend="aot_eager")
    for tiles in (3, 5):
        tokens, valid = _tokens(3, tiles, 4, 8), torch.rand(3, tiles) > 0.1
        x, t = tokens.clone().requires_grad_(), torch.tensor(0.1, requires_grad=True)
        value, accuracy = loss(x, valid, t)
        value.backward()
        x_plain, t_plain = tokens.clone().requires_grad_(), torch.tensor(0.1, requires_grad=True)
        plain = patch_info_nce(x_plain, temperature=t_plain, valid=valid, exclude=exclude, return_accuracy=True)
        plain[0].backward()
        got = (value.detach(), accuracy, x.grad, t.grad)
        for g, w in zip(got, (plain[0].detach(), plain[1], x_plain.grad, t_plain.grad), strict=True):
            torch.testing.assert_close(g, w)
        want = reference.patch_info_nce(tokens, temperature=0.2, exclude=exclude)
        torch.testing.assert_close(module(tokens), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("exclude", ["tile", "place"])
def test_inductor_runs_it(exclude: str) -> None:
    """The default compiler checks more of an operator than tracing does, such as the alignment of its results."""
    tokens = _tokens(3, 3, 5, 8, dtype=torch.float32).requires_grad_()
    loss = torch.compile(patch_info_nce, fullgraph=True)(tokens, exclude=exclude)
    loss.backward()
    torch.testing.assert_close(loss, reference.patch_info_nce(tokens, exclude=exclude))


@pytest.mark.parametrize("exclude", ["tile", "place"])
def test_ragged_compiles_in_one_graph(exclude: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(30, 4, generator=generator)
    labels = [torch.randint(0, 3, (30,), generator=generator) for _ in range(3)]
    compiled = torch.compile(patch_info_nce_ragged, fullgraph=True, backend="aot_eager")
    want = reference.patch_info_nce_ragged(tokens, *labels, exclude=exclude)
    torch.testing.assert_close(compiled(tokens, *labels, exclude=exclude), want)


@pytest.mark.parametrize("exclude", ["tile", "place"])
def test_autocast_multiplies_in_its_dtype_and_sums_in_float32(backend: str, exclude: str) -> None:
    tokens = _tokens(3, 4, 5, 16, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = patch_info_nce(tokens, exclude=exclude)
    loss.backward()
    assert loss.dtype == torch.float32
    assert tokens.grad.dtype == torch.float32
    assert torch.equal(loss, patch_info_nce(tokens.bfloat16(), exclude=exclude))


def test_module_learns_its_temperature() -> None:
    loss = PatchInfoNCE(0.2, learn_temperature=True, return_accuracy=True)
    tokens = _tokens(2, 3, 4, 8, dtype=torch.float32)
    value, accuracy = loss(tokens)
    value.backward()
    assert torch.allclose(value, patch_info_nce(tokens, temperature=0.2))
    assert loss.log_temperature.grad != 0
    assert 0 <= accuracy <= 1


def test_golden_numbers_of_the_original(golden, backend: str) -> None:
    cases = golden("omnisat")["contrastive"]
    names = {"MILNCE": "tile", "naive": "self", "nointra": "modality"}
    for key, numbers in cases.items():
        if not key.startswith("M=") or "MILNCE" not in numbers:
            continue
        m, b, p, d = (int(part.partition("=")[2]) for part in key.split(","))
        for name, exclude in names.items():
            loss = patch_info_nce(_golden_tokens(m, b, p, d), exclude=exclude)
            assert abs(loss.item() - numbers[name]) < 5e-6
    tokens = _golden_tokens(3, 2, 3, 4).requires_grad_()
    patch_info_nce(tokens).backward()
    gradients = cases["gradient M=3,B=2,P=3,D=4"]
    for m, name in enumerate(("aerial", "s2", "s1-asc")):
        torch.testing.assert_close(tokens.grad[m].flatten(), torch.tensor(gradients[name]), rtol=0, atol=5e-6)


def _golden_tokens(m: int, b: int, p: int, d: int) -> Tensor:
    index = torch.arange(b * p * d, dtype=torch.float32).reshape(b, p, d)
    return torch.stack([torch.sin(0.1 * index * (k + 1) + k) for k in range(m)])


def test_second_derivative_is_refused() -> None:
    tokens = _tokens(2, 2, 2, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(patch_info_nce(tokens), tokens, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tokens": torch.zeros(3, 4, 5)}, ValueError, r"\(M, B, P, D\).*\(3, 4, 5\)"),
        ({"tokens": torch.zeros(3, 4, 5, 6, dtype=torch.int32)}, TypeError, "int32"),
        ({"temperature": 0.0}, ValueError, "positive"),
        ({"temperature": torch.ones(2)}, ValueError, "one element"),
        ({"temperature": torch.tensor(-1.0)}, ValueError, "positive.*-1"),
        ({"valid": torch.ones(3, 4, dtype=torch.bool, device="meta")}, ValueError, "valid is on meta"),
        ({"exclude": "tiles"}, ValueError, "'tiles'"),
        ({"reduction": "avg"}, ValueError, "'avg'"),
        ({"valid": torch.ones(3, 5, dtype=torch.bool)}, ValueError, r"\(3, 5\)"),
        ({"valid": torch.ones(3, 4)}, TypeError, "float32"),
    ],
)
def test_errors_say_what_was_given(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"tokens": torch.zeros(3, 4, 5, 6), **change}
    with pytest.raises(error, match=message):
        patch_info_nce(arguments.pop("tokens"), **arguments)


def test_ragged_errors() -> None:
    label = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"tile must be \(N,\) = \(4,\)"):
        patch_info_nce_ragged(torch.zeros(4, 2), label, label[:3], label)
    with pytest.raises(TypeError, match=r"patch must be an integer tensor, got torch\.float32"):
        patch_info_nce_ragged(torch.zeros(4, 2), label, label, label.float())
