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


VALUES = np.array([0.1, 0.9, -5.0, 0.4], dtype="float32")
EDGES = np.linspace(0, 1, 5)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2"])
def test_any_byte_order_and_float16(dtype):
    np.testing.assert_array_equal(arrays.bin_encode(VALUES.astype(dtype), EDGES.astype(dtype)), [0, 3, 0, 1])
    np.testing.assert_array_equal(arrays.nearest_code(VALUES.astype(dtype)[:, None], [[0.0], [1.0]]), [0, 1, 0, 0])
    np.testing.assert_array_equal(arrays.bin_decode(np.array([0, -1], dtype=">i2"), EDGES.astype(dtype)), [0, np.nan])


def test_what_is_masked_is_missing_whatever_lies_there():
    masked = np.ma.masked_values(VALUES, -5)
    for values in (masked, masked.astype(">f8"), [masked, masked]):
        found = arrays.bin_encode(values, EDGES)
        np.testing.assert_array_equal(found, np.broadcast_to([0, 3, -1, 1], found.shape))
    vectors = np.ma.masked_values([[1.0, 2.0], [-5.0, 1.0]], -5)
    np.testing.assert_array_equal(arrays.nearest_code(vectors, [[0.0, 0.0], [1.0, 1.0]]), [1, -1])
    quantized, codes = arrays.finite_scalar_quantize(vectors, [3, 3])
    assert codes[1] == -1
    assert np.isnan(quantized[1]).all()
    decoded = arrays.bin_decode(np.ma.masked_equal([0, 1, 2], 1), EDGES)
    np.testing.assert_array_equal(decoded, [0, np.nan, 0.5])
    assert masked.mask.tolist() == [False, False, True, False]  # and it is left as it was
    assert masked.data[2] == -5


def test_columns_of_pandas_that_lack_values():
    pd = pytest.importorskip("pandas")
    column = pd.Series([0.1, None, 0.9], dtype="Float32")
    np.testing.assert_array_equal(arrays.bin_encode(column, EDGES), [0, -1, 3])
    np.testing.assert_array_equal(arrays.bin_decode(pd.Series([1, None], dtype="Int64"), EDGES), [0.25, np.nan])


def test_read_only_and_reversed_arrays_and_lists():
    values = VALUES[::-1].copy()
    values.flags.writeable = False
    np.testing.assert_array_equal(arrays.bin_encode(values, EDGES), [1, 0, 3, 0])
    np.testing.assert_array_equal(arrays.bin_encode(VALUES[::-1], EDGES), [1, 0, 3, 0])
    np.testing.assert_array_equal(arrays.bin_encode(VALUES.tolist(), EDGES.tolist()), [0, 3, 0, 1])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: arrays.bin_encode(VALUES.astype(object), EDGES), TypeError, "values must be.*got object; convert"),
        (lambda: arrays.bin_encode(VALUES.astype(np.longdouble), EDGES), TypeError, "got float128|got longdouble"),
        (lambda: arrays.bin_encode(VALUES, np.ma.masked_greater(EDGES, 0.8)), ValueError, "edges has 1 masked"),
        (lambda: arrays.bin_decode(np.array([2**64 - 1], dtype="u8"), EDGES), ValueError, "holds 18446744073709551615"),
    ],
)
def test_arrays_that_cannot_be_taken_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_a_number_of_threads_that_is_none_is_passed_over(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    np.testing.assert_array_equal(arrays.bin_encode(VALUES, EDGES), [0, 3, 0, 1])
