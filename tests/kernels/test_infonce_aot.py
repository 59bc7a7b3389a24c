"""The Triton kernels of patch InfoNCE compiled for GPUs that are not here: what they need, and that it fits.

``python -m tests.kernels.test_infonce_aot`` writes the table anew after a change of kernels or tiles.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

triton = pytest.importorskip("triton")

from fusion.kernels._triton.device import tiles_of  # noqa: E402
from fusion.kernels.infonce.triton import backward, forward, plan, prepare, rows  # noqa: E402
from fusion.kernels.infonce.triton.tiles import TILES  # noqa: E402

from .aot import ARCHITECTURES, SM_86, Resources, compile_kernel, write  # noqa: E402

TABLE = SM_86 / "infonce.json"
# Bytes a thread that may be spilled, by whose tiles they are. Those of sm_90 were timed on an H100: for gradients and
# wide tokens, some that spill outside of the innermost loop were the fastest.
STACK_LIMIT = {
    86: {"halved": 64, "forward": 0, "backward": 16, "halved wide": 0, "forward wide": 0, "backward wide": 16},
    90: {"halved": 0, "forward": 0, "backward": 320, "halved wide": 128, "forward wide": 128, "backward wide": 768},
}
FEATURES, WIDE = 256, 768
N = {"treesatai": 13_824, "flair": 12_800, "pastis": 12_288}  # (3, 128, 36), (2, 64, 100), (3, 4, 1024) tokens
A6000 = {"bf16 FLOP/s": 154.8e12, "bytes/s": 768e9}
KERNELS = {
    "halved": forward.halved_kernel,
    "forward": forward.forward_kernel,
    "backward": backward.backward_kernel,
}

_FLOATS = "columns inverse shift m z rival loss log_z log_y log2_z d weight grad slope slopes temperature unit "
_FLOATS += "largest largest_grad"
_INTEGERS = "modality block ring edges anchor"
_COUNTS = {"tokens": N["treesatai"], "rows": N["treesatai"], "columns": N["treesatai"], "padded": N["treesatai"]}
_COUNTS |= {"splits": 2, "row_blocks": 108, "column_sums": 54}


def _signature(kind: str) -> dict[str, str]:
    tokens, operand = ("*bf16", "*bf16") if kind == "half" else ("*fp32", "*fp16")
    return {
        **{f"p_{name}": "*fp32" for name in _FLOATS.split()},
        **{f"p_{name}": "*i32" for name in _INTEGERS.split()},
        **{"p_tokens": tokens, "p_out": tokens, "p_high": operand, "p_low": operand, "p_hit": "*i8"},
        **dict.fromkeys(_COUNTS, "i32"),
        "temperature": "fp32",
    }


@functools.cache
def _compiled(architecture: int, kind: str, name: str, fixed: bool = True, accuracy: bool = False) -> Resources:
    """A kernel of tiles as the launcher launches it, ``name`` as in its table."""
    launched, _, wide = name.partition(" ")
    tile = TILES[tiles_of(architecture), kind, name]
    of_tiles = plan.tile_constants(tile, WIDE if wide else FEATURES, kind == "split", launched, False)
    constants: dict[str, Any] = {**of_tiles, "LEARNED": False, "NORMALIZE": True, "FIXED": fixed}
    constants |= {"ACCURACY": accuracy, "SCALED": kind == "split", "SLOPE": False}
    kernel = KERNELS[launched]
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    return compile_kernel(
        kernel,
        _signature(kind),
        constants,
        architecture=architecture,
        warps=tile.warps,
        stages=tile.stages,
        values=_COUNTS,
    )


@functools.cache
def _rows(name: str, place: bool = False) -> Resources:
    of_rows = plan.row_constants(FEATURES, True)
    flags = {"NORMALIZE": True, "LEARNED": False, "ANCHORED": False, "ACCURACY": True, "SLOPE": True, "SCALED": True}
    flags |= {"PLACE": place, "TIE": 1e-5, "NO_DIRECTION": 1e-8, "BACKWARD": True, "BLOCK_ROWS": 64}
    kernel = {
        "prepare": prepare.prepare_kernel,
        "losses": rows.losses_kernel,
        "gradients": rows.gradients_kernel,
    }[name]
    constants = {key: value for key, value in (of_rows | flags).items() if key in kernel.arg_names}
    return compile_kernel(
        kernel, _signature("split"), constants, architecture=86, warps=4, stages=3, values=_COUNTS | {"splits": 2}
    )


@pytest.mark.parametrize("one", TILES, ids=str)
def test_tiles_fit_and_repeat_no_product(one: tuple[int, str, str]) -> None:
    architecture, kind, name = one
    resources = _compiled(*one)
    resources.check(architecture, stack=STACK_LIMIT[architecture][name])
    if "wide" not in name:  # there the loop over features is unrolled or not, as the compiler likes
        assert resources.products() == _arithmetic(*one)
    if architecture == 86:
        resources.check_recorded(TABLE, f"{name}, {kind}")


def _arithmetic(architecture: int, kind: str, name: str) -> int:
    """Multiply-adds of one tile of each of the two loops, with labels compared and without."""
    tile = TILES[architecture, kind, name]
    similarities, sums = (4, 3) if kind == "split" else (1, 1)
    products = similarities + (sums if name == "backward" else 0)
    return 2 * products * tile.rows * tile.columns * FEATURES


@pytest.mark.extra
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if tiles_of(a) != a])
@pytest.mark.parametrize("kind", ["half", "split"])
@pytest.mark.parametrize("name", ["halved", "forward", "backward", "halved wide", "backward wide"])
def test_other_architectures_have_room_for_the_tiles_they_take(architecture: int, kind: str, name: str) -> None:
    _compiled(architecture, kind, name).check(architecture, stack=256 + STACK_LIMIT[tiles_of(architecture)][name])


@pytest.mark.parametrize("architecture", [86, 90])
@pytest.mark.parametrize("kind", ["half", "split"])
def test_a_running_maximum_and_accuracy_fit_too(architecture: int, kind: str) -> None:
    _compiled(architecture, kind, "forward", False, True).check(architecture, stack=512)
    _compiled(architecture, kind, "backward", False).check(architecture, stack=512)


@pytest.mark.parametrize("name", ["prepare", "losses", "gradients"])
def test_kernels_of_rows_fit(name: str) -> None:
    _rows(name).check(86, stack=0)


def test_losses_fit_where_positives_join_the_denominator() -> None:
    _rows("losses", place=True).check(86, stack=0)


def _costs(kind: str, name: str, tokens: int) -> dict[str, float]:
    """Operations, bytes that must move, and the least time of both on an RTX A6000.

    From half of the tiles S costs half, and each column gets a partial sum from every second block of rows, which is
    written and read.
    """
    similarities, sums = (0.5 if name == "halved" else 1, 1 if name == "backward" else 0)
    if kind == "split":
        similarities, sums = 4 * similarities, 3 * sums
    operations = int(2 * tokens**2 * FEATURES * (similarities + sums))
    moved = tokens * FEATURES * (4 if kind == "split" else 2) + 4 * tokens * (FEATURES if sums else 1)
    if name == "halved":
        moved += 8 * tokens * (triton.cdiv(tokens, TILES[86, kind, name].rows) // 2)
    floor = max(operations / A6000["bf16 FLOP/s"], moved / A6000["bytes/s"])
    return {"operations": operations, "bytes": moved, "floor_ms": round(1e3 * floor, 3)}


def write_table() -> None:
    kernels: dict[str, Any] = {}
    for architecture, kind, name in TILES:
        if architecture == 86:
            resources = _compiled(architecture, kind, name).numbers()
            kernels[f"{name}, {kind}"] = {"tile": vars(TILES[86, kind, name]), "resources": resources}
            if "wide" not in name:
                costs = {size: _costs(kind, name, tokens) for size, tokens in N.items()}
                kernels[f"{name}, {kind}"]["costs"] = costs
    kernels |= {name: {"resources": _rows(name).numbers()} for name in ("prepare", "losses", "gradients")}
    write(TABLE, "patch_info_nce", A6000, kernels)


if __name__ == "__main__":
    write_table()
