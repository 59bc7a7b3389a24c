"""Compiles Triton kernels for GPUs that are not here, and reads what they will ask of one."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fusion.kernels._triton.device import SHARED_MEMORY

SM_86 = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "sm_86"  # the committed tables
ARCHITECTURES = tuple(SHARED_MEMORY)
_WARPGROUP = 4  # warps that issue one wgmma together


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses. Bytes; registers and stack are a thread's."""

    shared: int
    registers: int
    stack: int
    ptx: str
    cubin: bytes = field(repr=False)
    warps: int = 0

    def check(self, architecture: int, *, stack: int) -> None:
        """Fails where it asks for more than there is, spills more than ``stack`` bytes, or rounds to one side."""
        assert self.shared <= SHARED_MEMORY[architecture], f"{self.shared} bytes of shared memory"
        assert self.stack <= stack, f"{self.stack} bytes of stack"
        # float32 as tf32 without rounding first
        assert not re.search(r"mma\S*tf32", self.ptx) or "cvt.rna.tf32" in self.ptx, "truncates tf32"

    def numbers(self) -> dict[str, int]:
        """As the committed tables have them."""
        return {"shared": self.shared, "registers": self.registers, "stack": self.stack}

    @functools.cached_property
    def code(self) -> Code:
        """The machine code."""
        return Code.of(_run("nvdisasm", self.cubin, "-c"))

    def loops(self) -> list[int]:
        """Instructions of every loop, in the order of the program; one inside another counts in both."""
        return [end - start for start, end in self.code.loops]

    def products(self) -> int:
        """Multiply-adds on tensor cores that all warps of a program do together, every instruction taken once."""
        return sum(self._multiply_adds)

    def products_by_loop(self) -> list[int]:
        """:meth:`products` of one pass through each loop of :meth:`loops`."""
        return [sum(self._multiply_adds[start:end]) for start, end in self.code.loops]

    @functools.cached_property
    def _multiply_adds(self) -> list[int]:
        """Of every instruction. Those of sm_100 take their shape from a descriptor, which is in the PTX alone."""
        described = iter(_described(self.ptx))
        return [
            next(described) if re.match(r"UTC\w*MMA", opcode) else _multiply_adds(opcode, self.warps)
            for opcode in self.code.opcodes
        ]

    def count(self, instruction: str) -> int:
        """How often the machine code has an instruction whose name begins so: HMMA, HGMMA, UTCHMMA (sm_100), FFMA."""
        return sum(opcode.startswith(instruction) for opcode in self.code.opcodes)

    def check_recorded(self, table: Path, kernel: str) -> None:
        """Compares with the committed table, if this Triton made it."""
        check_recorded(table, kernel, self.numbers())


@dataclass(frozen=True)
class Code:
    """Names of the instructions in order, and the first and last + 1 of every loop."""

    opcodes: list[str]
    loops: list[tuple[int, int]]

    @classmethod
    def of(cls, disassembly: str) -> Code:
        place: dict[str, int] = {}
        opcodes: list[str] = []
        loops = []
        for line in disassembly.splitlines():
            if label := re.match(r"(\.L_x_\d+):", line):
                place[label[1]] = len(opcodes)
            elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)?", line):
                opcodes.append(found[1] or "")
                back = re.search(r"\bBRA\b.*\((\.L_x_\d+)\)", line)
                if back and back[1] in place and len(opcodes) - place[back[1]] > 1:  # the last one of 1 ends all
                    loops.append((place[back[1]], len(opcodes)))
        return cls(opcodes, loops)


# HMMA.16816: 16 x 8 results of 16 products, a warp; .1688, .1684 likewise. HGMMA.64x128x16: named in full, a warpgroup.
_MMA = re.compile(r"[HIQ]MMA\.(?:SP\.)?(16)(8)(16|32|8|4)\b")
_WGMMA = re.compile(r"[HIQ]GMMA\.(?:SP\.)?(\d+)x(\d+)x(\d+)\b")


_TCGEN05 = re.compile(r"tcgen05\.mma\.\S*kind::(\w+)\S*\s+\[[^\]]*\],\s*\S+,\s*\S+,\s*(%\w+),")
_DEPTH = {"f16": 16, "tf32": 8, "f8f6f4": 32, "i8": 32}  # of one tcgen05.mma, by its kind


def _described(ptx: str) -> list[int]:
    """Multiply-adds of each tcgen05.mma: bits 17-22 of its descriptor have columns / 8, bits 24-28 rows / 16."""
    constants = {name: int(value) for name, value in re.findall(r"mov\.b32\s+(%\w+), (\d+);", ptx)}
    shapes = [(_DEPTH[kind], constants[name]) for kind, name in _TCGEN05.findall(ptx)]
    return [8 * (number >> 17 & 0x3F) * 16 * (number >> 24 & 0x1F) * depth for depth, number in shapes]


def _multiply_adds(opcode: str, warps: int) -> int:
    for pattern, together in ((_MMA, 1), (_WGMMA, _WARPGROUP)):
        if found := pattern.match(opcode):
            rows, columns, depth = map(int, found.groups())
            return rows * columns * depth * warps // together
    return 0


def compile_kernel(
    kernel: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    *,
    architecture: int,
    warps: int,
    stages: int,
    values: Mapping[str, int] | None = None,
) -> Resources:
    """Compiles for ``architecture``, one of ``ARCHITECTURES``.

    ``signature``: Triton types of the arguments, as ``"*bf16"``; pointers are taken to be divisible by 16.
    ``values``: integers as a launch gives them. As there, one divisible by 16 is compiled as such, and 1 as a
    constant; an integer without a value is taken to be neither.
    """
    values = values or {}
    names = kernel.arg_names
    constants = {**constants, **{name: 1 for name in names if values.get(name) == 1}}
    types = {name: "constexpr" if name in constants else signature[name] for name in names}
    aligned = [["tt.divisibility", 16]]

    def divisible(name: str) -> bool:
        return types[name].startswith("*") or (name not in constants and values.get(name, 1) % 16 == 0)

    attributes = {(i,): aligned for i, name in enumerate(names) if divisible(name)}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature=types, constexprs=constexprs, attrs=attributes)
    target = GPUTarget("cuda", architecture, 32)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=target, options=options)
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", _run("cuobjdump", compiled.asm["cubin"], "-res-usage")))
    numbers = compiled.metadata.shared, int(usage["REG"]), int(usage["STACK"])
    return Resources(*numbers, compiled.asm["ptx"], compiled.asm["cubin"], warps)


def check_recorded(table: Path, kernel: str, numbers: dict[str, Any]) -> None:
    """Compares with a table of ``SM_86``, where it has what this Triton compiled, by version or of the last one."""
    content = json.loads(table.read_text())
    entry = content["kernels"][kernel]
    by_version = entry.get("compiled", {content["triton"]: entry.get("resources")})
    assert by_version.get(triton.__version__) in (None, numbers), f"{table.name}: write the table anew"


def write(table: Path, op: str, assumed: dict[str, float], kernels: dict[str, Any]) -> None:
    """Writes a table of ``SM_86`` anew."""
    content = {
        "op": op,
        "what": "compiled for sm_86, not run: resources of the kernels, and the least time of some sizes",
        **{"triton": triton.__version__, "assumed": assumed, "kernels": kernels},
    }
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(json.dumps(content, indent=1) + "\n")


def _run(tool: str, cubin: bytes, option: str) -> str:
    """What one of the tools that come with Triton prints of a compiled kernel."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([program, option, file.name], capture_output=True, text=True, check=True).stdout
