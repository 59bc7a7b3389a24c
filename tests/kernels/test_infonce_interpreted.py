"""The Triton kernels of patch InfoNCE in Triton's interpreter: what a GPU runs, in every dtype, against float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from .interpreted import by_turns, interpreting, run_interpreted, with_extra

if not interpreting():

    def test_kernels_in_the_interpreter(pytestconfig: pytest.Config) -> None:
        run_interpreted(__file__, pytestconfig)

else:
    from fusion.kernels import patch_info_nce, use_backend
    from fusion.kernels.infonce import distributed, eager
    from fusion.kernels.infonce.inputs import Inputs
    from fusion.kernels.infonce.layout import dense_layout, dense_order
    from fusion.kernels.infonce.triton import launch, plan

    from ..ranks import results_of_ranks
    from .gpu_arithmetic import ALL_PARTS, gpu_arithmetic
    from .infonce_cases import CASES, DTYPES, arguments, check, compare, tokens_of
    from .test_infonce_rank_by_rank import WORLD, joined, results_of_rank

    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, for inf - inf behind a mask

    @pytest.mark.parametrize(("case", "dtype"), by_turns(CASES, DTYPES))
    def test_errs_at_most_twice_as_much_as_plain_pytorch(case: str, dtype: torch.dtype) -> None:
        check(case, dtype, "cpu", small=True)

    HARD = ["alike", "place, running maximum"]
    ALSO_HARD = [
        "one direction",
        "wide tokens",
        "dot products",
        "running maximum",
        "running maximum, missing",
        "place, alike",
    ]

    @pytest.mark.parametrize("case", with_extra(HARD, ALSO_HARD))
    def test_float32_is_as_exact_by_a_gpus_arithmetic(case: str) -> None:
        """Whose tensor cores cut off what they add, and whose powers of two are approximate."""
        with gpu_arithmetic(ALL_PARTS):
            check(case, torch.float32, "cpu", small=True)

    def _forward(case: str, temperature: Tensor | None, value: float) -> tuple[Tensor, ...]:
        """Without accuracy, by the launcher itself."""
        one = CASES[case]
        exclude = one.options.get("exclude", "tile")
        tokens = dense_order(tokens_of(one, one.small, "cpu").float(), exclude)
        valid = None
        if one.missing:
            draw = torch.rand(one.small[:3], generator=torch.Generator().manual_seed(1))
            valid = dense_order(draw >= one.missing, exclude)
        layout = dense_layout(one.small[:3], exclude, valid, tokens.device)
        inputs = Inputs(tokens, *layout, None, temperature, value)
        return launch.forward(inputs, one.options.get("normalize", True), False, exclude == "place")

    HALVED = ["place", "missing", "nothing observed"]
    ALSO_HALVED = ["treesatai", "modality", "self", "place, alike", "wide tokens"]

    @pytest.mark.parametrize("case", with_extra(HALVED, ALSO_HALVED))
    def test_half_of_the_tiles(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Losses and what backward needs are those of all tiles, but for the order of sums."""
        value = CASES[case].temperature
        whole = _forward(case, None, value)
        monkeypatch.setattr(plan, "_HALVED_FROM", 0)
        half, again = (_forward(case, None, value) for _ in range(2))
        on_device = _forward(case, torch.tensor(value), 0.0)
        for h, a, w, d in zip(half, again, whole, on_device, strict=True):
            assert torch.equal(h, a)
            assert torch.equal(h, d), "other bits where the temperature is a tensor"
            torch.testing.assert_close(h, w, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("value", [0.1, 0.02, 0.03125, 0.0312499999999])
    def test_a_number_is_a_tensor(value: float) -> None:
        """The same bits, the boundary between one shift and a running maximum included."""
        tokens = tokens_of(CASES["treesatai"], (2, 2, 9, 16), "cpu").float()
        with use_backend("triton"):
            assert torch.equal(
                patch_info_nce(tokens, temperature=value), patch_info_nce(tokens, temperature=torch.tensor(value))
            )

    @pytest.mark.parametrize("exclude", ["tile", "place"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_chosen_rows_of_a_joined_batch(dtype: torch.dtype, exclude: str) -> None:
        """As a rank of a distributed run: some rows, all columns, rows in any order."""
        tokens = dense_order(tokens_of(CASES["treesatai"], (3, 3, 8, 16), "cpu").to(dtype), exclude)
        layout = dense_layout((3, 3, 8), exclude, None, tokens.device)
        anchor = torch.randperm(72, generator=torch.Generator().manual_seed(2))[:37]
        forward = Inputs(tokens, *layout, anchor, None, 0.2), True, True
        got, want = launch.forward(*forward, exclude == "place"), eager.forward(*forward)
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-5)
        _, log_z, log_y, inverse, _ = eager.forward(Inputs(tokens, *layout, None, None, 0.2), True, False)
        learned = Inputs(tokens, *layout, anchor, torch.tensor(0.2), 0.0)
        backward = torch.rand(72), learned, log_z, log_y, inverse, True, True
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 2e-2}
        for g, w in zip(launch.backward(*backward), eager.backward(*backward), strict=True):
            torch.testing.assert_close(g, w, **tolerance)

    PASSED_ON = [("treesatai", torch.float32), ("place, running maximum", torch.bfloat16), ("modality", torch.float16)]

    def _rank(rank: int) -> list[list[Tensor]]:
        distributed.GATHERED = 0
        return [results_of_rank(rank, name, "triton", dtype) for name, dtype in PASSED_ON]

    def test_ranks_that_pass_their_tokens_on(tmp_path: Path) -> None:
        cases = zip(*results_of_ranks(_rank, tmp_path, WORLD), strict=True)
        for (name, dtype), ranks in zip(PASSED_ON, cases, strict=True):
            compare(name, *arguments(name, dtype, "cpu", small=True), joined(name, ranks))

    def test_a_token_that_is_not_a_number_spreads_as_in_plain_pytorch() -> None:
        tokens = tokens_of(CASES["treesatai"], (2, 2, 4, 16), "cpu").float()
        tokens[0, 0, 0, 0] = torch.nan
        with use_backend("triton"):
            assert patch_info_nce(tokens).isnan()
            observed = torch.ones(2, 2, 4, dtype=torch.bool)
            observed[0, 0, 0] = False
            assert patch_info_nce(tokens, valid=observed).isfinite()
