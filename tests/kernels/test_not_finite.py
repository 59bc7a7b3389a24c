"""What is not a number goes in and comes out, in every backend: a model that diverged has to show it.

Missing vectors, which NaN marks for quantizers, and keys that are not valid are the exceptions: they stay out.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fusion.kernels import (
    ProductVectorQuantizer,
    ResidualVectorQuantizer,
    VectorQuantizer,
    bin_encode,
    euclidean_buckets,
    finite_scalar_quantize,
    nearest_code,
    patch_info_nce,
    relative_attention,
    vector_quantize,
)
from fusion.kernels.attention import reference as attention
from fusion.kernels.infonce import reference as infonce
from fusion.kernels.quantize.op import bin_decode, code_decode

from .interpreted import interpreting, run_interpreted

pytestmark = [
    pytest.mark.usefixtures("backend"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, of Triton's interpreter
]
nan, inf = math.nan, math.inf
# The interpreter takes seconds for each: infinity, and warm losses, with `make test-all`.
INTERPRETED = pytest.mark.extra if interpreting() else ()
WRONG = [nan, pytest.param(inf, marks=INTERPRETED)]


if not interpreting():

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["eager"], indirect=True)
    def test_kernels_in_the_interpreter(pytestconfig: pytest.Config, backend: str) -> None:
        run_interpreted(__file__, pytestconfig)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------- patch InfoNCE


@pytest.mark.parametrize("exclude", ["tile", "self", "modality", "place"])
@pytest.mark.parametrize("temperature", [pytest.param(0.1, marks=INTERPRETED), 0.005])  # one shift, a running maximum
@pytest.mark.parametrize("wrong", WRONG)
def test_the_loss_of_tokens_that_are_no_numbers_is_none(exclude: str, temperature: float, wrong: float) -> None:
    everywhere = torch.full((2, 3, 4, 8), wrong)
    somewhere = _random(2, 3, 4, 8)
    somewhere[0, 1, 2, 3] = wrong
    for tokens in (everywhere, somewhere):
        tokens.requires_grad_()
        t = torch.tensor(temperature, requires_grad=True)
        loss, accuracy = patch_info_nce(tokens, temperature=t, exclude=exclude, return_accuracy=True)
        loss.backward()
        rows = patch_info_nce(tokens.detach(), temperature=temperature, exclude=exclude, reduction="none")
        options = {"temperature": temperature, "exclude": exclude}
        want, want_accuracy = infonce.patch_info_nce(tokens.detach(), return_accuracy=True, **options)
        assert loss.isnan()
        assert want.isnan()
        assert accuracy == want_accuracy  # of rows that have no number none is a hit
        of_rows = infonce.patch_info_nce(tokens.detach(), reduction="none", **options)
        assert torch.equal(rows.isnan(), of_rows.isnan())
        torch.testing.assert_close(rows, of_rows, rtol=0, atol=2e-4, equal_nan=True)
        assert tokens.grad[0, 1, 2].isnan().all()
        assert t.grad.isnan()


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_is_no_number_where_the_temperature_is_none(normalize: bool) -> None:
    tokens = _random(2, 3, 4, 8).requires_grad_()
    temperature = torch.tensor(nan, requires_grad=True)
    loss, accuracy = patch_info_nce(tokens, temperature=temperature, normalize=normalize, return_accuracy=True)
    loss.backward()
    assert loss.isnan()
    assert accuracy == 0
    assert tokens.grad.isnan().all()
    assert temperature.grad.isnan()
    with pytest.raises(ValueError, match="positive number, got nan"):
        patch_info_nce(tokens, temperature=nan)


def test_dot_products_with_infinity_give_no_finite_loss() -> None:
    tokens = _random(2, 3, 4, 8)
    tokens[1, 2, 0, 5] = inf
    assert not patch_info_nce(tokens, normalize=False).isfinite()


def test_tokens_too_long_to_be_squared_are_not_taken_for_tokens_without_direction() -> None:
    tokens = _random(2, 3, 4, 8)
    tokens[0, 1] *= 1e25
    assert patch_info_nce(tokens).isnan()
    tokens[0, 1] *= 1e-10
    want = infonce.patch_info_nce(tokens.double())
    torch.testing.assert_close(patch_info_nce(tokens).double(), want, rtol=1e-5, atol=0)


# ----------------------------------------------------------------------------------------------------- attention


def _attention_inputs(mode: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    query, key, value = _random(3, 2, 2, 10, 16).unbind(0)
    table = _random(*((1, 16, 8) if mode == "contextual" else (1, 8)), seed=1)
    valid = torch.ones(2, 10, dtype=torch.bool)
    valid[0, 3] = False
    inputs = {"query": query.clone(), "key": key.clone(), "value": value.clone(), "table": table}
    return inputs, {"bucket": euclidean_buckets(3, 3), "mode": mode, "key_valid": valid}


def _differentiated(
    op, inputs: dict[str, Tensor], fixed: dict[str, Tensor], grad: Tensor | None = None
) -> dict[str, Tensor]:
    """The output, and gradients of the sum of its squares, or where ``grad`` is that of the output."""
    inputs = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    output = op(**inputs, **fixed)
    gradients = torch.autograd.grad(output, list(inputs.values()), 2 * output.detach() if grad is None else grad)
    return {"output": output.detach(), **dict(zip(inputs, gradients, strict=True))}


@pytest.mark.parametrize("mode", ["contextual", "bias"])
@pytest.mark.parametrize("name", ["query", "key", "value", "table"])
@pytest.mark.parametrize("wrong", WRONG)
def test_attention_shows_what_is_no_number_where_plain_pytorch_does(mode: str, name: str, wrong: float) -> None:
    inputs, fixed = _attention_inputs(mode)
    if name == "table":
        inputs[name][..., 5] = wrong  # a bucket that occurs
    else:
        inputs[name][0, 0, 2, 1] = wrong
    found = _differentiated(relative_attention, inputs, fixed)
    want = _differentiated(attention.relative_attention, inputs, fixed)
    assert want["output"].isnan().any() or wrong == inf
    assert (found["output"].isfinite() <= want["output"].isfinite()).all()
    for key, gradient in found.items():  # of a key that is not valid it is 0, whatever the others' are
        used = torch.ones_like(gradient, dtype=torch.bool)
        if key in ("key", "value"):
            used = fixed["key_valid"][:, None, :, None].expand_as(gradient)
        if key == "table":  # buckets that do not occur get none here, where plain PyTorch adds 0 times NaN
            used[..., :3] = False
        assert (gradient.isfinite() <= want[key].isfinite())[used].all(), key
    assert found["output"][1].isfinite().all() or name == "table"  # the other tile


@pytest.mark.parametrize("mode", ["contextual", "bias"])
def test_a_table_that_is_no_number_for_the_most_frequent_bucket_shows(mode: str) -> None:
    bucket = torch.zeros(6, 6, dtype=torch.int64)
    query, key, value = _random(3, 2, 2, 6, 16).unbind(0)
    table = torch.full((1, 16, 2) if mode == "contextual" else (1, 2), nan)
    assert relative_attention(query, key, value, table=table, bucket=bucket, mode=mode).isnan().all()


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1])
def test_every_nan_is_one(bits: int) -> None:
    inputs, fixed = _attention_inputs("contextual")
    wrong = torch.tensor([bits], dtype=torch.int32).view(torch.float32)  # a GPU's NaN is 0x7fffffff
    inputs["query"][0, 0, 2] = wrong
    assert relative_attention(**inputs, **fixed)[0, 0, 2].isnan().all()
    tokens = _random(2, 3, 4, 8)
    tokens[0, 1, 2] = wrong
    assert patch_info_nce(tokens).isnan()
    assert nearest_code(wrong[:, None], _random(3, 1)).item() == -1
    assert bin_encode(wrong, torch.linspace(-1, 1, 4)).item() == -1
    assert finite_scalar_quantize(wrong[:, None], [5])[1].item() == -1


def _attention_inputs_in(dtype: torch.dtype, mode: str, backend: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """With a tile that has no valid key, in a dtype that the backend takes."""
    if backend == "cpp" and dtype in (torch.float64, torch.float16):
        pytest.skip(f"the CPU kernels do not take {dtype}")
    inputs, fixed = _attention_inputs(mode)
    fixed["key_valid"][1] = False
    return {name: x.to(dtype) for name, x in inputs.items()}, fixed


MASKED = [nan, *(pytest.param(wrong, marks=INTERPRETED) for wrong in (inf, -inf))]
OTHERS = (torch.bfloat16, torch.float16) if interpreting() else (torch.bfloat16, torch.float16, torch.float64)
DTYPES = [torch.float32, *(pytest.param(dtype, marks=INTERPRETED) for dtype in OTHERS)]


@pytest.mark.parametrize("mode", ["contextual", "bias"])
@pytest.mark.parametrize("wrong", MASKED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_keys_that_are_not_valid_may_hold_anything(backend: str, mode: str, wrong: float, dtype: torch.dtype) -> None:
    inputs, fixed = _attention_inputs_in(dtype, mode, backend)
    invalid = ~fixed["key_valid"][:, None, :, None]
    unseen = {"key": invalid, "value": invalid, "query": ~fixed["key_valid"].any(1)[:, None, None, None]}
    clean = inputs | {name: inputs[name].masked_fill(mask, 0.0) for name, mask in unseen.items()}
    dirty = inputs | {name: inputs[name].masked_fill(mask, wrong) for name, mask in unseen.items()}
    found, want = (_differentiated(relative_attention, x, fixed) for x in (dirty, clean))
    _check_same(found, want)
    assert (found["key"].masked_select(invalid) == 0).all()
    assert (found["value"].masked_select(invalid) == 0).all()


@pytest.mark.parametrize("mode", ["contextual", "bias"])
@pytest.mark.parametrize("wrong", MASKED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gradient_of_rows_without_a_valid_key_goes_nowhere(
    backend: str, mode: str, wrong: float, dtype: torch.dtype
) -> None:
    inputs, fixed = _attention_inputs_in(dtype, mode, backend)
    weight = _random(2, 2, 10, 16, seed=2).to(dtype)
    dirty = weight.masked_fill(~fixed["key_valid"].any(1)[:, None, None, None], wrong)  # as that of a norm of zeros
    found, want = (_differentiated(relative_attention, inputs, fixed, grad) for grad in (dirty, weight))
    _check_same(found, want)


@pytest.mark.parametrize("wrong", MASKED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bias_of_keys_that_are_not_valid_may_be_anything(backend: str, wrong: float, dtype: torch.dtype) -> None:
    inputs, fixed = _attention_inputs_in(dtype, "bias", backend)
    fixed["bucket"] = fixed["bucket"].clone()
    fixed["bucket"][fixed["bucket"] == 7] = 6
    fixed["bucket"][:, 3] = 7  # of the key alone that is valid in neither tile
    dirty = inputs | {"table": inputs["table"].clone()}
    dirty["table"][..., 7] = wrong
    found, want = (_differentiated(relative_attention, x, fixed) for x in (dirty, inputs))
    _check_same(found, want)
    assert (found["table"][..., 7] == 0).all()


def _check_same(found: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    for name, x in found.items():
        assert x.isfinite().all(), name
        torch.testing.assert_close(x, want[name], msg=name)


# ------------------------------------------------------------------------------------------------- quantization


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("gradient", ["straight-through", "rotation"])
def test_a_missing_vector_has_code_minus_one_and_no_part_in_the_commitment(metric: str, gradient: str) -> None:
    x, codebook = _random(20, 8), _random(7, 8, seed=1)
    seen = nearest_code(x, codebook, metric=metric)
    x[3, 2], x[5, 1] = nan, inf
    x.requires_grad_()
    quantized, codes, commitment = vector_quantize(x, codebook, metric=metric, gradient=gradient)
    assert codes[3] == -1
    assert codes[5] == 0  # as far from all codes
    kept = [n for n in range(20) if n not in (3, 5)]
    assert torch.equal(codes[kept], seen[kept])
    assert quantized[3].isnan().all()
    assert quantized[kept].isfinite().all()
    torch.testing.assert_close(commitment, (x - codebook[seen])[kept].square().mean())
    (quantized[kept].sum() + commitment).backward()
    assert (x.grad[[3, 5]] == 0).all()
    assert x.grad.isfinite().all()


def test_the_commitment_of_missing_vectors_alone_is_no_number() -> None:
    x = torch.full((20, 8), nan, requires_grad=True)
    quantized, codes, commitment = vector_quantize(x, _random(7, 8))
    assert commitment.isnan()
    assert quantized.isnan().all()
    assert (codes == -1).all()
    assert vector_quantize(x[:0], _random(7, 8))[2] == 0


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("wrong", [nan, inf, -inf])
@pytest.mark.parametrize("size", [7, 40])
def test_nothing_is_nearest_in_a_codebook_that_is_not_finite(metric: str, wrong: float, size: int) -> None:
    x, codebook = _random(20, 8).requires_grad_(), _random(size, 8, seed=1)
    codebook[size - 1, 2] = wrong
    quantized, codes, commitment = vector_quantize(x, codebook, metric=metric)
    assert (codes == -1).all()
    assert quantized.isnan().all()
    assert commitment.isnan()
    (gradient,) = torch.autograd.grad(quantized.sum() + commitment, x)
    assert gradient.isnan().all()


def test_quantizers_say_nothing_of_parts_that_are_missing() -> None:
    x = _random(64, 8)
    x[0, 1] = nan
    wrong = torch.full((5, 8), nan)
    for quantizer, codes in (
        (VectorQuantizer(8, 16), [-1]),
        (ResidualVectorQuantizer(8, 16, 3), [-1, -1, -1]),
        (ProductVectorQuantizer(8, 16, 2), [-1, None]),
    ):
        quantizer(x)
        quantized, found, loss = quantizer(x)
        for code, want in zip(found[0].reshape(-1).tolist(), codes, strict=True):
            assert code == want if want is not None else code >= 0
        assert quantized[0, :4].isnan().all()
        assert quantized[1:].isfinite().all()
        assert loss.isfinite().all()
        assert all(b.isfinite().all() for b in quantizer.buffers())
        assert quantizer(wrong)[2].isnan().all()
        assert all(b.isfinite().all() for b in quantizer.buffers())


@pytest.mark.parametrize("form", ["tanh", "sigmoid"])
def test_finite_scalars_that_are_missing(form: str) -> None:
    z = _random(6, 3)
    z[2, 1], z[3, 1], z[4, 1] = nan, inf, -inf
    z.requires_grad_()
    quantized, codes = finite_scalar_quantize(z, [3, 5, 4], form=form)
    assert codes[2] == -1
    assert quantized[2].isnan().all()
    assert (codes[[0, 1, 3, 4, 5]] >= 0).all()
    assert quantized[3, 1] == 1
    assert quantized[4, 1] == (-1 if form == "tanh" else 0)
    quantized[[0, 1, 3, 4, 5]].sum().backward()
    assert z.grad.isfinite().all()


def test_a_gradient_that_is_no_number_reaches_the_codes_it_is_of() -> None:
    codes = torch.tensor([0, 1, 1, -1, 3])
    for decode, table in ((bin_decode, _random(4)), (code_decode, _random(4, 3))):
        table.requires_grad_()
        values = decode(codes, table)
        grad = torch.ones_like(values)
        grad[1], grad[3] = nan, nan
        (found,) = torch.autograd.grad(values, table, grad)
        assert found[1].isnan().all()
        assert torch.equal(
            found[[0, 2, 3]],
            torch.tensor([1.0, 0.0, 1.0]).view(-1, *[1] * (table.ndim - 1)).expand_as(found[[0, 2, 3]]),
        )
