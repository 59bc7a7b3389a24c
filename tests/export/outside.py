"""A process in which this package cannot be imported, and programs run in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fusion", "eo_fusion"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
import torch

file, given, answers, compiled = sys.argv[1:]
with torch.no_grad():
    if compiled == "True":
        program = torch._inductor.aoti_load_package(file)
    else:
        program = torch.export.load(file).module()
    torch.save([program(*tensors) for tensors in torch.load(given)], answers)
assert not [name for name in sys.modules if name.startswith("fusion")]
assert not hasattr(torch.ops.fusion, "relative_attention")
"""

Given = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


def answers(file: Path, batches: list[Given], folder: Path, *, compiled: bool = False) -> list[Any]:
    """What the program in ``file`` says of each batch, told by a process that does not have this package."""
    torch.save(batches, folder / "given.pt")
    arguments = [str(file), str(folder / "given.pt"), str(folder / "answers.pt"), str(compiled)]
    done = subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "answers.pt")
