"""The Triton kernels of patch InfoNCE compiled for GPUs that are not here: what they need, and that it fits.

``python -m tests.kernels.test_infonce_aot`` writes the table anew after a change of kernels or tiles.
"""

from __future__ import annotations

import functools

import pytest

triton = pytest.importorskip("triton")

from fusion.kernels.infonce import triton as infonce  # noqa: E402

from .aot import SM_86, Resources, compile_kernel, write  # noqa: E402

TABLE = SM_86 / "infonce.json"
STACK_LIMIT = 128  # bytes a thread: registers spilled before or after the loop, not in it
FEATURES = 256

_FLOATS = "columns scale inverse shift m z rival loss log_z log_y d unit weight grad slope"
_INTEGERS = "modality block ring edges anchor"
SIGNATURE = {
    **{f"p_{name}": "*fp32" for name in _FLOATS.split()},
    **{f"p_{name}": "*i32" for name in _INTEGERS.split()},
    **{f"p_{name}": "*bf16" for name in ("tokens", "high", "low", "out")},
    **dict.fromkeys(("tokens", "padded", "rows", "columns", "splits"), "i32"),
    "p_hit": "*i8",
}
# (kind of product, pass, one shift for all rows, accuracy)
PASSES = [
    (kind, name, fixed, accuracy)
    for kind in ("half", "split")
    for name, fixed, accuracy in (
        ("forward", True, False),
        ("forward", True, True),
        ("forward", False, False),
        ("backward", True, False),
        ("backward", False, False),
    )
]
# N of the paper's batches: TreeSatAI (3, 128, 36), FLAIR (2, 64, 100), PASTIS-HD (3, 4, 1024).
SIZES = {"treesatai": 13_824, "flair": 12_800, "pastis": 12_288}
A6000 = {"bf16 FLOP/s": 154.8e12, "bytes/s": 768e9}


@functools.cache
def _tiles(architecture: int, kind: str, name: str, fixed: bool, accuracy: bool) -> Resources:
    tile = infonce.TILES[architecture, kind, name]
    constants = {
        **{"ROWS": tile.rows, "COLUMNS": tile.columns, "PADDED_D": FEATURES, "BLOCK_D": FEATURES},
        **{"SPLIT": kind == "split", "FIXED": fixed, "ANCHORED": False},
    }
    if name == "forward":
        constants["ACCURACY"] = accuracy
    kernel = {"forward": infonce.forward_kernel, "backward": infonce.backward_kernel}[name]
    return compile_kernel(kernel, SIGNATURE, constants, architecture=architecture, warps=tile.warps, stages=tile.stages)


@functools.cache
def _half(architecture: int, kind: str) -> Resources:
    tile = infonce.TILES[architecture, kind, "forward"]
    constants = {"ROWS": tile.rows, "PADDED_D": FEATURES, "BLOCK_D": FEATURES, "SPLIT": kind == "split"}
    kernel = infonce.half_forward_kernel
    return compile_kernel(kernel, SIGNATURE, constants, architecture=architecture, warps=tile.warps, stages=tile.stages)


@functools.cache
def _rows(architecture: int, name: str) -> Resources:
    shared = {"PADDED_D": FEATURES, "ROWS": infonce.ROW_ELEMENTS // FEATURES, "SPLIT": True}
    kernel, constants = {
        "directions": (infonce.directions_kernel, {"D": FEATURES, "NORMALIZE": True, "NO_DIRECTION": 1e-8}),
        "row losses": (infonce.row_losses_kernel, {"ANCHORED": False, "ACCURACY": True, "TIE": 1e-5}),
        "row gradients": (infonce.row_gradients_kernel, {"D": FEATURES, "ANCHORED": False, "NORMALIZE": True}),
    }[name]
    return compile_kernel(kernel, SIGNATURE, {**shared, **constants}, architecture=architecture, warps=4, stages=2)


@pytest.mark.parametrize("one", PASSES, ids=str)
def test_sm_86_has_room_for_the_tiles(one: tuple) -> None:
    resources = _tiles(86, *one)
    resources.check(86, stack=STACK_LIMIT)
    assert "mma.sync" in resources.ptx
    assert "bf16" in resources.ptx
    resources.check_recorded(TABLE, _name(one))


@pytest.mark.parametrize("one", [p for p in PASSES if p[2] and not p[3]], ids=str)
def test_sm_90_has_room_for_the_tiles(one: tuple) -> None:
    resources = _tiles(90, *one)
    resources.check(90, stack=STACK_LIMIT)
    assert "wgmma" in resources.ptx


@pytest.mark.parametrize("kind", ["half", "split"])
def test_sm_86_has_room_for_half_of_the_tiles(kind: str) -> None:
    resources = _half(86, kind)
    resources.check(86, stack=STACK_LIMIT)
    resources.check_recorded(TABLE, f"half of the tiles, {kind}")


def test_sm_90_has_room_for_half_of_the_tiles() -> None:
    _half(90, "half").check(90, stack=STACK_LIMIT)


@pytest.mark.parametrize("name", ["directions", "row losses", "row gradients"])
def test_row_kernels_fit(name: str) -> None:
    _rows(86, name).check(86, stack=STACK_LIMIT)


def _name(one: tuple) -> str:
    kind, name, fixed, accuracy = one
    return f"{name}, {kind}, {'one shift' if fixed else 'running maximum'}{', accuracy' if accuracy else ''}"


def _costs(kind: str, name: str, tokens: int, half: bool = False) -> dict[str, float]:
    """Operations, bytes that must move, and the least time of both on an RTX A6000.

    From half of the tiles S costs half, and each column gets a partial sum (forward) or gradient (backward) from
    every second block of rows, which is written and read.
    """
    similarities, sums = (0.5 if half else 1, 0 if name == "forward" else 1)
    operations = int(2 * tokens**2 * FEATURES * (similarities + sums) * (3 if kind == "split" else 1))
    operand = tokens * FEATURES * (4 if kind == "split" else 2)
    of_row = 4 * tokens * (1 if name == "forward" else FEATURES)
    moved = operand + of_row
    if half:
        moved += 2 * of_row * (triton.cdiv(tokens, infonce.TILES[86, kind, name].rows) // 2)
    floor = max(operations / A6000["bf16 FLOP/s"], moved / A6000["bytes/s"])
    return {"operations": operations, "bytes": moved, "floor_ms": round(1e3 * floor, 3)}


def write_table() -> None:
    def costs(kind: str, name: str, half: bool = False) -> dict[str, dict[str, float]]:
        return {size: _costs(kind, name, tokens, half) for size, tokens in SIZES.items()}

    kernels = {
        _name(one): {
            "tile": vars(infonce.TILES[86, one[0], one[1]]),
            "resources": _tiles(86, *one).numbers(),
            "costs": costs(one[0], one[1]),
        }
        for one in PASSES
    }
    kernels |= {
        f"half of the tiles, {kind}": {
            "tile": vars(infonce.TILES[86, kind, "forward"]),
            "resources": _half(86, kind).numbers(),
            "costs": costs(kind, "forward", half=True),
        }
        for kind in ("half", "split")
    }
    kernels |= {
        name: {"resources": _rows(86, name).numbers()} for name in ("directions", "row losses", "row gradients")
    }
    kernels |= {
        f"backward from half of the tiles, {kind}: counted, not built": {"costs": costs(kind, "backward", half=True)}
        for kind in ("half", "split")
    }
    write(TABLE, "patch_info_nce", A6000, kernels)


if __name__ == "__main__":
    write_table()
