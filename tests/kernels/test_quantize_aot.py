"""The GPU code of quantization compiled for GPUs that are not here: what it needs, and that it fits.

``python -m tests.kernels.test_quantize_aot`` writes the table anew after a change of kernels or tiles.
"""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from fusion.kernels import toolchain  # noqa: E402
from fusion.kernels.quantize import triton as quantize  # noqa: E402

from .aot import SM_86, Resources, compile_kernel, write  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TABLE = SM_86 / "quantize.json"
STACK_LIMIT = 32  # bytes a thread: a few addresses kept over the loop, no spilled sums
TYPES = {4: "fp32", 2: "bf16"}
# N, K, D: a day's pixels, and a batch of a codebook in training.
SIZES = {"500k x 512 x 64": (500_000, 512, 64), "131k x 1024 x 32": (131_072, 1024, 32)}
A6000 = {"bf16 FLOP/s": 154.8e12, "fp32 FLOP/s": 38.7e12, "bytes/s": 768e9}


@functools.cache
def _compiled(architecture: int, bytes_: int, dim: int) -> Resources:
    tile, element = quantize.TILES[architecture, bytes_], TYPES[bytes_]
    signature = {
        **{"p_x": f"*{element}", "p_codes": f"*{element}", "p_nearest": "*i64"},
        **dict.fromkeys(("p_centre", "p_exact", "p_bias"), "*fp32"),
        **dict.fromkeys(("rows", "size", "stride"), "i32"),
    }
    constants = {"D": dim, "ROWS": tile.rows, "CODES": tile.codes, "VALUES": tile.values, "RESCORE": bytes_ == 2}
    return compile_kernel(
        quantize.nearest_kernel, signature, constants, architecture=architecture, warps=tile.warps, stages=tile.stages
    )


@pytest.mark.parametrize("bytes_", [4, 2], ids=TYPES.get)
@pytest.mark.parametrize(("architecture", "dim"), [(86, 8), (86, 64), (86, 256), (90, 64)])
def test_the_tiles_fit(architecture: int, bytes_: int, dim: int) -> None:
    resources = _compiled(architecture, bytes_, dim)
    resources.check(architecture, stack=STACK_LIMIT)
    assert "tf32" not in resources.ptx  # it would choose wrong neighbours, rounded or not
    assert ("mma" in resources.ptx) == (bytes_ == 2)
    if architecture == 86:
        resources.check_recorded(TABLE, _name(bytes_, dim))


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
    assert len(spills) >= 40  # loads and stores of every kernel, for both GPUs
    assert not any(spills)


def _name(bytes_: int, dim: int) -> str:
    return f"nearest code, {TYPES[bytes_]}, D {dim}"


def _costs(bytes_: int, rows: int, size: int, dim: int) -> dict[str, float]:
    """Operations, bytes that must move, and the least time either takes on an RTX A6000."""
    operations = 2 * rows * size * dim
    moved = rows * (dim * bytes_ + 8)
    floor = max(operations / A6000[f"{TYPES[bytes_]} FLOP/s"], moved / A6000["bytes/s"])
    return {"operations": operations, "bytes": moved, "floor_ms": round(1e3 * floor, 3)}


def write_table() -> None:
    kernels = {
        _name(bytes_, dim): {
            "tile": vars(quantize.TILES[86, bytes_]),
            "resources": _compiled(86, bytes_, dim).numbers(),
            "costs": {name: _costs(bytes_, *shape) for name, shape in SIZES.items() if shape[2] == dim},
        }
        for bytes_ in TYPES
        for dim in (8, 32, 64, 256)
    }
    write(TABLE, "nearest_code", A6000, kernels)


if __name__ == "__main__":
    write_table()
