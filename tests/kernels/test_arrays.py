"""Quantization of NumPy arrays: the torch operators' answers, no copies, threads, other arrays' shapes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from fusion import kernels
from fusion.kernels import arrays, build

try:
    build.arrays()
except build.BuildError as error:
    pytest.skip(f"cannot compile: {error}", allow_module_level=True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_nearest_code_agrees_with_torch(rng, dtype, metric):
    x = rng.standard_normal((7, 90, 12)).astype(dtype)
    x[0, 0, 0] = np.nan
    codebook = rng.standard_normal((77, 12)).astype(dtype)
    codes = arrays.nearest_code(x, codebook, metric=metric)
    expected = kernels.nearest_code(torch.from_numpy(x), torch.from_numpy(codebook), metric=metric)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(codes, arrays.nearest_code(x, codebook, metric=metric, threads=1))


@pytest.mark.parametrize("form", ["tanh", "sigmoid"])
def test_finite_scalars_agree_with_torch(rng, form):
    z = 3 * rng.standard_normal((40, 33, 5)).astype("float32")
    quantized, codes = arrays.finite_scalar_quantize(z, [8, 8, 8, 6, 5], form=form)
    with kernels.use_backend("cpp"):
        expected = kernels.finite_scalar_quantize(torch.from_numpy(z), [8, 8, 8, 6, 5], form=form)
    np.testing.assert_array_equal(quantized, expected[0])
    np.testing.assert_array_equal(codes, expected[1])


@pytest.mark.parametrize("edges", [np.linspace(-2, 2, 65), np.sort(np.random.default_rng(1).standard_normal(65))])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bins_agree_with_numpy(rng, edges, dtype):
    values = rng.standard_normal((11, 500)).astype(dtype)
    values[3, :4] = np.nan, np.inf, -np.inf, 0
    codes = arrays.bin_encode(values, edges)
    expected = np.digitize(values.astype("float64"), edges[1:-1])
    np.testing.assert_array_equal(codes, np.where(np.isnan(values), -1, expected))
    centres = (edges[1:] + edges[:-1]) / 2
    decoded = arrays.bin_decode(codes.astype("int16"), centres)
    np.testing.assert_array_equal(decoded, np.where(codes < 0, np.nan, centres[codes]))


def test_views_and_empty_arrays(rng):
    values, edges = rng.standard_normal((30, 20)), np.linspace(-1, 1, 9)
    np.testing.assert_array_equal(arrays.bin_encode(values.T[::2], edges), arrays.bin_encode(values, edges).T[::2])
    assert arrays.bin_encode(np.empty((0, 3)), edges).shape == (0, 3)
    assert arrays.nearest_code(np.empty((0, 3)), np.ones((2, 3))).shape == (0,)


def test_other_threads_run_meanwhile(rng):
    """With the GIL held, the counting thread would stand still until the search is done."""
    x, codebook = rng.standard_normal((200_000, 32), "float32"), rng.standard_normal((512, 32), "float32")
    counted, done = 0, threading.Event()

    def look_up():
        arrays.nearest_code(x, codebook, threads=1)
        done.set()

    worker = threading.Thread(target=look_up)
    worker.start()
    while not done.wait(1e-3):
        counted += 1
    worker.join()
    assert counted > 3


def test_xarray_applies_it(rng):
    xr = pytest.importorskip("xarray")
    cube = xr.DataArray(rng.standard_normal((4, 5, 6)).astype("float32"), dims=("time", "y", "x"))
    edges = np.linspace(-2, 2, 17, dtype="float32")
    codes = xr.apply_ufunc(arrays.bin_encode, cube, kwargs={"edges": edges})
    assert codes.dims == cube.dims
    np.testing.assert_array_equal(codes, arrays.bin_encode(cube.values, edges))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: arrays.nearest_code(np.ones((2, 3)), np.ones((4, 5))), ValueError, r"\(2, 3\).*D=5"),
        (lambda: arrays.nearest_code(np.ones((2, 3), int), np.ones((4, 3))), TypeError, "x must be.*int64"),
        (lambda: arrays.nearest_code(np.ones((2, 3)), np.ones((4, 3)), threads=0), ValueError, "threads.*0"),
        (lambda: arrays.nearest_code(np.ones((2, 3)), np.ones((4, 3)), metric="l1"), ValueError, "metric='l1'"),
        (lambda: arrays.finite_scalar_quantize(np.ones((2, 3)), [4, 4]), ValueError, r"\(2, 3\).*\[4, 4\]"),
        (lambda: arrays.bin_encode(np.ones(3), [0.0, 2.0, 1.0]), ValueError, r"edges\[1\]=2.0"),
        (lambda: arrays.bin_decode(np.array([0, 9]), np.ones(3)), ValueError, r"-1\.\.2.*0\.\.9"),
        (lambda: arrays.bin_decode(np.array([0.5]), np.ones(3)), TypeError, "integer.*float64"),
    ],
)
def test_bad_arguments_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
