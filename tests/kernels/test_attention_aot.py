"""The Triton kernels of relative-position attention compiled for GPUs that are not here: what they need, and that
it fits.

``python -m tests.kernels.test_attention_aot`` writes the table anew after a change of kernels or tiles.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

from fusion.kernels.attention import triton as attention  # noqa: E402

from .aot import SHARED_LIMIT, Resources, compile_kernel  # noqa: E402

TABLE = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "sm_86" / "attention.json"
STACK_LIMIT = 64  # bytes a thread: a few registers spilled around a loop, not in it
DIM, NEAR = 16, 4  # OmniSat's head dimension, and iRPE's five buckets that occur less the far one

_FLOATS = "table bias largest weight rows partial"
_INTEGERS = "live query_position key_position order mixed"
_NUMBERS = "heads queries keys positions buckets rows drop_below qb qh ql kb kh kl vb vh vl gb gh gl ob oh ol"
_OPERANDS = "query key value output grad_output grad_query grad_key grad_value"
PASSES = {
    "forward": attention.forward_kernel,
    "queries": attention.queries_kernel,
    "keys": attention.keys_kernel,
}
KINDS = {2: "*bf16", 4: "*fp32"}
# B, Lq, Lk of the combiner's blocks with 16 heads: TreeSatAI and FLAIR at the paper's batch, PASTIS-HD at 4 tiles.
SIZES = {
    "treesatai self": (128, 109, 109),
    "treesatai cross": (128, 37, 109),
    "flair self": (64, 201, 201),
    "pastis self": (4, 3073, 3073),
    "pastis cross": (4, 1025, 3073),
}
HEADS = 16
A6000 = {"bf16 FLOP/s": 154.8e12, "fp32 FLOP/s": 38.7e12, "exp/s": 2.42e12, "bytes/s": 768e9}


@functools.cache
def _compiled(architecture: int, width: int, name: str, dropout: bool = False, dim: int = DIM) -> Resources:
    tile = attention.tile_for(architecture, width, name, dim)
    constants = {
        **{"D": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim)), "QUERIES": tile.queries, "KEYS": tile.keys},
        **{"NEAR": NEAR, "VALID": dropout, "DROPOUT": dropout, "PRECISION": "ieee"},
    }
    if name != "keys":
        constants |= {"CONTEXTUAL": True, "SHARED": True}
    if name == "queries":
        constants["BLOCK_N"] = NEAR
    return compile_kernel(
        PASSES[name], _signature(width), constants, architecture=architecture, warps=tile.warps, stages=tile.stages
    )


def _signature(width: int) -> dict[str, str]:
    return {
        **{f"p_{name}": KINDS[width] for name in _OPERANDS.split()},
        **{f"p_{name}": "*fp32" for name in _FLOATS.split()},
        **{f"p_{name}": "*i32" for name in _INTEGERS.split()},
        **{"p_index": "*u8", "p_valid": "*u8", "p_seed": "*i64", "scale": "fp32", "kept": "fp32"},
        **dict.fromkeys(_NUMBERS.split(), "i32"),
    }


def _check(resources: Resources, architecture: int) -> None:
    assert resources.shared <= SHARED_LIMIT[architecture]
    assert resources.stack <= STACK_LIMIT
    assert not resources.truncates_tf32()


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("width", KINDS)
def test_sm_86_has_room_for_the_tiles(width: int, name: str) -> None:
    resources = _compiled(86, width, name)
    _check(resources, 86)
    assert ("mma.sync" in resources.ptx) == (width == 2)  # float32 products are exact, not tf32
    recorded = json.loads(TABLE.read_text())
    if recorded["triton"] == triton.__version__:
        assert _describe(resources) == recorded["kernels"][_title(name, width)]["resources"]


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("width", KINDS)
def test_sm_86_has_room_for_masks_and_dropout(width: int, name: str) -> None:
    _check(_compiled(86, width, name, dropout=True), 86)


@pytest.mark.parametrize("name", PASSES)
def test_sm_86_has_room_for_wide_heads(name: str) -> None:
    _check(_compiled(86, 2, name, dim=64), 86)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("width", KINDS)
def test_sm_90_has_room_for_the_tiles(width: int, name: str) -> None:
    _check(_compiled(90, width, name), 90)


@pytest.mark.parametrize("name", ["rows", "blocks"])
def test_small_kernels_fit(name: str) -> None:
    if name == "rows":
        constants = {"D": DIM, "BLOCK_D": DIM, "QUERIES": 64, "NEAR": NEAR, "CONTEXTUAL": True, "SHARED": True}
        kernel, signature = attention.rows_kernel, _signature(2)
    else:
        constants = {"QUERIES": 64, "KEYS": 64}
        kernel, signature = attention.block_kernel, _signature(2) | {"p_mixed": "*i8"}
    _check(compile_kernel(kernel, signature, constants, architecture=86, warps=4, stages=2), 86)


def _title(name: str, width: int) -> str:
    return f"{name}, {KINDS[width][1:]}"


def _describe(resources: Resources) -> dict[str, int]:
    return {"shared": resources.shared, "registers": resources.registers, "stack": resources.stack}


def _costs(name: str, width: int, batch: int, queries: int, keys: int) -> dict[str, float]:
    """Operations, exponentials, bytes that must move, and the least time each takes on an RTX A6000."""
    scores = batch * HEADS * queries * keys
    products = {"forward": 2, "queries": 3, "keys": 4}[name]
    operations = 2 * products * DIM * scores
    rows = {"forward": (2, 2), "queries": (3, 2), "keys": (2, 4)}[name]  # tensors of query and of key length
    moved = batch * HEADS * DIM * width * (rows[0] * queries + rows[1] * keys)
    rate = A6000["bf16 FLOP/s" if width == 2 else "fp32 FLOP/s"]
    floors = {
        "products": operations / rate,
        "exponentials": scores / A6000["exp/s"],
        "memory": moved / A6000["bytes/s"],
    }
    bound = max(floors, key=floors.__getitem__)
    floor = round(1e3 * floors[bound], 4)
    return {"operations": operations, "exponentials": scores, "bytes": moved, "floor_ms": floor, "bound": bound}


def write_table() -> None:
    kernels = {
        _title(name, width): {
            "tile": vars(attention.tile_for(86, width, name, DIM)),
            "resources": _describe(_compiled(86, width, name)),
            "costs": {size: _costs(name, width, *numbers) for size, numbers in SIZES.items()},
        }
        for width in KINDS
        for name in PASSES
    }
    table = {
        "op": "relative_attention",
        "what": "compiled for sm_86, not run: resources of the kernels, and the least time of the paper's sizes",
        "triton": triton.__version__,
        "assumed": A6000,
        "kernels": kernels,
    }
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    write_table()
