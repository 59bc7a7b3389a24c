"""The stand-ins for vector-quantize-pytorch exported, compiled, transformed by torch.func, on meta, and loaded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fusion.compat.vector_quantize_pytorch import FSQ, VectorQuantize

pytestmark = pytest.mark.usefixtures("seeded")
LEARNS = {"learnable_codebook": True, "ema_update": False}


def test_quantizers_are_exported_and_compiled_whole():
    for options in ({"kmeans_init": True}, LEARNS, {"heads": 2, "codebook_dim": 4}):
        quantizer = VectorQuantize(8, 16, **options)
        x = torch.randn(2, 30, 8)
        quantizer(x)
        wanted = quantizer.eval()(x)
        for strict in (False, True):
            exported = torch.export.export(quantizer, (x,), strict=strict).module()
            torch.testing.assert_close(exported(x), wanted)
        compiled = torch.compile(quantizer, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), wanted)


def test_an_ensemble_of_quantizers_is_each_of_them():
    quantizers = [VectorQuantize(8, 16, kmeans_init=True) for _ in range(3)]
    x = torch.randn(2, 30, 8)
    for quantizer in quantizers:
        quantizer(torch.randn(2, 30, 8))
        quantizer.eval()
    weights, buffers = torch.func.stack_module_state(quantizers)
    base = copy.deepcopy(quantizers[0]).to("meta")

    def one(weights, buffers):
        return torch.func.functional_call(base, (weights, buffers), (x,))[:2]

    values, codes = torch.vmap(one)(weights, buffers)
    for i, quantizer in enumerate(quantizers):
        assert torch.equal(values[i], quantizer(x)[0])
        assert torch.equal(codes[i], quantizer(x)[1])


def test_gradients_of_a_learning_codebook_by_torch_func():
    quantizer = VectorQuantize(8, 16, **LEARNS)
    x = torch.randn(2, 30, 8)
    quantizer(x)[2].backward()
    weights = dict(quantizer.named_parameters())
    found = torch.func.grad(lambda w: torch.func.functional_call(quantizer, w, (x,))[2])(weights)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight.grad)


def test_shapes_on_meta():
    x = torch.empty(2, 30, 8, device="meta")
    with torch.device("meta"):
        quantizers = [VectorQuantize(8, 16), VectorQuantize(8, 16, kmeans_init=True, threshold_ema_dead_code=2)]
        scalars = FSQ([8, 5, 5, 4], dim=8)
    for quantizer in quantizers:
        quantized, codes, loss = quantizer(x)
        assert [t.shape for t in (quantized, codes, loss)] == [(2, 30, 8), (2, 30), ()]
        assert quantized.is_meta
    assert [t.shape for t in scalars(x)] == [(2, 30, 8), (2, 30)]


def test_a_codebook_that_is_told_to_start_again_does():
    quantizer = VectorQuantize(8, 16, kmeans_init=True)
    quantizer(torch.randn(2, 30, 8))
    quantizer._codebook.initted.fill_(0)  # as users of the original do
    quantizer.eval()(torch.randn(2, 30, 8) + 100)
    assert quantizer.codebook.mean() > 90


@pytest.mark.parametrize("assign", [False, True])
def test_a_codebook_is_started_by_what_it_loads(assign):
    trained, fresh = VectorQuantize(8, 16, kmeans_init=True), VectorQuantize(8, 16, kmeans_init=True)
    x = torch.randn(2, 30, 8)
    trained(x)
    state = trained.state_dict()
    state["_codebook.initted"] = state["_codebook.initted"].bool()  # as the original's
    fresh.load_state_dict(state, assign=assign)
    assert torch.equal(fresh.eval()(x)[0], trained.eval()(x)[0])
    AveragedModel(nn.Sequential(nn.Linear(8, 8), fresh), use_buffers=True).update_parameters(
        nn.Sequential(nn.Linear(8, 8), fresh)
    )


@pytest.mark.parametrize("module", [VectorQuantize(8, 16), FSQ([8, 5, 5, 4], dim=8)])
@pytest.mark.parametrize("given", [torch.ones(2, 30, 8).long(), torch.ones(2, 30, 8).numpy()])
def test_what_is_no_tensor_of_floats_is_refused(module, given):
    with pytest.raises(TypeError, match="must be a floating-point tensor, got"):
        module(given)
