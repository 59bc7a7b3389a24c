"""A device that is neither a CPU nor CUDA, as Apple's MPS or Intel's XPU: the eager backend has to serve it.

None is at hand where this runs, so two are made here, whose tensors live on the CPU: what calls itself ``mps`` refuses
what MPS does, float64 and operands on other devices; autograd, which would ask MPS for its streams, runs on ``lazy``.
What runs on them is the package's code, op by op.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fusion.kernels import (
    FiniteScalarQuantizer,
    MeanScaleBins,
    MuLaw,
    QuantileBins,
    SymbolicAggregate,
    UniformBins,
    VectorQuantizer,
    bin_decode,
    bin_encode,
    euclidean_buckets,
    finite_scalar_quantize,
    nearest_code,
    operators,
    patch_info_nce,
    patch_info_nce_ragged,
    relative_attention,
    use_backend,
    vector_quantize,
)
from fusion.kernels.backends import _AUTOMATIC, _implementations
from fusion.kernels.quantize import code_statistics


class Far(Tensor):
    """A tensor on the device that is made here; ``near`` has its numbers."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor, device: str) -> Far:
        options = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, near.shape, device=device, **options)

    def __init__(self, near: Tensor, device: str) -> None:
        if near.dtype == torch.float64 and device == "mps:0":
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        self.near = near

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside the device")


class Device(TorchDispatchMode):
    """Runs what is done to such tensors, and makes them where the device is asked for."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in operators._runs:  # one of the package's: what its registration for every device runs
            with self:
                return operators._runs[func](*args, **kwargs)
        if func._can_decompose():  # into those that a device implements
            with self:
                return func.decompose(*args, **kwargs)
        given: dict[int, Far] = {}
        near_ones = []

        def near(x: Any) -> Any:
            if isinstance(x, Far):
                given[id(x.near)] = x
                return x.near
            if isinstance(x, Tensor) and x.ndim > 0:
                near_ones.append(x)
            return x

        moves = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        args, kwargs = tree_map(near, args), tree_map(near, kwargs)
        if given and near_ones and not moves:
            raise RuntimeError(
                f"{func}: Expected all tensors to be on the same device, {self.name}, but some are on cpu"
            )
        device = kwargs.get("device")
        asked = device is not None and str(device) == self.name
        if asked:
            kwargs["device"] = "cpu"
        result = func(*args, **kwargs)
        if not asked and (not given or (moves and device is not None)):
            return result
        return tree_map(
            lambda x: x if not isinstance(x, Tensor) else given[id(x)] if id(x) in given else Far(x, self.name), result
        )


# What torch asks a device's driver for even where a mode does everything: which one is current, and its streams.
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;
static impl::DeviceGuardImplRegistrar mps(DeviceType::MPS, new impl::NoOpDeviceGuardImpl<DeviceType::MPS>());
static impl::DeviceGuardImplRegistrar lazy(DeviceType::Lazy, new impl::NoOpDeviceGuardImpl<DeviceType::Lazy>());
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> None:
    compiler, folder = shutil.which("g++"), tmp_path_factory.mktemp("driver")
    if compiler is None or torch.backends.mps.is_built():
        pytest.skip("no g++" if compiler is None else "MPS has a driver of its own here")
    (folder / "driver.cpp").write_text(GUARD)
    torch_folder, library = Path(torch.__file__).parent, folder / "driver.so"
    options = ["-std=c++20", "-fPIC", "-shared", f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}"]
    subprocess.run([compiler, *options, str(folder / "driver.cpp"), "-lc10", "-o", str(library)], check=True)
    ctypes.CDLL(str(library))


@pytest.fixture(params=["mps:0", "lazy:0"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, driver: None) -> Iterator[str]:
    """The name of the device that is made."""
    plain = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:  # torch's own asks a driver
        made = plain(data, **options)
        return made.to(device) if device is not None else made

    monkeypatch.setattr(torch, "tensor", tensor)
    with Device(request.param):
        yield request.param


only_mps = pytest.mark.parametrize("device", ["mps:0"], indirect=True)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _attend(query: Tensor, key: Tensor, value: Tensor, table: Tensor, bucket: Tensor, valid: Tensor) -> Tensor:
    return relative_attention(query, key, value, table=table, bucket=bucket, key_valid=valid, dropout_p=0.0)


SERIES = 100_000 + _random(2, 3, 40, seed=9)
LABELS = [torch.arange(24) // n % m for n, m in ((12, 2), (4, 3), (1, 4))]
VALID = torch.arange(20).reshape(2, 10) % 7 > 0
OPS: dict[str, tuple[Callable[..., Any], list[Tensor]]] = {
    **{
        f"patch_info_nce, {exclude}": (
            lambda x, t, v, exclude=exclude: patch_info_nce(
                x, temperature=t, valid=v, exclude=exclude, return_accuracy=True
            ),
            [_random(2, 3, 4, 8), torch.tensor(0.3), torch.arange(6).reshape(2, 3) > 0],
        )
        for exclude in ("tile", "self", "modality", "place")
    },
    "ragged": (lambda x, *labels: patch_info_nce_ragged(x, *labels), [_random(24, 8), *LABELS]),
    "attention": (
        _attend,
        [*_random(3, 2, 4, 10, 16), _random(1, 16, 8, seed=1), euclidean_buckets(3, 3), VALID],
    ),
    "attention by bias": (
        lambda q, t, b: relative_attention(q, q, q, table=t, bucket=b, mode="bias"),
        [_random(2, 4, 10, 16), _random(4, 8, seed=1), euclidean_buckets(3, 3)],
    ),
    **{
        f"vector_quantize, {metric}, {gradient}": (
            lambda x, c, metric=metric, gradient=gradient: vector_quantize(x, c, metric=metric, gradient=gradient),
            [_random(20, 8), _random(7, 8, seed=1)],
        )
        for metric in ("l2", "cosine")
        for gradient in ("straight-through", "rotation")
    },
    "nearest_code": (nearest_code, [_random(20, 8), _random(7, 8, seed=1)]),
    "finite_scalar_quantize": (lambda z: finite_scalar_quantize(z, [5, 4, 3]), [_random(20, 3)]),
    "finite_scalar_quantize, sigmoid": (
        lambda z: finite_scalar_quantize(z, [5, 4, 3], form="sigmoid"),
        [_random(9, 3)],
    ),
    "bins": (bin_encode, [_random(50), torch.linspace(-1, 1, 9)]),
    "bin_decode": (lambda c, k: bin_decode(k, c), [_random(4), torch.tensor([0, 3, -1, 2])]),
    "code_statistics": (lambda x, c: code_statistics(x, c, 3), [_random(4, 5), torch.tensor([0, 2, -1, 2])]),
}


def _values_and_gradients(op: Callable[..., Any], inputs: list[Tensor]) -> list[Tensor]:
    if inputs[0].device.type != "mps":
        inputs = [x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs]
    result = op(*inputs)
    results = list(result) if isinstance(result, tuple) else [result]
    loss = [r.nan_to_num().sum() for r in results if r.requires_grad]
    if not loss:
        return results
    wanted = [x for x in inputs if x.requires_grad]
    gradients = torch.autograd.grad(sum(loss[1:], loss[0]), wanted, allow_unused=True)
    return [r.detach() for r in results] + [g for g in gradients if g is not None]


@pytest.mark.parametrize("name", OPS)
def test_every_op_runs_on_another_device(name: str, device: str) -> None:
    op, inputs = OPS[name]
    with use_backend("eager"):
        want = _values_and_gradients(op, inputs)
    found = _values_and_gradients(op, [x.to(device) for x in inputs])
    for f, w in zip(found, want, strict=device != "mps:0"):
        assert str(f.device) == device
        torch.testing.assert_close(f.cpu(), w, equal_nan=True)


@pytest.mark.parametrize(
    "make", [lambda: UniformBins(8), lambda: QuantileBins(4), MuLaw, MeanScaleBins, lambda: SymbolicAggregate(4)]
)
def test_tokenizers_of_series_run_on_another_device(make: Callable[[], Any], device: str) -> None:
    there, here = make(), make()
    there.to(device)
    found = there.fit(SERIES.to(device)).encode(SERIES.to(device))
    want = here.fit(SERIES).encode(SERIES)
    found, want = (x if isinstance(x, Tensor) else x.codes for x in (found, want))
    assert (found.cpu() - want).abs().max() <= 1  # edges in float32
    assert str(there.reconstruct(SERIES.to(device)).device) == device


@only_mps
@torch.no_grad()
def test_quantizers_learn_on_another_device(device: str) -> None:
    x = _random(64, 8)
    for options in ({"restart_below": 0.5}, {"metric": "cosine"}):
        quantizer = VectorQuantizer(8, 16, **options)
        quantizer.to(device)
        for _ in range(2):
            quantized, _, loss = quantizer(x.to(device))
        assert str(quantized.device) == device
        assert loss.cpu() < 1
        assert quantizer.usage() > 0
        assert 1 <= quantizer.perplexity() <= 16
    assert FiniteScalarQuantizer([5] * 8)(x.to(device))[0].device.type == "mps"


@pytest.mark.parametrize("kind", ["meta", "fake"])
@pytest.mark.parametrize("name", OPS)
def test_without_values_shapes_and_dtypes_are_those_with_values(name: str, kind: str) -> None:
    op, inputs = OPS[name]
    with use_backend("eager"):
        want = [(x.shape, x.dtype) for x in _values_and_gradients(op, inputs)]
    fake = FakeTensorMode()
    without = [x.to("meta") if kind == "meta" else fake.from_tensor(x) for x in inputs]
    with fake if kind == "fake" else contextlib.nullcontext():
        found = _values_and_gradients(op, without)
    assert [(x.shape, x.dtype) for x in found] == want


@pytest.mark.parametrize("key", ["CPU", "CUDA", "MPS", "XPU", "HPU", "PrivateUse1"])
def test_every_operator_has_an_implementation_for_every_device(key: str) -> None:
    for operator in operators._runs:
        name = operator._schema.name
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, key), name
        automatic = _AUTOMATIC.get(key.lower(), ("eager",))
        assert automatic[-1] == "eager"
        assert "eager" in _implementations[name.removeprefix("fusion::")]
