"""The Triton kernels of quantization in Triton's interpreter: what a GPU runs, in every dtype, against float64."""

from __future__ import annotations

import pytest
import torch

from .interpreted import by_turns, interpreting, run_interpreted

if not interpreting():

    def test_kernels_in_the_interpreter(pytestconfig: pytest.Config) -> None:
        run_interpreted(__file__, pytestconfig)

else:
    from fusion.kernels import BackendError, finite_scalar_quantize, nearest_code, use_backend
    from fusion.kernels.quantize import code_statistics
    from fusion.kernels.quantize.triton import launch

    from .gpu_arithmetic import gpu_arithmetic
    from .quantize_cases import CASES, DTYPES, check_any_order, check_any_unit, normal

    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, for inf - inf behind a mask

    @pytest.fixture(autouse=True)
    def interpreter():
        with use_backend("triton"):
            yield

    @pytest.mark.parametrize(("case", "dtype"), by_turns(CASES, DTYPES))
    def test_is_what_is_defined(case: str, dtype: torch.dtype) -> None:
        # NumPy's product does not add up a column as it adds up its twin in another place, a GPU's does.
        with gpu_arithmetic(("dot", "tensor cores") if case == "nearest, ties" else ()):
            CASES[case]("cpu", dtype)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_sums_do_not_depend_on_the_order(dtype: torch.dtype) -> None:
        check_any_order("cpu", dtype)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_the_search_does_not_depend_on_the_unit(dtype: torch.dtype) -> None:
        check_any_unit("cpu", dtype)

    def test_a_second_search_prepares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
        x, codebook = normal(5, 4), normal(6, 4)
        first = nearest_code(x, codebook)
        monkeypatch.setattr(launch, "prepare", None)
        assert torch.equal(nearest_code(x, codebook), first)
        codebook.mul_(2)
        with pytest.raises(TypeError):
            nearest_code(x, codebook)

    def test_what_it_cannot_do_is_refused_with_a_reason() -> None:
        with pytest.raises(BackendError, match="computes in float32"):
            nearest_code(torch.randn(2, 3).double(), torch.randn(4, 3))
        with pytest.raises(BackendError, match="at most 8192 values"):
            code_statistics(torch.randn(2, 9000), torch.zeros(2).long(), 3)
        with pytest.raises(BackendError, match="less than 2\\^22"):
            finite_scalar_quantize(torch.randn(2, 1), [2**22])
