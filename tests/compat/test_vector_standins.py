"""What the stand-ins for vector-quantize-pytorch do, without that library: formulas, half precision, refusals."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel

from fusion.compat.vector_quantize_pytorch import FSQ, VectorQuantize

pytestmark = pytest.mark.usefixtures("seeded")
HALF = [torch.bfloat16, torch.float16]
LEARNS = {"learnable_codebook": True, "ema_update": False}


def test_kmeans_start_and_restarts_use_the_data():
    x = torch.randn(1, 500, 8) + 10
    quantizer = VectorQuantize(8, 32, kmeans_init=True, threshold_ema_dead_code=2).train()
    for _ in range(5):
        _, codes, loss = quantizer(x)
    assert quantizer._codebook.initted
    assert loss < 1
    assert codes.unique().numel() > 24
    torch.testing.assert_close(quantizer.get_output_from_indices(codes), quantizer.codebook[codes])


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"codebook_dim": 4, "use_cosine_sim": True},
        {"heads": 2, "codebook_dim": 3, "separate_codebook_per_head": True},
        LEARNS,
        {"kmeans_init": True, "threshold_ema_dead_code": 2},
        {"stochastic_sample_codes": True, "commitment_use_cross_entropy_loss": True},
    ],
)
def test_modules_in_half_precision_train_and_evaluate(dtype, options):
    quantizer = VectorQuantize(8, 16, **options).to(dtype)
    before = quantizer.codebook.clone()
    x = torch.randn(2, 30, 8).to(dtype).requires_grad_()
    quantized, codes, loss = quantizer(x)
    (quantized.float().square().sum() + loss).backward()
    assert quantized.dtype == dtype
    assert loss.isfinite()
    assert x.grad.abs().sum() > 0
    if options == LEARNS:
        assert quantizer._codebook.embed.grad.abs().sum() > 0
    else:
        assert not torch.equal(quantizer.codebook, before)
    quantized, codes, _ = quantizer.eval()(x)
    assert torch.equal(quantizer.get_output_from_indices(codes), quantized)


def test_counts_beyond_half_precision_are_kept():
    quantizer = VectorQuantize(2, 2, decay=0.0).half()
    quantizer(torch.ones(70_000, 2).half())
    assert quantizer._codebook.cluster_size.max() == 70_000  # the largest float16 is 65,504
    torch.testing.assert_close(quantizer._codebook.embed_avg.max(), torch.tensor(70_000.0))
    assert (quantizer.codebook == 1).all(1).any()


def test_quantizers_can_be_averaged_with_their_buffers():
    quantizer = VectorQuantize(8, 16, kmeans_init=True)
    quantizer(torch.randn(50, 8))
    averaged = AveragedModel(quantizer, use_buffers=True)
    first = quantizer._codebook.embed_avg.clone()
    averaged.update_parameters(quantizer)
    quantizer(torch.randn(50, 8))
    averaged.update_parameters(quantizer)
    mean = (first + quantizer._codebook.embed_avg) / 2
    torch.testing.assert_close(averaged.module._codebook.embed_avg, mean)
    assert averaged.module._codebook.initted


def test_lengths_are_a_mask():
    x = torch.randn(2, 30, 8)
    short, padded = VectorQuantize(8, 16), VectorQuantize(8, 16)
    padded.load_state_dict(short.state_dict())
    quantized, codes, loss = padded(x, lens=torch.tensor([30, 12]))
    rows = torch.cat([x[0], x[1, :12]])
    expected = short(rows)
    torch.testing.assert_close(torch.cat([quantized[0], quantized[1, :12]]), expected[0])
    torch.testing.assert_close(loss, expected[2])
    assert (quantized[1, 12:] == 0).all()
    assert (codes[1, 12:] == -1).all()
    torch.testing.assert_close(padded.codebook, short.codebook)
    assert (padded.get_output_from_indices(codes)[1, 12:] == 0).all()


def test_accumulated_updates_count_with_the_next_step():
    x = torch.randn(3, 40, 8)
    accumulating, joint = VectorQuantize(8, 16), VectorQuantize(8, 16)
    joint.load_state_dict(accumulating.state_dict())
    before = accumulating.codebook.clone()
    for part in x[:2]:
        accumulating(part, accum_ema_update=True)
    assert torch.equal(accumulating.codebook, before)
    accumulating(x[2])
    joint(x.flatten(0, 1))
    torch.testing.assert_close(accumulating.codebook, joint.codebook)


def test_update_weights_hold_codes_still():
    quantizer = VectorQuantize(8, 4)
    before, averages = quantizer.codebook.clone(), quantizer._codebook.embed_avg.clone()
    weight = torch.tensor([0.0, 1.0, 0.5, 0.0])
    x = torch.randn(100, 8)
    _, codes, _ = quantizer(x, ema_update_weight=weight)
    sums = F.one_hot(codes, 4).float().T @ x
    expected = averages[0] + 0.2 * weight[:, None] * (sums - averages[0])  # decay 0.8
    torch.testing.assert_close(quantizer._codebook.embed_avg[0], expected)
    torch.testing.assert_close(quantizer.codebook[[0, 3]], before[[0, 3]], atol=1e-4, rtol=1e-4)


def test_every_head_finds_the_nearest_of_its_own_codes():
    quantizer = VectorQuantize(8, 16, heads=2, codebook_dim=4, separate_codebook_per_head=True).eval()
    x = torch.randn(3, 7, 8)
    quantized, codes, _ = quantizer(x)
    for head, part in enumerate(x.chunk(2, -1)):
        nearest = torch.cdist(part, quantizer.codebook[head]).argmin(-1)
        assert torch.equal(codes[..., head], nearest)
    assert torch.equal(quantizer.get_output_from_indices(codes), quantized)


def test_vectors_may_have_codes_of_their_own():
    quantizer, x, scale = VectorQuantize(8, 16).eval(), torch.randn(2, 5, 8), torch.rand(1, 2, 5, 1, 1)
    quantized, codes, _ = quantizer(x, codebook_transform_fn=lambda embed: embed[:, None, None] * scale)
    own = quantizer.codebook * scale[0]  # (2, 5, 16, 8)
    assert torch.equal(codes, (own - x[:, :, None]).norm(dim=-1).argmin(-1))
    torch.testing.assert_close(quantized, own.take_along_dim(codes[..., None, None], 2)[:, :, 0])


@pytest.mark.parametrize("options", [{}, {"heads": 2, "codebook_dim": 3}])
@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ({"channel_last": False}, (2, 8, 12)),
        ({"accept_image_fmap": True}, (2, 8, 3, 4)),
        ({"accept_3d_fmap": True}, (2, 8, 3, 2, 2)),
    ],
)
def test_features_may_come_first(options, layout, shape):
    first, last = VectorQuantize(8, 16, **options, **layout).eval(), VectorQuantize(8, 16, **options).eval()
    last.load_state_dict(first.state_dict())
    x = torch.randn(shape)
    quantized, codes, _ = first(x)
    expected, flat, _ = last(x.flatten(2).mT)
    assert codes.shape[: len(shape) - 1] == (2, *shape[2:])
    assert torch.equal(quantized.flatten(2).mT, expected)
    assert torch.equal(codes.flatten(1, len(shape) - 2), flat)
    torch.testing.assert_close(first.get_output_from_indices(codes), quantized)


def test_vectors_with_nan_show_in_the_loss_and_leave_the_codebook():
    quantizer = VectorQuantize(8, 16)
    x = torch.randn(30, 8)
    x[3, 2] = math.nan
    quantized, codes, loss = quantizer(x)
    assert loss.isnan()
    assert codes[3] == -1
    assert quantized[3].isnan().all()
    assert quantized[torch.arange(30) != 3].isfinite().all()
    assert quantizer.codebook.isfinite().all()
    values, codes = FSQ([5, 5, 5])(torch.tensor([[[0.0, math.nan, 1.0], [0.0, 1.0, 2.0]]]))
    assert codes[0, 0] == -1
    assert codes[0, 1] >= 0
    assert values[0, 0].isnan().any()


def test_a_codebook_is_started_in_evaluation_too():
    quantizer = VectorQuantize(8, 4, kmeans_init=True).eval()
    _, codes, _ = quantizer(torch.randn(40, 8))
    assert codes.unique().numel() == 4


def test_codebooks_can_be_assigned():
    quantizer, codes = VectorQuantize(8, 16), torch.randn(16, 8)
    quantizer.codebook = codes
    assert torch.equal(quantizer.codebook, codes)
    assert torch.equal(quantizer.eval()(codes)[1], torch.arange(16))
    with pytest.raises(ValueError, match=r"\(16, 8\), not \(8, 8\)"):
        quantizer.codebook = codes[:8]


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("options", [{}, {"dim": 6}, {"bound_hard_clamp": True}, {"orthogonal_rotation": True}])
def test_scalars_in_half_precision(dtype, options):
    quantizer = FSQ([5, 5, 5], **options).to(dtype)
    z = torch.randn(2, 7, quantizer.dim).to(dtype).requires_grad_()
    quantized, codes = quantizer(z)
    quantized.sum().backward()
    assert z.grad.abs().sum() > 0
    assert torch.equal(quantizer.indices_to_codes(codes).to(dtype), quantized)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("clamped", [False, True])
def test_scalars_are_exactly_the_values_of_their_codes(symmetric, clamped):
    quantizer = FSQ([8, 5, 5, 5], preserve_symmetry=symmetric, bound_hard_clamp=clamped)
    quantized, codes = quantizer(torch.randn(1, 5000, 4))
    assert torch.equal(quantized, quantizer.indices_to_codes(codes))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: VectorQuantize(8, 16, affine_param=True), NotImplementedError, "affine_param=True is not supported"),
        (lambda: VectorQuantize(8, 16, straight_through=True), ValueError, "at most one of straight_through"),
        (lambda: VectorQuantize(8, 16, **LEARNS, use_cosine_sim=True), ValueError, "learnable.*use_cosine_sim"),
        (lambda: VectorQuantize(8, 16, learnable_codebook=True), ValueError, "pass ema_update=False"),
        (lambda: VectorQuantize(8, 16, directional_reparam=True), ValueError, "threshold_ema_dead_code above 0"),
        (lambda: FSQ([2, 8]), ValueError, r"at least 3.*\[2, 8\]"),
        (lambda: FSQ([5, 8], noise_dropout=0.5), ValueError, r"noise_dropout=0\.5 needs preserve_symmetry"),
        (lambda: FSQ([5, 8]).indices_to_codes(torch.tensor([40])), ValueError, r"0\.\.39, got 40\.\.40"),
    ],
)
def test_refusals_name_the_argument(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mask": torch.ones(2, 5)}, TypeError, "mask must be bool.*float32"),
        ({"mask": torch.ones(2, 4).bool()}, ValueError, r"mask must be \(2, 5\), got \(2, 4\)"),
        ({"lens": torch.tensor([3, 6])}, ValueError, r"0\.\.5, got \[3, 6\]"),
        ({"lens": torch.tensor([3, 5]), "mask": torch.ones(2, 5).bool()}, ValueError, "not both"),
        ({"topk": 0}, ValueError, "topk must be at least 1"),
        ({"ema_update_weight": torch.ones(7)}, ValueError, r"\(16,\) or \(1, 16\), got \(1, 7\)"),
    ],
)
def test_calls_that_cannot_be_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        VectorQuantize(8, 16)(torch.randn(2, 5, 8), **arguments)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"dim=8, got \(2, 5, 7\)"):
        VectorQuantize(8, 16)(torch.randn(2, 5, 7))
    with pytest.raises(ValueError, match=r"\(B, dim, H, W\) with dim=8, got \(2, 8, 5\)"):
        VectorQuantize(8, 16, accept_image_fmap=True)(torch.randn(2, 8, 5))
