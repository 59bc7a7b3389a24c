"""Reading files that may be missing, damaged or other than promised."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["need_keys", "one_message", "reading"]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever a file library raises into a ValueError that begins with the path and ends with the fix."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file. Check the folder (--data) and the file names") from error
    except IsADirectoryError as error:
        raise ValueError(f"{path}: is a folder, a file is wanted") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: cannot be read, the file is damaged or incomplete: copy or download it again ({why})"
        ) from error


def need_keys(path: Path, present: Sequence[str], wanted: Sequence[str]) -> None:
    """
    Raises:
        ValueError: the file lacks one of the ``wanted`` keys; the message lists those it has.
    """
    missing = [key for key in wanted if key not in present]
    if missing:
        raise ValueError(f"{path}: no {', '.join(map(repr, missing))} in the file; it has {', '.join(sorted(present))}")


def one_message(problems: Sequence[str], what: str, limit: int = 20) -> str:
    """Every problem in one message, so that nobody repairs files one error at a time."""
    listed = "\n  ".join(problems[:limit])
    more = f"\n  ... and {len(problems) - limit} more" if len(problems) > limit else ""
    return f"{what}:\n  {listed}{more}"
