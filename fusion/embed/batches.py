"""How many tiles a network is asked about at a time, where the user does not say it."""

from __future__ import annotations

from ..data import TileBatch
from ..data.files import DamagedFile
from ..data.spacing import evenly_spaced
from ..training.files import readable_size
from ..training.live import OutOfRoom, peak_bytes
from ..training.memory import available_memory
from .blend import Told

__all__ = ["fitting_batch", "usual_batch"]

_PATCHES = 2048  # of a batch: enough for the cost of a call not to count, also where a tile is a pixel
_TRIED = 16  # tiles that are looked at for some that can be measured
_MEASURED = 4  # tiles at a time
_SHARE = 0.5  # of the free memory; the rest is for reading ahead, longer series and the map


def usual_batch(grid: tuple[int, int]) -> int:
    """Tiles of about 2,000 patches together, at least eight.

    Args:
        grid: rows and columns of patches of a tile.
    """
    return min(max(_PATCHES // (grid[0] * grid[1]), 8), 1024)


def fitting_batch(told: Told) -> int:
    """Tiles at a time: :func:`usual_batch`, or fewer where these would take over half of the device's free memory.

    Measured on one and on four of the tiles, whose difference is what grows with the batch.

    Raises:
        ValueError: one tile takes more than half of the free memory.
    """
    usual = min(usual_batch(told.dataset.grid), len(told.dataset))
    if usual <= 1:
        return 1
    room = int(_SHARE * available_memory(told.device))
    numbers, one = list[int](), 0
    for number in evenly_spaced(len(told.dataset), _TRIED).tolist():
        try:
            _, batch = told.dataset.gather([number])
            if batch is not None:
                one = one or _bytes(told, batch, room)
                numbers.append(number)
        except DamagedFile:  # listed with the map
            continue
        except OutOfRoom as reached:
            raise ValueError(
                f"tile {told.dataset.name(number)!r} alone takes more than {readable_size(reached.bytes)} in the "
                f"network, and {readable_size(room / _SHARE)} are free, of which it may have half. Smaller tiles or "
                "fewer dates (max_dates) take less; batch_size=1 tries it in any case"
            ) from None
        if len(numbers) == _MEASURED:
            break
    if len(numbers) < 2:
        return usual if not one else max(1, min(usual, room // one))
    try:
        _, batch = told.dataset.gather(numbers)
        assert batch is not None  # each of them has an observation
        each = max((_bytes(told, batch, room) - one) // (len(numbers) - 1), 1)
    except OutOfRoom:
        each = max(one, room // len(numbers))
    return max(1, min(usual, 1 + (room - one) // each))


def _bytes(told: Told, batch: TileBatch, room: int) -> int:
    return peak_bytes(lambda: told.answer(batch, measured=True), batch, room)
