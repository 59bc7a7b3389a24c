"""Compiles Triton kernels for GPUs that are not here, and reads what they will ask of one."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SM_86 = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "sm_86"  # the committed tables
SHARED_LIMIT = {86: 101_376, 90: 232_448}  # bytes of shared memory one program may have


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses. Bytes; registers and stack are a thread's."""

    shared: int
    registers: int
    stack: int
    ptx: str
    cubin: bytes = field(repr=False)

    def check(self, architecture: int, *, stack: int) -> None:
        """Fails where it asks for more than there is, spills more than ``stack`` bytes, or rounds to one side."""
        assert self.shared <= SHARED_LIMIT[architecture], f"{self.shared} bytes of shared memory"
        assert self.stack <= stack, f"{self.stack} bytes of stack"
        # float32 as tf32 without rounding first
        assert not re.search(r"mma\S*tf32", self.ptx) or "cvt.rna.tf32" in self.ptx, "truncates tf32"

    def numbers(self) -> dict[str, int]:
        """As the committed tables have them."""
        return {"shared": self.shared, "registers": self.registers, "stack": self.stack}

    def loops(self) -> list[int]:
        """Instructions of every loop, in the order of the program; one inside another counts in both."""
        place: dict[str, int] = {}
        count, lengths = 0, []
        for line in _run("nvdisasm", self.cubin, "-c").splitlines():
            if label := re.match(r"(\.L_x_\d+):", line):
                place[label[1]] = count
            elif re.search(r"/\*[0-9a-f]{4,}\*/", line):
                count += 1
                back = re.search(r"\bBRA\b.*\((\.L_x_\d+)\)", line)
                if back and back[1] in place and (length := count - place[back[1]]) > 1:  # the last one of 1 ends all
                    lengths.append(length)
        return lengths

    def check_recorded(self, table: Path, kernel: str) -> None:
        """Compares with the committed table, if this Triton made it."""
        recorded = json.loads(table.read_text())
        if recorded["triton"] == triton.__version__:
            assert self.numbers() == recorded["kernels"][kernel]["resources"]


def compile_kernel(
    kernel: Any,
    signature: dict[str, str],
    constants: dict[str, Any],
    *,
    architecture: int,
    warps: int,
    stages: int,
) -> Resources:
    """Compiles for ``architecture`` (86 or 90). ``signature``: Triton types of the arguments, as ``"*bf16"``.

    Pointers and integers are taken to be divisible by 16, as in a launch with aligned tensors.
    """
    names = kernel.arg_names
    types = {name: "constexpr" if name in constants else signature[name] for name in names}
    aligned = [["tt.divisibility", 16]]
    attributes = {(i,): aligned for i, name in enumerate(names) if types[name].startswith("*")}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature=types, constexprs=constexprs, attrs=attributes)
    target = GPUTarget("cuda", architecture, 32)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=target, options=options)
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", _run("cuobjdump", compiled.asm["cubin"], "-res-usage")))
    numbers = compiled.metadata.shared, int(usage["REG"]), int(usage["STACK"])
    return Resources(*numbers, compiled.asm["ptx"], compiled.asm["cubin"])


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
