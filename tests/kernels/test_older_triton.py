"""Ahead-of-time tests under the oldest supported Triton, which is the one that today's GPU machines have.

``make`` puts it beside the environment, into ``.venv/triton-3.6``, without its dependencies; FUSION_OLDER_TRITON names
another folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("FUSION_OLDER_TRITON", Path(sys.prefix) / "triton-3.6"))
TESTS = sorted(Path(__file__).parent.glob("test_*aot.py"))


ARGUMENTS = "['-q', '-p', 'no:cacheprovider', '--tb=short', *sys.argv[1:]]"


@pytest.fixture(scope="module")
def running() -> Iterator[dict[Path, subprocess.Popen[str]]]:
    """A process for each file, all at once: compilers take one core each."""
    if not (FOLDER / "triton").is_dir():
        pytest.skip(f"{FOLDER} is not there: pip install --no-deps --target {FOLDER} triton==3.6.0")
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    program = f"import sys, triton, pytest; assert triton.__version__ == '3.6.0'; sys.exit(pytest.main({ARGUMENTS}))"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "PYTHONPATH": path}
    begun = {f: subprocess.Popen([sys.executable, "-c", program, str(f)], env=environment, **streams) for f in TESTS}
    yield begun
    for process in begun.values():
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("file", TESTS, ids=lambda path: path.stem)
def test_kernels_compile_under_it(file: Path, running: dict[Path, subprocess.Popen[str]]) -> None:
    told, _ = running[file].communicate()
    assert running[file].returncode == 0, told[-6000:]
