"""Arrays in files that are written window by window, and what a file that cannot grow says."""

import subprocess
import sys

import numpy as np
import pytest

from fusion.embed.formats.array_file import ArrayFile

FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from fusion.embed.formats.array_file import ArrayFile

array = ArrayFile(Path(sys.argv[1]), (40, 50, 8), np.float32)
array[:2] = 1
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    array[20:30, 5:7] = 2
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 8)])
@pytest.mark.parametrize("window", [np.s_[3:7], np.s_[:, 4:9], np.s_[10:40, 0:50], np.s_[39:40, 49:50], np.s_[5:5]])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_windows_are_written_and_nothing_else(tmp_path, shape, window, dtype):
    array, expected = ArrayFile(tmp_path / "values", shape, dtype), np.zeros(shape, dtype)
    values = np.arange(expected[window].size, dtype=dtype).reshape(expected[window].shape)
    array[window] = expected[window] = values
    array[20:22, 1:3] = expected[20:22, 1:3] = 7  # one number for all
    assert np.array_equal(array[:], expected)
    assert np.array_equal(ArrayFile(tmp_path / "values", shape, dtype)[window], expected[window])


def test_what_cannot_be_written_is_said_and_what_was_written_is_kept(tmp_path):
    path = tmp_path / "values"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f"cannot write {path}: File too large (640 B needed); what was finished before is kept"
    )
    assert (ArrayFile(path, (40, 50, 8), np.float32)[:2] == 1).all()
