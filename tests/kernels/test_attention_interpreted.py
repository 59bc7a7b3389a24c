"""The Triton kernels of attention in Triton's interpreter: what a GPU runs, in every dtype, against float64."""

from __future__ import annotations

import pytest
import torch

from .interpreted import by_turns, interpreting, run_interpreted, with_extra

if not interpreting():

    def test_kernels_in_the_interpreter(pytestconfig: pytest.Config) -> None:
        run_interpreted(__file__, pytestconfig)

else:
    from fusion.kernels import relative_attention, use_backend
    from fusion.kernels._triton.device import Tile
    from fusion.kernels.attention import reference
    from fusion.kernels.attention.dropout import keep_mask
    from fusion.kernels.attention.layout import Layout
    from fusion.kernels.attention.triton.plan import order_blocks

    from .attention_cases import CASES, DTYPES, Inputs, check, errors, results
    from .gpu_arithmetic import gpu_arithmetic

    # NumPy's, where a row has no valid key or a product is not a number
    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

    @pytest.mark.parametrize(("case", "dtype"), by_turns(CASES, DTYPES))
    def test_errs_at_most_twice_as_much_as_plain_pytorch(case: str, dtype: torch.dtype) -> None:
        # Scores are computed twice, in tiles of two shapes: NumPy's product gives them other bits, a GPU's does not.
        with gpu_arithmetic(("dot",)):
            check(case, dtype, "cpu", small=True)

    @pytest.mark.parametrize("case", with_extra([*CASES][::4], [case for k, case in enumerate(CASES) if k % 4]))
    def test_errs_no_more_where_arithmetic_is_that_of_a_gpu(case: str) -> None:
        with gpu_arithmetic():
            check(case, torch.float32, "cpu", small=True)

    def test_sums_over_many_keys_are_sums_of_blocks() -> None:
        """Term by term, as a float32 product adds, they would err by 1.3 times plain PyTorch's error."""
        inputs = Inputs.of(CASES["many keys"], "cpu", small=True)
        want, plain = (results(reference.relative_attention, inputs, dtype) for dtype in (torch.float64, torch.float32))
        with use_backend("triton"), gpu_arithmetic(("dot",)):
            got = results(relative_attention, inputs, torch.float32)
        assert errors(got, want)[0] < errors(plain, want)[0]

    def test_one_valid_key_has_all_the_weight() -> None:
        """Its value's gradient is that of the output, bit by bit, whatever bias its bucket has."""
        inputs = Inputs.of(CASES["one key"], "cpu", small=True)
        with use_backend("triton"):
            output, query, key, value, _ = results(relative_attention, inputs, torch.float32)
        assert torch.equal(output, inputs.tensors[2].float())
        assert torch.equal(value, inputs.gradient.float())
        assert max(query.abs().max(), key.abs().max()) < 1e-6

    def test_row_without_a_valid_key_gives_zeros_and_no_gradient() -> None:
        inputs = Inputs.of(CASES["flair"], "cpu", small=True)
        with use_backend("triton"):
            *of_tiles, table = results(relative_attention, inputs, torch.float32)
        assert all(tensor[-1].abs().max() == 0 for tensor in of_tiles)
        assert all(torch.isfinite(tensor).all() for tensor in (*of_tiles, table))

    def test_not_a_number_is_not_hidden() -> None:
        inputs = Inputs.of(CASES["strided"], "cpu", small=True)
        inputs.tensors[0][0, 0, 1, 0] = float("nan")
        with use_backend("triton"):
            output = results(relative_attention, inputs, torch.float32)[0][0, 0]
        assert output[1].isnan().all()
        assert torch.isfinite(output[[0, 2, 3]]).all()

    def test_dropped_weights_are_those_of_the_mask() -> None:
        """With equal scores and unit values an output is the kept share over 1 - p."""
        query, value = torch.zeros(1, 1, 40, 16), torch.ones(1, 1, 70, 16)
        seed, nothing, table = torch.tensor([7]), torch.zeros(70, 70, dtype=torch.long), torch.zeros(1, 16, 1)
        arguments = query, value * 0, value, table, nothing, None, None, None, seed, 0.4, 1.0
        with use_backend("triton"):
            output = torch.ops.fusion.relative_attention(*arguments)[0]
        kept = keep_mask(seed, torch.arange(40), 70, 0.4).float().mean(1) / 0.6
        torch.testing.assert_close(output[0, 0], kept[:, None].expand(-1, 16))

    @pytest.mark.parametrize("case", ["treesatai", "looked up"])
    def test_order_of_blocks_does_not_depend_on_who_owns_them(case: str) -> None:
        inputs = Inputs.of(CASES[case], "cpu", small=True).common
        positions = inputs["query_position"], inputs["key_position"]
        queries, keys = (len(position) for position in positions)
        layout = Layout.of(inputs["bucket"], *positions, queries, keys, 8)
        for by_key in (False, True):
            order, counts = order_blocks(layout, Tile(16, 32, 1, 1), by_key)
            index = layout.table.index[positions[0].long()[:, None], positions[1].long()]
            for own, (walked, (edges, mixed)) in enumerate(zip(order.tolist(), counts.tolist(), strict=True)):
                assert sorted(walked) == list(range(len(walked)))
                for place, other in enumerate(walked):
                    q, k = (other, own) if by_key else (own, other)
                    block = index[16 * q : 16 * q + 16, 32 * k : 32 * k + 32].clone()
                    block[positions[0][16 * q : 16 * q + 16] < layout.table.extra] = 0
                    ends = 16 * q + 16 > queries if by_key else 32 * k + 32 > keys
                    edge = ends or bool((positions[1][32 * k : 32 * k + 32] < layout.table.extra).any())
                    assert (place < edges) == edge
                    assert edge or (place < mixed) == bool(block.any())
