"""The Triton kernels of relative-position attention compiled for GPUs that are not here: what they need, and that
it fits.

``python -m tests.kernels.test_attention_aot`` writes the table anew after a change of kernels or tiles.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

triton = pytest.importorskip("triton")

from fusion.kernels._triton.device import tiles_of  # noqa: E402
from fusion.kernels.attention import triton as attention  # noqa: E402
from fusion.kernels.attention.triton.tiles import tile_for  # noqa: E402

from .aot import ARCHITECTURES, SM_86, Resources, check_recorded, compile_kernel, write  # noqa: E402

TABLE = SM_86 / "attention.json"
STACK_LIMIT = 64  # bytes a thread: a few registers spilled around a loop, not in it
DIM, NEAR = 16, 4  # OmniSat's head dimension, and iRPE's five buckets that occur less the far one

EUCLIDEAN = 3  # iRPE's table on a 32 x 32 grid: its fourth bucket is the far one

_FLOATS = "table bias largest weight rows partial near"
_INTEGERS = "live query_position key_position order counts"
_NUMBERS = (
    "heads queries keys positions buckets rows drop_below qb qh ql kb kh kl vb vh vl gb gh gl ob oh ol extra walked "
    "columns"
)
_OPERANDS = "query key value output grad_output grad_query grad_key grad_value gradient"
PASSES = {
    "forward": attention.forward_kernel,
    "queries": attention.queries_kernel,
    "keys": attention.keys_kernel,
}
KINDS = {2: "*bf16", 4: "*fp32"}
# Width of an operand, pass, and whether buckets come from coordinates.
TABLES = [(width, name, euclidean) for width in KINDS for name in PASSES for euclidean in (False, True)]
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
MULTIPROCESSORS, REGISTERS, WARPS, SHARED = 84, 65_536, 48, 102_400  # of it, and of one multiprocessor


def _values(dim: int) -> dict[str, int]:
    """Integers of a launch at PASTIS-HD; query, key and value are parts of one projection's result."""
    length, width = 3073, HEADS * dim
    strides = {"b": length * width, "h": dim, "l": width}
    projected = {tensor + size: (1 if size == "h" else 3) * n for tensor in "qkv" for size, n in strides.items()}
    merged = {tensor + size: n for tensor in "go" for size, n in strides.items()}
    numbers = {"heads": HEADS, "queries": length, "keys": length, "positions": 1025, "buckets": 8, "extra": 1}
    return projected | merged | numbers | {"rows": 4 * HEADS * length, "walked": 97, "columns": dim}


@functools.cache
def _compiled(
    architecture: int, width: int, name: str, euclidean: bool = False, masked: bool = False, dim: int = DIM
) -> Resources:
    tile = tile_for(tiles_of(architecture), width, name, dim, euclidean)
    constants = {
        **{"D": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim)), "QUERIES": tile.rows, "KEYS": tile.columns},
        **{"NEAR": NEAR, "VALID": masked, "DROPOUT": masked, "PRECISION": "ieee"},
        **{"EUCLIDEAN": EUCLIDEAN if euclidean else -1},
    }
    if name != "keys":
        constants |= {"CONTEXTUAL": True, "SHARED": True}
    if name == "queries":
        constants["BLOCK_N"] = NEAR
    if name == "forward":
        constants["BLOCK_L"] = 8
    options = {"architecture": architecture, "warps": tile.warps, "stages": tile.stages}
    return compile_kernel(PASSES[name], _signature(width, euclidean), constants, values=_values(dim), **options)


def _signature(width: int, euclidean: bool) -> dict[str, str]:
    return {
        **{f"p_{name}": KINDS[width] for name in _OPERANDS.split()},
        **{f"p_{name}": "*fp32" for name in _FLOATS.split()},
        **{f"p_{name}": "*i32" for name in _INTEGERS.split()},
        **{f"p_{name}_place": "*fp16" if euclidean else "*i32" for name in ("query", "key")},
        **{"p_index": "*u8", "p_valid": "*u8", "p_seed": "*i64", "p_kinds": "*i8", "scale": "fp32", "kept": "fp32"},
        **dict.fromkeys(_NUMBERS.split(), "i32"),
    }


@pytest.mark.parametrize(
    ("architecture", "one"),
    [
        pytest.param(architecture, one, marks=[pytest.mark.extra] if (architecture, one[0]) == (90, 4) else [])
        for architecture in (86, 90)
        for one in TABLES
    ],
    ids=str,
)
def test_tiles_fit_and_multiply_no_more_than_they_must(architecture: int, one: tuple[int, str, bool]) -> None:
    resources = _compiled(architecture, *one)
    resources.check(architecture, stack=STACK_LIMIT)
    if one[0] == 2:
        assert resources.products_by_loop() == _products(architecture, *one)
    else:
        assert "tf32" not in resources.ptx  # float32 products are exact
    if architecture == 86:
        check_recorded(TABLE, _title(*one), _numbers(one))


def _products(architecture: int, width: int, name: str, euclidean: bool) -> list[int]:
    """Multiply-adds of a pass through each loop: its products, and that of coordinates but in far blocks."""
    tile = tile_for(architecture, width, name, DIM, euclidean)
    once = tile.rows * tile.columns * DIM
    return [once * (_WORK[name][0] + (euclidean and mixed)) for mixed in (True, True, False)]


@pytest.mark.parametrize("one", [one for one in TABLES if one[0] == 2], ids=str)
def test_masks_and_dropout_fit(one: tuple[int, str, bool]) -> None:
    _compiled(86, *one, masked=True).check(86, stack=STACK_LIMIT)


@pytest.mark.extra
@pytest.mark.parametrize("one", [one for one in TABLES if one[0] == 2 and one[2]], ids=str)
def test_wide_heads_fit(one: tuple[int, str, bool]) -> None:
    _compiled(86, *one, dim=64).check(86, stack=STACK_LIMIT)


@pytest.mark.extra
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a not in (86, 90)])
@pytest.mark.parametrize("name", PASSES)
def test_other_architectures_have_room_for_the_tiles_they_take(name: str, architecture: int) -> None:
    _compiled(architecture, 2, name, True).check(architecture, stack=STACK_LIMIT)


@pytest.mark.parametrize("width", KINDS)
@pytest.mark.parametrize("name", ["rows", "table", "kinds", "order"])
def test_small_kernels_fit(name: str, width: int) -> None:
    of_rows = {"D": DIM, "BLOCK_D": DIM, "QUERIES": 64, "NEAR": NEAR, "BLOCK_L": 8, "CONTEXTUAL": True, "SHARED": True}
    kernel, constants = {
        "rows": (attention.rows_kernel, of_rows | {"EUCLIDEAN": EUCLIDEAN, "DROPOUT": True}),
        "table": (attention.table_kernel, {"NEAR": NEAR, "BLOCK_D": DIM, "BUCKETS": 8}),
        "kinds": (attention.kinds_kernel, {"QUERIES": 32, "KEYS": 64, "BY_KEY": False}),
        "order": (attention.order_kernel, {"WALKED": 128}),
    }[name]
    options = {"architecture": 86, "warps": 4, "stages": 3}
    compile_kernel(kernel, _signature(width, True), constants, values=_values(DIM), **options).check(86, stack=0)


def _title(width: int, name: str, euclidean: bool) -> str:
    return f"{name}, {KINDS[width][1:]}{', closed form' if euclidean else ''}"


# Products, tensors of query and of key length that a pass reads or writes.
_WORK = {"forward": (2, 2, 2), "queries": (3, 3, 2), "keys": (4, 2, 4)}


def _costs(width: int, name: str, batch: int, queries: int, keys: int) -> dict[str, float]:
    """Operations, exponentials, bytes that must move, and the least time each takes on an RTX A6000."""
    scores = batch * HEADS * queries * keys
    products, of_queries, of_keys = _WORK[name]
    operations = 2 * products * DIM * scores
    moved = batch * HEADS * DIM * width * (of_queries * queries + of_keys * keys)
    rate = A6000["bf16 FLOP/s" if width == 2 else "fp32 FLOP/s"]
    floors = {
        "products": operations / rate,
        "exponentials": scores / A6000["exp/s"],
        "memory": moved / A6000["bytes/s"],
    }
    bound = max(floors, key=floors.__getitem__)
    floor = round(1e3 * floors[bound], 4)
    return {"operations": operations, "exponentials": scores, "bytes": moved, "floor_ms": floor, "bound": bound}


def _programs(one: tuple[int, str, bool], batch: int, queries: int, keys: int) -> dict[str, int]:
    """Programs of a launch, and how many run at once on an RTX A6000."""
    width, name, euclidean = one
    tile, resources = tile_for(86, width, name, DIM, euclidean), _compiled(86, *one)
    blocks = triton.cdiv(keys, tile.columns) if name == "keys" else triton.cdiv(queries, tile.rows)
    registers = triton.cdiv(resources.registers, 8) * 8 * 32 * tile.warps
    at_once = min(REGISTERS // registers, WARPS // tile.warps, SHARED // (resources.shared + 1024))
    return {"programs": batch * HEADS * blocks, "at_once": MULTIPROCESSORS * at_once}


def _numbers(one: tuple[int, str, bool]) -> dict[str, Any]:
    """What one kernel needs, and instructions a thread spends on one of its scores, by kind of block."""
    tile, resources = tile_for(86, *one[:2], DIM, one[2]), _compiled(86, *one)
    scores = tile.rows * tile.columns / (32 * tile.warps)
    counts = dict(zip(("edge", "mixed", "far"), resources.loops(), strict=True))
    a_score = {kind: round(count / scores, 1) for kind, count in counts.items()}
    return resources.numbers() | {"instructions_a_score": a_score}


def write_table() -> None:
    """Writes the table for this Triton; what others compiled stays where the tile is the same."""
    known = json.loads(TABLE.read_text())["kernels"] if TABLE.exists() else {}
    kernels = {}
    for one in TABLES:
        tile = vars(tile_for(86, *one[:2], DIM, one[2]))
        before = known.get(_title(*one), {})
        compiled = dict(before.get("compiled", {})) if before.get("tile") == tile else {}
        compiled[triton.__version__] = _numbers(one)
        costs = {size: _costs(*one[:2], *numbers) | _programs(one, *numbers) for size, numbers in SIZES.items()}
        kernels[_title(*one)] = {"tile": tile, "compiled": dict(sorted(compiled.items())), "costs": costs}
    write(TABLE, "relative_attention", A6000, kernels)


if __name__ == "__main__":
    write_table()
