"""What is told of chunks that stores of Zarr lack, once for all scenes."""

from __future__ import annotations

from collections.abc import Sequence

from .conventions import Conventions
from .pixels import Pixels

__all__ = ["AbsentTold"]


class AbsentTold:
    """Counts chunks without a file, by what they are of."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[int, int, str, float | None]]] = {}
        self._then: dict[str, str] = {}

    def add(self, what: str, files: Sequence[Pixels], then: str, held: Conventions | None = None) -> None:
        """
        Args:
            what: the files are of, for the sentence.
            then: what becomes of the pixels.
            held: conventions by which the fill value may be nodata, so that nothing is to be told.
        """
        for part in files:
            absent = part.absent
            if absent is None or (held is not None and absent.fill in held.nodata):
                continue
            self._found.setdefault(what, []).append((absent.count, absent.total, part.path.name, absent.fill))
            self._then[what] = then

    def told(self) -> list[str]:
        """A sentence for each."""
        return [
            f"{what}: {sum(count for count, *_ in found)} of {sum(total for _, total, *_ in found)} chunks of "
            f"{len(found)} Zarr array(s), e.g. of {found[0][2]}, have no file {self._then[what]}"
            for what, found in self._found.items()
        ]
