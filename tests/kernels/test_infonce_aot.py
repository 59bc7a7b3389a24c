"""The Triton kernels of patch InfoNCE compiled for GPUs that are not here: what they need, and that it fits.

``python -m tests.kernels.test_infonce_aot`` writes the table anew after a change of kernels or tiles.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

from fusion.kernels.infonce import triton as infonce  # noqa: E402

from .aot import SHARED_LIMIT, Resources, compile_kernel  # noqa: E402

TABLE = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "sm_86" / "infonce.json"
STACK_LIMIT = 128  # bytes a thread: registers spilled before or after the loop, not in it
FEATURES = 256

_FLOATS = "scale inverse shift m z rival loss log_z log_y d unit weight grad slope"
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
def _rows(architecture: int, name: str) -> Resources:
    shared = {"PADDED_D": FEATURES, "ROWS": infonce.ROW_ELEMENTS // FEATURES, "SPLIT": True}
    kernel, constants = {
        "directions": (infonce.directions_kernel, {"D": FEATURES, "NORMALIZE": True, "NO_DIRECTION": 1e-8}),
        "row losses": (infonce.row_losses_kernel, {"ANCHORED": False, "ACCURACY": True, "TIE": 1e-5}),
        "row gradients": (infonce.row_gradients_kernel, {"D": FEATURES, "ANCHORED": False, "NORMALIZE": True}),
    }[name]
    return compile_kernel(kernel, SIGNATURE, {**shared, **constants}, architecture=architecture, warps=4, stages=2)


def _check(resources: Resources, architecture: int) -> None:
    assert resources.shared <= SHARED_LIMIT[architecture]
    assert resources.stack <= STACK_LIMIT
    assert not resources.truncates_tf32()


@pytest.mark.parametrize("one", PASSES, ids=str)
def test_sm_86_has_room_for_the_tiles(one: tuple) -> None:
    resources = _tiles(86, *one)
    _check(resources, 86)
    assert "mma.sync" in resources.ptx
    assert "bf16" in resources.ptx
    recorded = json.loads(TABLE.read_text())
    if recorded["triton"] == triton.__version__:
        assert _describe(resources) == recorded["kernels"][_name(one)]["resources"]


@pytest.mark.parametrize("one", [p for p in PASSES if p[2] and not p[3]], ids=str)
def test_sm_90_has_room_for_the_tiles(one: tuple) -> None:
    resources = _tiles(90, *one)
    _check(resources, 90)
    assert "wgmma" in resources.ptx


@pytest.mark.parametrize("name", ["directions", "row losses", "row gradients"])
def test_row_kernels_fit(name: str) -> None:
    _check(_rows(86, name), 86)


def _name(one: tuple) -> str:
    kind, name, fixed, accuracy = one
    return f"{name}, {kind}, {'one shift' if fixed else 'running maximum'}{', accuracy' if accuracy else ''}"


def _describe(resources: Resources) -> dict[str, int]:
    return {"shared": resources.shared, "registers": resources.registers, "stack": resources.stack}


def _costs(kind: str, name: str, tokens: int) -> dict[str, float]:
    """Operations, bytes that must move, and the least time either takes on an RTX A6000."""
    products = (1 if name == "forward" else 2) * (3 if kind == "split" else 1)
    operations = 2 * tokens**2 * FEATURES * products
    operand = tokens * FEATURES * (4 if kind == "split" else 2)
    moved = operand + (4 * tokens if name == "forward" else 4 * tokens * FEATURES)
    floor = max(operations / A6000["bf16 FLOP/s"], moved / A6000["bytes/s"])
    return {"operations": operations, "bytes": moved, "floor_ms": round(1e3 * floor, 3)}


def write_table() -> None:
    kernels = {
        _name(one): {
            "tile": vars(infonce.TILES[86, one[0], one[1]]),
            "resources": _describe(_tiles(86, *one)),
            "costs": {size: _costs(one[0], one[1], tokens) for size, tokens in SIZES.items()},
        }
        for one in PASSES
    }
    kernels |= {
        name: {"resources": _describe(_rows(86, name))} for name in ("directions", "row losses", "row gradients")
    }
    table = {
        "op": "patch_info_nce",
        "what": "compiled for sm_86, not run: resources of the kernels, and the least time of the paper's sizes",
        "triton": triton.__version__,
        "assumed": A6000,
        "kernels": kernels,
    }
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    write_table()
