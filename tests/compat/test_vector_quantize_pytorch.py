"""The stand-ins against vector-quantize-pytorch itself where it is installed, and against its recorded numbers."""

from __future__ import annotations

import pytest
import torch

from fusion.compat.vector_quantize_pytorch import FSQ, VectorQuantize

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def theirs():
    return pytest.importorskip("vector_quantize_pytorch")


def same_loss(ours, expected):
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 60, 8)),
        ({"rotation_trick": False, "commitment_weight": 0.25, "decay": 0.99}, (2, 60, 8)),
        ({"use_cosine_sim": True}, (2, 60, 8)),
        ({"codebook_dim": 4}, (2, 60, 8)),
        ({"channel_last": False}, (2, 8, 60)),
        ({"accept_image_fmap": True}, (2, 8, 6, 5)),
        ({"learnable_codebook": True, "ema_update": False}, (2, 60, 8)),
        ({"freeze_codebook": True}, (2, 60, 8)),
        ({}, (60, 8)),
    ],
)
def test_training_steps_are_the_same(theirs, options, shape):
    other = theirs.VectorQuantize(8, 16, **options).train()
    ours = VectorQuantize(8, 16, **options).train()
    ours.load_state_dict(other.state_dict())
    for step in range(3):
        results = []
        for module in (ours, other):
            x = (1 + torch.randn(shape, generator=torch.Generator().manual_seed(step))).requires_grad_()
            quantized, codes, loss = module(x)
            (quantized.square().sum() + 3 * loss).backward()
            results.append((quantized.detach(), codes, loss.detach(), x.grad))
        for mine, expected in zip(*results, strict=True):
            torch.testing.assert_close(mine, expected, atol=2e-4, rtol=1e-4)
        if options.get("learnable_codebook"):
            torch.testing.assert_close(ours._codebook.embed.grad, other._codebook.embed.grad)
    assert ours.state_dict().keys() == other.state_dict().keys()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-5, rtol=1e-5)
    x = torch.randn(shape)
    for mine, expected in zip(ours.eval()(x), other.eval()(x), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


def test_masked_vectors_come_back_zero(theirs):
    other, ours = theirs.VectorQuantize(8, 16).train(), VectorQuantize(8, 16).train()
    ours.load_state_dict(other.state_dict())
    x, mask = torch.randn(3, 20, 8), torch.arange(20) < torch.tensor([[20], [7], [1]])
    for mine, expected in zip(ours(x, mask=mask), other(x, mask=mask), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.codebook, other.codebook, atol=1e-5, rtol=1e-5)


def test_kmeans_start_and_restarts_use_the_data():
    x = torch.randn(1, 500, 8) + 10
    quantizer = VectorQuantize(8, 32, kmeans_init=True, threshold_ema_dead_code=2).train()
    for _ in range(5):
        _, codes, loss = quantizer(x)
    assert quantizer._codebook.initted
    assert loss < 1
    assert codes.unique().numel() > 24
    torch.testing.assert_close(quantizer.get_output_from_indices(codes), quantizer.codebook[codes])


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("key", ["vqp_default", "vqp_preserve_symmetry"])
def test_scalars_match_the_recorded_numbers(golden, case, key):
    expected = golden("quantize_and_context")["scalar_and_lookup_free"]["fsq"]["cases"][case]
    i, j = torch.arange(32)[:, None], torch.arange(len(expected["levels"]))
    module = FSQ(expected["levels"], preserve_symmetry=key == "vqp_preserve_symmetry")
    out, codes = module(3 * torch.sin(0.1 * i + 0.7 * j)[None])
    assert codes[0].tolist() == expected[key]["indices"]
    torch.testing.assert_close(out[0, :3], torch.tensor(expected[key]["codes_first3"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 30, 3)),
        ({"preserve_symmetry": True}, (2, 30, 3)),
        ({"dim": 7, "num_codebooks": 2}, (2, 30, 7)),
        ({"channel_first": True}, (2, 3, 30)),
        ({}, (2, 3, 4, 5)),
        ({"keep_num_codebooks_dim": True}, (2, 30, 3)),
        ({"return_indices": False}, (2, 30, 3)),
    ],
)
def test_scalars_are_the_same(theirs, options, shape):
    other, ours = theirs.FSQ([8, 5, 4], **options), FSQ([8, 5, 4], **options)
    ours.load_state_dict(other.state_dict())
    results = []
    for module in (ours, other):
        z = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
        out, codes = module(z)
        out.square().sum().backward()
        results.append((out.detach(), codes, z.grad))
    for mine, expected in zip(*results, strict=True):
        if expected is None:
            assert mine is None
        else:
            torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)
    if codes is not None:
        torch.testing.assert_close(ours.indices_to_codes(codes), other.indices_to_codes(codes), atol=1e-6, rtol=0)


def test_what_is_not_supported_is_named():
    with pytest.raises(NotImplementedError, match=r"heads=4.*only heads=1"):
        VectorQuantize(8, 16, heads=4)
    with pytest.raises(NotImplementedError, match=r"noise_dropout=0\.5"):
        FSQ([8, 5], noise_dropout=0.5)
    with pytest.raises(TypeError, match="no argument 'codebook'"):
        VectorQuantize(8, 16, codebook=3)
    with pytest.raises(ValueError, match=r"at least 3.*\[2, 8\]"):
        FSQ([2, 8])
    with pytest.raises(ValueError, match="learnable"):
        VectorQuantize(8, 16, learnable_codebook=True, use_cosine_sim=True)
    assert VectorQuantize(8, 16, heads=1, straight_through=False).heads == 1
