"""Makes a checkout importable without installing it.

``fusion.kernels`` and ``fusion.csrc`` lie beside ``fusion/`` in the repository and enter it only in an installation.
Here a folder of links has the layout of the installed package (``fusion/kernels -> kernels/``), and children find it
first, so that they measure this checkout whether or not some version is installed. The folder's name depends on the
checkout's alone: compiled code, cached by the paths of its sources among others, is found again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

__all__ = ["ROOT", "environment", "path"]

ROOT = Path(__file__).resolve().parents[2]


def environment(*, dry: bool = False) -> dict[str, str]:
    """The variables of a child process: this checkout first on the path, and the interpreter where there is no GPU."""
    given = filter(None, [os.environ.get("PYTHONPATH")])
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([*path(), *given]), "PYTHONSAFEPATH": "1"}
    if dry:
        variables |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        variables["FUSION_DISABLE_JIT"] = "1"  # Triton is what is interpreted; C++ would be compiled for a minute
    return variables


def path() -> list[str]:
    """What must come first in ``sys.path``."""
    return [str(_linked()), str(ROOT)]


def _linked() -> Path:
    name = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"fusion-checkout-{os.getuid()}-{name}"
    package = folder / "fusion"
    package.mkdir(parents=True, exist_ok=True)
    sources = [*(p for p in (ROOT / "fusion").iterdir() if p.name != "__pycache__"), ROOT / "kernels", ROOT / "csrc"]
    for stale in set(package.iterdir()) - {package / s.name for s in sources}:
        if stale.is_symlink():
            stale.unlink()
    for source in sources:
        link = package / source.name
        if not link.is_symlink():
            link.symlink_to(source)
    return folder
