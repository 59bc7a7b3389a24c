"""Ahead-of-time tests under the oldest supported Triton, which is the one that today's GPU machines have.

``make`` puts it beside the environment, into ``.venv/triton-3.6``, without its dependencies; FUSION_OLDER_TRITON names
another folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("FUSION_OLDER_TRITON", Path(sys.prefix) / "triton-3.6"))
ARGUMENTS = "['-q', '-p', 'no:cacheprovider', '--tb=short', *sys.argv[1:]]"
PROGRAM = f"import sys, triton, pytest; assert triton.__version__ == '3.6.0'; sys.exit(pytest.main({ARGUMENTS}))"
# Minutes on two cores: `make test-all`.
LONG = ("test_attention_aot", "test_infonce_aot", "test_quantize_aot")
TESTS = [
    pytest.param(path, id=path.stem, marks=pytest.mark.extra if path.stem in LONG else ())
    for path in sorted(Path(__file__).parent.glob("test_*aot.py"))
]


@pytest.mark.slow
@pytest.mark.parametrize("file", TESTS)
def test_kernels_compile_under_it(file: Path) -> None:
    if not (FOLDER / "triton").is_dir():
        pytest.skip(f"{FOLDER} is not there: pip install --no-deps --target {FOLDER} triton==3.6.0")
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", PROGRAM, str(file)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
