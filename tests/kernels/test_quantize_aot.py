"""The GPU code of quantization compiled for GPUs that are not here: what it needs, and that it fits.

``python -m tests.kernels.test_quantize_aot`` writes the table anew after a change of kernels or tiles.
"""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

from fusion.kernels import toolchain  # noqa: E402
from fusion.kernels.quantize import triton as quantize  # noqa: E402
from fusion.kernels.quantize.triton.tiles import BLOCK, row_block, tile_for  # noqa: E402

from .aot import ARCHITECTURES, SM_86, Resources, compile_kernel, write  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TABLE = SM_86 / "quantize.json"
# N, K, D: a day's pixels, a batch of a codebook in training, and few values a vector.
SIZES = {
    "500k x 512 x 64": (500_000, 512, 64),
    "131k x 1024 x 32": (131_072, 1024, 32),
    "1M x 1024 x 8": (1 << 20, 1024, 8),
}
STACK_LIMIT = 16  # bytes a thread: a few addresses kept, no spilled values
A6000 = {"fp16 FLOP/s": 154.8e12, "bytes/s": 768e9}
DIMENSIONS = (8, 32, 64, 128, 256)
# Instructions of the loop over codes for one score, in a thread, of which tensor cores' are 3 D / 16 / 16 x 2.
PER_SCORE = {8: 8, 32: 10, 64: 13, 128: 17}


@functools.cache
def _nearest(architecture: int, element: str, dim: int, cosine: bool = False) -> Resources:
    tile = tile_for(architecture, dim)
    signature = {
        **{"p_x": f"*{element}", "p_high": "*fp16", "p_low": "*fp16", "p_nearest": "*i64"},
        **{"p_exact": "*fp32" if cosine else f"*{element}"},
        **dict.fromkeys(("p_bias", "p_centre", "p_norm"), "*fp32"),
        **dict.fromkeys(("rows", "size", "parts", "dim", "stride", "exact_stride"), "i32"),
    }
    constants = {"D": dim, "ROWS": tile.rows, "CODES": tile.columns, "DEPTH": tile.depth, "COSINE": cosine}
    values = {"rows": 500_000, "size": 512, "parts": 16, "dim": dim, "stride": dim, "exact_stride": dim}
    return compile_kernel(
        quantize.nearest_kernel,
        signature,
        constants,
        architecture=architecture,
        warps=tile.warps,
        stages=tile.stages,
        values=values,
    )


def _instructions(resources: Resources, architecture: int, dim: int) -> float:
    """Of the loop over codes, a score and thread."""
    tile = tile_for(architecture, dim)
    loops = [n for n, products in zip(resources.loops(), resources.products_by_loop(), strict=True) if products]
    return max(loops) / (tile.rows * tile.columns / (32 * tile.warps))


ELEMENTS = {64: ("fp32", "bf16", "fp16"), 256: ("fp32", "bf16", "fp16")}  # elsewhere only loads would differ
SEARCHES = [*((a, d) for a in (86, 90) for d in DIMENSIONS), (80, 64), (89, 64), (100, 64), (120, 64)]


@pytest.mark.parametrize(
    ("architecture", "dim", "element"), [(a, d, e) for a, d in SEARCHES for e in ELEMENTS.get(d, ("fp32",))]
)
def test_the_tiles_of_the_search_fit(architecture: int, dim: int, element: str) -> None:
    tile = tile_for(architecture, dim)
    resources = _nearest(architecture, element, dim)
    resources.check(architecture, stack=0)
    assert "tf32" not in resources.ptx  # it would choose wrong neighbours, rounded or not
    if architecture != 100:  # whose instructions take their shape from a descriptor
        assert resources.products() == 3 * tile.rows * tile.columns * tile.depth
        if dim in PER_SCORE:
            assert _instructions(resources, architecture, dim) <= PER_SCORE[dim]
    if architecture == 86:
        resources.check_recorded(TABLE, _name(element, dim))


def test_the_search_for_directions_fits() -> None:
    for architecture, dim in ((86, 64), (90, 256)):
        _nearest(architecture, "fp32", dim, cosine=True).check(architecture, stack=0)


def _row_shape(dim: int) -> tuple[dict[str, int], int]:
    shape, _ = row_block(dim, 1)
    return {name: value for name, value in shape.items() if name != "num_warps"}, shape["num_warps"]


# Name: kernel, pointers to values of the type that is compiled, other arguments, constants; rows of 64 values.
KERNELS: dict[str, tuple[Any, str, dict[str, str], dict[str, Any]]] = {
    "columns": (
        quantize.columns_kernel,
        "p_codebook",
        {"p_sums": "*fp64", "size": "i32", "stride": "i32"},
        {"D": 64, "CODES": 32, "DEPTH": 64, "PARTS": 32, "COSINE": False},
    ),
    "split": (
        quantize.split_kernel,
        "p_codebook",
        {
            **{"p_sums": "*fp64", "p_high": "*fp16", "p_low": "*fp16", "size": "i32", "stride": "i32"},
            **dict.fromkeys(("p_bias", "p_centre", "p_exact", "p_norm"), "*fp32"),
        },
        {"D": 64, "CODES": 32, "DEPTH": 64, "PARTS": 32, "COSINE": True},
    ),
    "bin_encode": (
        quantize.encode_kernel,
        "p_values",
        {"p_inner": "*fp32", "p_plan": "*fp32", "p_codes": "*i64", "count": "i32", "bins": "i32"},
        {"LEVELS": 8, "BLOCK": BLOCK},
    ),
    "bin_decode": (
        quantize.decode_kernel,
        "p_centres p_values",
        {"p_codes": "*i64", "count": "i32", "size": "i32"},
        {"BLOCK": BLOCK},
    ),
    "bin_decode, vectors": (
        quantize.decode_rows_kernel,
        "p_centres p_values",
        {"p_codes": "*i64", "rows": "i32", "size": "i32", "stride": "i32"},
        _row_shape(64)[0],
    ),
    "finite_scalar_quantize": (
        quantize.scalars_kernel,
        "p_z p_quantized",
        {"p_constant": "*fp32", "p_place": "*i64", "p_codes": "*i64", "rows": "i32"},
        {**_row_shape(5)[0], "SIGMOID": False, "WIDE": False},
    ),
    "finite_scalar_quantize_backward": (
        quantize.scalars_backward_kernel,
        "p_grad p_z p_dz",
        {"p_constant": "*fp32", "rows": "i32"},
        {**_row_shape(5)[0], "SIGMOID": False},
    ),
    "code_statistics, mark": (
        quantize.mark_kernel,
        "p_x",
        {
            **{"p_codes": "*i64", "p_used": "*i32", "p_counts": "*i64", "p_largest": "*i32"},
            **dict.fromkeys(("rows", "size", "stride"), "i32"),
        },
        _row_shape(64)[0],
    ),
    "code_statistics, add": (
        quantize.add_kernel,
        "p_x",
        {
            **{"p_used": "*i32", "p_largest": "*i32", "p_sums": "*i64", "fraction": "fp32"},
            **dict.fromkeys(("rows", "stride", "shift"), "i32"),
        },
        _row_shape(64)[0],
    ),
    "code_statistics, finish": (
        quantize.finish_kernel,
        "",
        {
            **{"p_fixed_counts": "*i64", "p_fixed_sums": "*i64", "p_largest": "*i32", "p_counts": "*fp32"},
            **{"p_sums": "*fp32", "size": "i32", "values": "i32", "fraction": "fp32"},
        },
        {"BLOCK": 1024},
    ),
    "quantize_rows": (
        quantize.rows_kernel,
        "p_x p_codebook p_quantized",
        {"p_codes": "*i64", "p_parts": "*fp32", "rows": "i32", "stride": "i32", "code_stride": "i32"},
        _row_shape(64)[0],
    ),
    "quantize_rows, commitment": (
        quantize.commitment_kernel,
        "",
        {"p_parts": "*fp32", "p_commitment": "*fp32", "p_finite": "*i64", "programs": "i32", "dim": "i32"},
        {"BLOCK": 1024},
    ),
    "quantize_rows_backward": (
        quantize.rows_backward_kernel,
        "p_grad p_x p_quantized p_dx",
        {"p_grad_commitment": "*fp32", "p_finite": "*i64", "rows": "i32", "grad_stride": "i32", "stride": "i32"},
        {**_row_shape(64)[0], "ROTATION": True},
    ),
}
STRIDES = dict.fromkeys(("stride", "code_stride", "grad_stride"), 64)


@functools.cache
def _compiled(architecture: int, name: str, element: str) -> Resources:
    kernel, pointers, others, constants = KERNELS[name]
    signature = {**dict.fromkeys(pointers.split(), f"*{element}"), **others}
    return compile_kernel(
        kernel, signature, constants, architecture=architecture, warps=4, stages=3, values={**STRIDES, "rows": 500_000}
    )


@pytest.mark.parametrize("element", ["fp32", "bf16"])
@pytest.mark.parametrize("name", KERNELS)
def test_the_other_kernels_fit(name: str, element: str) -> None:
    for architecture in (86, 90) if element == "fp32" else (86,):
        resources = _compiled(architecture, name, element)
        resources.check(architecture, stack=STACK_LIMIT)
        if architecture == 86 and element == "fp32":
            resources.check_recorded(TABLE, name)


def test_values_and_codes_move_sixteen_bytes_at_once() -> None:
    """Two values a thread: 8 bytes of float32 and 16 of int64, unless a block is ragged."""
    for name, wide in (
        ("bin_encode", ("ld.global.v2.b32", "st.global.v2.b64")),
        ("bin_decode", ("ld.global.v2.b64", "st.global.v2.b32")),
    ):
        resources = _compiled(86, name, "fp32")
        assert resources.shared == 0  # nothing is laid out anew between load and store
        for access in wide:
            assert access in resources.ptx


def test_long_rows_do_not_spill() -> None:
    for dim in (1024, 8192):
        constants, warps = _row_shape(dim)
        for name in ("quantize_rows", "quantize_rows_backward", "code_statistics, add"):
            kernel, pointers, others, more = KERNELS[name]
            signature = {**dict.fromkeys(pointers.split(), "*fp32"), **others}
            values = dict.fromkeys(STRIDES, dim)
            compile_kernel(
                kernel, signature, {**more, **constants}, architecture=86, warps=warps, stages=3, values=values
            ).check(86, stack=0)


@pytest.mark.extra
def test_every_supported_gpu_compiles_the_search() -> None:
    for architecture in ARCHITECTURES:
        for dim in (8, 256):
            _nearest(architecture, "bf16", dim).check(architecture, stack=0)


@pytest.mark.slow
def test_cuda_sources_compile_without_spills(tmp_path: Path) -> None:
    try:
        compiler, toolkit = toolchain.nvcc()
    except toolchain.ToolchainError as error:
        pytest.skip(str(error))
    include = Path(torch.__file__).parent / "include"
    command = [
        *(compiler, "-std=c++17", "-O3", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
        *(f"-I{include}", f"-I{ROOT / 'csrc'}", f"-I{toolkit / 'include'}", "-Xptxas=-v", "-c"),
        *("-gencode=arch=compute_86,code=sm_86", "-gencode=arch=compute_90,code=sm_90"),
        *(str(ROOT / "csrc" / "cuda" / "quantize.cu"), "-o", str(tmp_path / "quantize.o")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", done.stderr)]
    assert len(spills) >= 24  # loads and stores of every kernel, for both GPUs
    assert not any(spills)


def _name(element: str, dim: int) -> str:
    return f"nearest_code, {element}, D {dim}"


def _costs(rows: int, size: int, dim: int) -> dict[str, float]:
    """Operations, bytes of float32 that must move, and the least time either takes on an RTX A6000."""
    operations = 3 * 2 * rows * size * dim
    moved = rows * (dim * 4 + 8)
    floor = max(operations / A6000["fp16 FLOP/s"], moved / A6000["bytes/s"])
    return {"operations": operations, "bytes": moved, "floor_ms": round(1e3 * floor, 3)}


def write_table() -> None:
    kernels = {
        _name(element, dim): {
            "tile": vars(tile_for(86, dim)),
            "resources": _nearest(86, element, dim).numbers(),
            "instructions a score": round(_instructions(_nearest(86, element, dim), 86, dim), 1),
            "costs": {name: _costs(*shape) for name, shape in SIZES.items() if shape[2] == dim},
        }
        for element in ("fp32", "bf16", "fp16")
        for dim in DIMENSIONS
        if element in ELEMENTS.get(dim, ("fp32",))
    }
    others = {name: {"resources": _compiled(86, name, "fp32").numbers()} for name in KERNELS}
    write(TABLE, "quantize", A6000, {**kernels, **others})


if __name__ == "__main__":
    write_table()
