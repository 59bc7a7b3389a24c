"""The Triton kernels of relative-position attention compiled for GPUs that are not here: what they need, and that
it fits.

``python -m tests.kernels.test_attention_aot`` writes the table anew after a change of kernels or tiles.
"""

from __future__ import annotations

import functools

import pytest

triton = pytest.importorskip("triton")

from fusion.kernels.attention import triton as attention  # noqa: E402
from fusion.kernels.attention.triton import launch  # noqa: E402

from .aot import SM_86, Resources, compile_kernel, write  # noqa: E402

TABLE = SM_86 / "attention.json"
STACK_LIMIT = 64  # bytes a thread: a few registers spilled around a loop, not in it
DIM, NEAR = 16, 4  # OmniSat's head dimension, and iRPE's five buckets that occur less the far one

EUCLIDEAN = 3  # iRPE's table on a 32 x 32 grid: its fourth bucket is the far one

_FLOATS = "table bias largest weight rows partial"
_INTEGERS = "live query_place key_place query_position key_position order mixed"
_NUMBERS = (
    "heads pairs together queries keys positions buckets rows drop_below qb qh ql kb kh kl vb vh vl gb gh gl ob oh ol"
)
_OPERANDS = "query key value output grad_output grad_query grad_key grad_value"
PASSES = {
    "forward": attention.forward_kernel,
    "queries": attention.queries_kernel,
    "keys": attention.keys_kernel,
}
KINDS = {2: "*bf16", 4: "*fp32"}
# Width of an operand, pass, and whether buckets come from coordinates.
TABLES = [(width, name, False) for width in KINDS for name in PASSES]
TABLES += [(width, name, True) for architecture, width, name in launch.EUCLIDEAN_TILES if architecture == 86]
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


@functools.cache
def _compiled(
    architecture: int, width: int, name: str, euclidean: bool = False, masked: bool = False, dim: int = DIM
) -> Resources:
    euclidean = euclidean and (architecture, width, name) in launch.EUCLIDEAN_TILES
    tile = launch.tile_for(architecture, width, name, dim, euclidean)
    constants = {
        **{"D": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim)), "QUERIES": tile.rows, "KEYS": tile.columns},
        **{"NEAR": NEAR, "VALID": masked, "DROPOUT": masked, "PRECISION": "ieee"},
    }
    if name != "keys":
        constants |= {"CONTEXTUAL": True, "SHARED": True, "EUCLIDEAN": EUCLIDEAN if euclidean else -1}
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


@pytest.mark.parametrize("one", TABLES, ids=str)
def test_sm_86_has_room_for_the_tiles(one: tuple[int, str, bool]) -> None:
    resources = _compiled(86, *one)
    resources.check(86, stack=STACK_LIMIT)
    assert ("mma.sync" in resources.ptx) == (one[0] == 2)  # float32 products are exact, not tf32
    resources.check_recorded(TABLE, _title(*one))


@pytest.mark.parametrize("one", TABLES, ids=str)
def test_sm_86_has_room_for_masks_and_dropout(one: tuple[int, str, bool]) -> None:
    _compiled(86, *one, masked=True).check(86, stack=STACK_LIMIT)


@pytest.mark.parametrize("one", [one for one in TABLES if one[0] == 2], ids=str)
def test_sm_86_has_room_for_wide_heads(one: tuple[int, str, bool]) -> None:
    _compiled(86, *one, dim=64).check(86, stack=STACK_LIMIT)


@pytest.mark.parametrize("one", TABLES, ids=str)
def test_sm_90_has_room_for_the_tiles(one: tuple[int, str, bool]) -> None:
    _compiled(90, *one).check(90, stack=STACK_LIMIT)


@pytest.mark.parametrize("name", ["rows", "blocks"])
def test_small_kernels_fit(name: str) -> None:
    if name == "rows":
        constants = {"D": DIM, "BLOCK_D": DIM, "QUERIES": 64, "NEAR": NEAR, "CONTEXTUAL": True, "SHARED": True}
        kernel, signature = attention.rows_kernel, _signature(2)
    else:
        constants = {"QUERIES": 64, "KEYS": 64}
        kernel, signature = attention.block_kernel, _signature(2) | {"p_mixed": "*i8"}
    compile_kernel(kernel, signature, constants, architecture=86, warps=4, stages=2).check(86, stack=STACK_LIMIT)


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
    tile, resources = launch.tile_for(86, width, name, DIM, euclidean), _compiled(86, *one)
    blocks = triton.cdiv(keys, tile.columns) if name == "keys" else triton.cdiv(queries, tile.rows)
    registers = triton.cdiv(resources.registers, 8) * 8 * 32 * tile.warps
    at_once = min(REGISTERS // registers, WARPS // tile.warps, SHARED // (resources.shared + 1024))
    return {"programs": batch * HEADS * blocks, "at_once": MULTIPROCESSORS * at_once}


def _instructions(one: tuple[int, str, bool]) -> dict[str, float]:
    """Instructions a thread spends on one of its scores, in blocks with and without near buckets."""
    tile = launch.tile_for(86, *one[:2], DIM, one[2])
    scores = tile.rows * tile.columns / (32 * tile.warps)
    mixed, far = _compiled(86, *one).loops()
    return {"mixed": round(mixed / scores, 1), "far": round(far / scores, 1)}


def write_table() -> None:
    kernels = {
        _title(*one): {
            "tile": vars(launch.tile_for(86, *one[:2], DIM, one[2])),
            "resources": _compiled(86, *one).numbers(),
            "instructions_a_score": _instructions(one),
            "costs": {size: _costs(*one[:2], *numbers) | _programs(one, *numbers) for size, numbers in SIZES.items()},
        }
        for one in TABLES
    }
    write(TABLE, "relative_attention", A6000, kernels)


if __name__ == "__main__":
    write_table()
