"""Arrays in .npy files, mapped into memory so that only what is asked for is read."""

from __future__ import annotations

import tokenize
from pathlib import Path

import numpy as np

from .files import reading
from .handles import Handles

__all__ = ["MappedArrays", "open_array"]


def open_array(path: Path) -> np.ndarray:
    """The array of a .npy file, read-only and read when it is indexed.

    Raises:
        ValueError: no such file, or one that is damaged, incomplete or no .npy; the message begins with the path.
    """
    with reading(path):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (
            ValueError,
            SyntaxError,
            tokenize.TokenError,
        ) as error:  # a wrong header, or a file shorter than its header says
            if "Python objects in dtype" in str(error):
                raise ValueError(
                    f"{path}: holds Python objects, such as arrays of several shapes, not one array of numbers; save "
                    "one of one type (numpy.save)"
                ) from error
            raise OSError(str(error)) from error
        if not isinstance(array, np.ndarray):
            raise OSError("an archive of several arrays, a single .npy is wanted")
    return array


class MappedArrays:
    """Open .npy files of this process, the last used ones: each holds a file descriptor, of which there are few.

    Not sent to other processes: they open the files again.

    Args:
        most: files that are open at a time.
    """

    def __init__(self, most: int = 32) -> None:
        self._handles = Handles(most)

    def get(self, path: Path) -> np.ndarray:
        """The array of a file, see :func:`open_array`."""
        return self._handles.get(path, lambda: open_array(path))
