"""The stand-ins against vector-quantize-pytorch itself where it is installed, and against its recorded numbers."""

from __future__ import annotations

import warnings

import pytest
import torch

import fusion.compat.vector_quantize_pytorch as standins
from fusion.compat.vector_quantize_pytorch import FSQ, VectorQuantize

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def theirs():
    return pytest.importorskip("vector_quantize_pytorch")


HEADS = {"heads": 2, "codebook_dim": 5}
SEPARATE = {**HEADS, "separate_codebook_per_head": True}
LEARNS = {"learnable_codebook": True, "ema_update": False}
SEQUENCE, IMAGE, VOLUME = (2, 60, 8), (2, 8, 6, 5), (2, 8, 3, 2, 5)
MASK = torch.arange(60) < torch.tensor([[60], [23]])
CODES = torch.arange(60).remainder(16).repeat(2, 1)


def own_codes(embed):
    factor = 1 + torch.arange(60).to(embed) / 60
    return embed[:, None, None] * factor[:, None, None].expand(2, -1, -1, -1)


def optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("options", "shape", "arguments"),
    [
        ({}, SEQUENCE, {}),
        ({}, (60, 8), {}),
        ({"rotation_trick": False, "commitment_weight": 0.25, "decay": 0.99}, SEQUENCE, {}),
        ({"use_cosine_sim": True}, SEQUENCE, {}),
        ({"codebook_dim": 4}, SEQUENCE, {}),
        ({"channel_last": False, "codebook_dim": 4}, (2, 8, 60), {}),
        ({"accept_image_fmap": True}, IMAGE, {}),
        ({"freeze_codebook": True}, SEQUENCE, {}),
        ({"ema_update": False}, SEQUENCE, {}),
        ({"manual_ema_update": True}, SEQUENCE, {}),
        (LEARNS, SEQUENCE, {}),
        ({**LEARNS, "sync_update_v": 0.3}, SEQUENCE, {}),
        ({**LEARNS, "in_place_codebook_optimizer": optimizer}, SEQUENCE, {}),
        ({"threshold_ema_dead_code": 5}, SEQUENCE, {}),
        ({**SEPARATE, "threshold_ema_dead_code": 9}, (2, 3, 8), {}),
        ({"kmeans_init": True}, SEQUENCE, {"mask": MASK}),
        ({**SEPARATE, "kmeans_init": True, "use_cosine_sim": True}, SEQUENCE, {}),
        ({**HEADS, "layernorm_after_project_in": True, "accept_3d_fmap": True}, VOLUME, {}),
        ({**SEPARATE, "accept_image_fmap": True}, IMAGE, {}),
        ({}, SEQUENCE, {"mask": MASK}),
        ({"use_cosine_sim": True}, SEQUENCE, {"lens": torch.tensor([60, 23])}),
        ({"return_zeros_for_masked_padding": False}, SEQUENCE, {"mask": MASK}),
        ({"commitment_use_cross_entropy_loss": True}, SEQUENCE, {"mask": MASK}),
        ({**HEADS, "commitment_use_cross_entropy_loss": True}, SEQUENCE, {}),
        ({**SEPARATE, "commitment_use_cross_entropy_loss": True}, SEQUENCE, {}),
        ({"orthogonal_reg_weight": 10.0, "orthogonal_reg_max_codes": 5}, SEQUENCE, {}),
        ({"orthogonal_reg_weight": 10.0, "orthogonal_reg_active_codes_only": True}, SEQUENCE, {}),
        (
            {"codebook_diversity_loss_weight": 1.0, "codebook_diversity_temperature": 1.0},
            SEQUENCE,
            {"return_loss_breakdown": True},
        ),
        ({"stochastic_sample_codes": True, "sample_codebook_temp": 0.3}, SEQUENCE, {}),
        (
            {"straight_through": True, "rotation_trick": False, "route_gradients_to_input": False},
            SEQUENCE,
            {"sample_codebook_temp": 0.3},
        ),
        ({"directional_reparam": True, "threshold_ema_dead_code": 2}, SEQUENCE, {}),
        ({}, SEQUENCE, {"freeze_codebook": True}),
        ({}, SEQUENCE, {"ema_update": False}),
        ({}, SEQUENCE, {"ema_update_weight": torch.arange(16).double() / 16}),
        ({}, SEQUENCE, {"codebook_transform_fn": own_codes}),
        ({"use_cosine_sim": True}, SEQUENCE, {"codebook_transform_fn": own_codes}),
        ({}, SEQUENCE, {"topk": 3, "mask": MASK}),
        ({"codebook_dim": 4, "channel_last": False}, (2, 8, 60), {"topk": 2}),
        ({"accept_image_fmap": True}, IMAGE, {"topk": 3}),
        ({}, SEQUENCE, {"indices": CODES}),
        (SEPARATE, SEQUENCE, {"indices": CODES[..., None].expand(-1, -1, 2)}),
    ],
)
def test_steps_are_the_same(theirs, options, shape, arguments, dtype):
    """Outputs, gradients and state of three training steps and an evaluation, with the same random numbers."""
    if dtype == torch.float64 and "in_place_codebook_optimizer" in options:
        pytest.skip("the original mixes dtypes here and raises")
    weight = arguments.get("ema_update_weight")
    arguments = arguments if weight is None else {**arguments, "ema_update_weight": weight.to(dtype)}
    modules = []
    for owner in (theirs, standins):
        torch.manual_seed(0)
        modules.append(owner.VectorQuantize(8, 16, **options).to(dtype))
    assert modules[0].state_dict().keys() == modules[1].state_dict().keys()
    for step in range(4):
        results = []
        for module in modules:
            module.train(step < 3).zero_grad()
            torch.manual_seed(step + 1)
            x = (0.3 + torch.randn(shape)).to(dtype).requires_grad_()
            outputs = module(x, **arguments)
            outputs = [*outputs[:-1], *outputs[-1]] if isinstance(outputs[-1], tuple) else outputs
            total = sum((y * y.detach().cos()).sum() for y in outputs if y.is_floating_point())
            if total.requires_grad:
                total.backward()
            results.append([*outputs, x.grad, *(p.grad for p in module.parameters()), *module.state_dict().values()])
        for expected, mine in zip(*results, strict=True):
            if expected is None:
                assert mine is None
            else:  # ``initted`` is bool there
                check = {"check_dtype": expected.dtype != torch.bool}
                torch.testing.assert_close(mine.detach(), expected.detach(), atol=3e-5, rtol=1e-4, **check)


def test_looked_up_codes_are_the_same(theirs):
    for options, shape in (({}, (2, 5)), ({"accept_image_fmap": True}, (2, 6, 5)), (HEADS, (2, 5, 2))):
        other, ours = theirs.VectorQuantize(8, 16, **options), VectorQuantize(8, 16, **options)
        ours.load_state_dict(other.state_dict())
        codes = torch.randint(0, 16, shape)
        assert torch.equal(ours.get_codes_from_indices(codes), other.get_codes_from_indices(codes))


def test_codes_chosen_from_the_nearest_teach_the_codebook(theirs):
    other, ours = theirs.VectorQuantize(8, 16), VectorQuantize(8, 16)
    ours.load_state_dict(other.state_dict())
    x = torch.randn(SEQUENCE)
    chosen = [module(x, mask=MASK, topk=2)[1][..., 1] for module in (ours, other)]
    assert torch.equal(*chosen)
    for module, codes in zip((ours, other), chosen, strict=True):
        module.update_ema_indices(x, codes, mask=MASK)
    torch.testing.assert_close(ours.codebook, other.codebook, atol=1e-5, rtol=1e-5)


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
        ({"bound_hard_clamp": True}, (2, 30, 3)),
        ({"bound_hard_clamp": True, "preserve_symmetry": True}, (2, 30, 3)),
        ({"noise_dropout": 0.5, "preserve_symmetry": True}, (2, 30, 3)),
        ({"orthogonal_rotation": True, "dim": 5}, (2, 30, 5)),
        ({"force_quantization_f32": False, "scale": 2.0}, (2, 30, 3)),
    ],
)
def test_scalars_are_the_same(theirs, options, shape):
    with warnings.catch_warnings(action="ignore"):  # orthogonal_rotation prefers equal levels
        other, ours = theirs.FSQ([8, 5, 4], **options), FSQ([8, 5, 4], **options)
    ours.load_state_dict(other.state_dict())
    results = []
    for module in (ours, other):
        torch.manual_seed(0)
        z = (3 * torch.randn(shape)).requires_grad_()
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
        torch.testing.assert_close(ours.implicit_codebook, other.implicit_codebook, atol=1e-6, rtol=0)
