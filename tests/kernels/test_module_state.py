"""What is done to whole modules: averaged, cast, moved over meta, copied, saved; each is then used and compared."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from fusion.kernels import (
    FiniteScalarQuantizer,
    MeanScaleBins,
    MuLaw,
    ProductVectorQuantizer,
    QuantileBins,
    RelativeAttention,
    ResidualVectorQuantizer,
    SymbolicAggregate,
    UniformBins,
    VectorQuantizer,
    euclidean_buckets,
)

SERIES = 100_000 + torch.randn(4, 2, 60, generator=torch.Generator().manual_seed(0))  # air pressure in pascal
VECTORS = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


def _attention() -> RelativeAttention:
    layer = RelativeAttention(16, 4, euclidean_buckets(3, 3))
    nn.init.normal_(layer.table)
    return layer


MODULES: dict[str, tuple[Callable[[], Any], Callable[[Any], Tensor]]] = {
    "vectors": (lambda: VectorQuantizer(8, 16, restart_below=0.5), lambda m: m.encode(VECTORS)),
    "vectors by gradient": (lambda: VectorQuantizer(8, 16, learning="gradient"), lambda m: m.encode(VECTORS)),
    "residual": (lambda: ResidualVectorQuantizer(8, 16, 2), lambda m: m.encode(VECTORS)),
    "product": (lambda: ProductVectorQuantizer(8, 16, 2), lambda m: m.encode(VECTORS)),
    "scalars": (lambda: FiniteScalarQuantizer([5] * 8), lambda m: m.encode(VECTORS)),
    "uniform": (lambda: UniformBins(64).fit(SERIES), lambda m: m.encode(SERIES)),
    "quantiles": (lambda: QuantileBins(16).fit(SERIES), lambda m: m.encode(SERIES)),
    "mean scale": (MeanScaleBins, lambda m: m.encode(SERIES).codes),
    "mu-law": (lambda: MuLaw().fit(SERIES), lambda m: m.encode(SERIES)),
    "sax": (SymbolicAggregate, lambda m: m.encode(SERIES).codes),
    "attention": (_attention, lambda m: m(torch.ones(2, 10, 16).cumsum(1))),
}


def _made(name: str) -> tuple[nn.Module, Callable[[Any], Tensor]]:
    make, use = MODULES[name]
    module = make()
    if "codebook" in dict(module.named_buffers()) | dict(module.named_parameters()) or hasattr(module, "bits"):
        module(VECTORS)  # starts its codebooks
    return module, use


@pytest.mark.parametrize("averaging", [None, get_ema_multi_avg_fn(0.999), get_swa_multi_avg_fn()])
@pytest.mark.parametrize("name", MODULES)
def test_the_average_of_a_module_that_stays_the_same_is_that_module(name: str, averaging: Any) -> None:
    module, use = _made(name)
    whole = nn.ModuleList([module, nn.Linear(1, 1)])
    averaged = AveragedModel(whole, use_buffers=True, multi_avg_fn=averaging)
    for _ in range(4):
        averaged.update_parameters(whole)
    assert torch.equal(use(averaged.module[0].eval()), use(module.eval()))


def test_an_average_begun_before_the_first_batch_has_started_with_the_module() -> None:
    module = VectorQuantizer(8, 16)
    averaged = AveragedModel(module, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(module)
    for _ in range(3):
        module(VECTORS)
        averaged.update_parameters(module)
    before = averaged.module.codebook.clone()
    assert before.any()
    averaged.module.train()(VECTORS)  # moves the codebook by one step, and does not draw a new one
    torch.testing.assert_close(averaged.module.codebook, before, rtol=0, atol=0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_moving_averages_move_in_half_precision(dtype: torch.dtype) -> None:
    module, wide = VectorQuantizer(4, 2, decay=0.999), VectorQuantizer(4, 2, decay=0.999)
    x = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]]).repeat(100, 1)
    for m in (module, wide):
        m(x)
    module.to(dtype)
    for _ in range(50):  # steps of one part in a thousand, which bfloat16 cannot add to 1
        module(x.to(dtype))
        wide(x)
    assert module.counts.dtype == torch.float32
    torch.testing.assert_close(module.counts, wide.counts)
    torch.testing.assert_close(module.sums, wide.sums, rtol=1e-2, atol=1e-3)
    assert module.decode(torch.tensor([0])).dtype == dtype
    assert module(x.to(dtype))[0].dtype == dtype


@pytest.mark.parametrize("name", ["uniform", "quantiles", "mean scale", "mu-law", "sax"])
@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.float, nn.Module.double])
def test_bins_keep_their_edges_when_a_model_is_cast(name: str, cast: Callable[[nn.Module], nn.Module]) -> None:
    module, use = _made(name)
    before = use(module)
    assert torch.equal(use(cast(module)), before)


def test_a_device_without_float64_gets_edges_in_float32() -> None:
    def to_such_a_device(x: Tensor) -> Tensor:  # as Module.to("mps") calls it
        if x.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return x.clone()

    module = UniformBins(8, low=-1, high=1)
    module._apply(to_such_a_device)
    assert module.edges.dtype == torch.float32
    assert module.encode(torch.tensor([-0.9, 0.9])).tolist() == [0, 7]


@pytest.mark.parametrize("name", MODULES)
def test_copies_are_alike(name: str) -> None:
    module, use = _made(name)
    module.eval()
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    make, _ = MODULES[name]
    loaded = make().eval()
    loaded.load_state_dict(module.state_dict())
    for other in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(file, weights_only=False),
        loaded,
    ):
        assert torch.equal(use(other), use(module))


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("started", [False, True])
def test_state_dicts_of_integers_and_bools_load(assign: bool, started: bool) -> None:
    module = VectorQuantizer(8, 16)
    if started:
        module(VECTORS)
    state = copy.deepcopy(module.state_dict())
    state["started"] = state["started"].bool()  # as they were written once
    state["updates"] = state["updates"].long()
    other = VectorQuantizer(8, 16)
    other.load_state_dict(state, assign=assign)
    assert {b.dtype for b in other.buffers()} == {torch.float32}
    module(VECTORS), other(VECTORS)
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_infinite_edges_of_earlier_checkpoints_load_and_can_be_averaged() -> None:
    module = SymbolicAggregate()
    want = module.encode(SERIES).codes
    state = module.state_dict()
    state["edges"] = torch.cat([torch.tensor([-torch.inf]), state["edges"][1:-1], torch.tensor([torch.inf])])
    module.load_state_dict(state)
    averaged = AveragedModel(module, use_buffers=True)
    for _ in range(3):
        averaged.update_parameters(module)
    assert torch.equal(averaged.module.encode(SERIES).codes, want)


@pytest.mark.parametrize("name", MODULES)
def test_on_meta_shapes_are_those_of_the_cpu(name: str) -> None:
    module, _ = _made(name)
    tokens = name == "attention"
    x = torch.ones(2, 10, 16) if tokens else VECTORS if hasattr(module, "bits") else SERIES
    run = module.encode if x is SERIES else module

    def outline(result: Any) -> Any:
        return [(r.shape, r.dtype) for r in ([result] if isinstance(result, Tensor) else result)]

    want = outline(run(x))
    module.to("meta")
    found = (module.encode if x is SERIES else module)(x.to("meta"))
    assert outline(found) == want
    assert all(r.is_meta for r in ([found] if isinstance(found, Tensor) else found))


def test_a_layer_made_on_meta_keeps_its_buckets_for_the_weights_that_come() -> None:
    trained = _attention()
    with torch.device("meta"):
        layer = RelativeAttention(16, 4, euclidean_buckets(3, 3))
    assert layer.table.is_meta
    layer.to_empty(device="cpu").load_state_dict(trained.state_dict())
    x = torch.randn(2, 10, 16)
    assert torch.equal(layer(x), trained(x))
    with pytest.raises(ValueError, match="on meta holds no values"):
        RelativeAttention(16, 4, torch.zeros(4, 4, dtype=torch.int64, device="meta"))
    assert "bucket" not in dict(layer.named_buffers())


def test_a_training_step_of_a_quantizer_compiles() -> None:
    module, plain = VectorQuantizer(8, 16, restart_below=0.5), VectorQuantizer(8, 16, restart_below=0.5)
    for m in (module, plain):
        m(VECTORS)
    step = torch.compile(module, backend="aot_eager", fullgraph=True)
    for _ in range(3):
        for found, want in zip(step(VECTORS), plain(VECTORS), strict=True):
            torch.testing.assert_close(found, want)
    assert torch.equal(module.updates, plain.updates)
