"""The strips of a raster that are still to be made, shared with other processes that make the same map."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .blend import Told
from .mosaic import Canvas
from .strips import Strip, strip_count, strips
from .working import GROUP, WorkingRaster

__all__ = ["PATIENCE", "in_turn", "missing_strips"]

One = TypeVar("One")
Made = TypeVar("Made")

PATIENCE = 0.2  # seconds between two looks at what others have finished


def missing_strips(
    told: Told,
    canvas: Canvas,
    height: int,
    working: WorkingRaster,
    *,
    depth: int,
    wait: bool = True,
    finish: Callable[[int], None] | None = None,
) -> Iterator[Strip]:
    """Strips that nobody has made. Who takes one must note it (``working.added``) before the next.

    A process that is alone makes them from north to south in one go. Of several each takes groups of strips that no
    other holds; if one dies, its strips are free again.

    Args:
        height: rows of a strip.
        depth: D.
        wait: until all are there, for those that others are at work on; else only as long as any is to be had.
        finish: is called with the number of a group of strips once they are all there, in a thread of its own. Groups
            that a killed process leaves are not finished.
    """
    count, before = strip_count(canvas, height), told.progress.done
    told.damaged, told.span = dict(working.damaged), working.span
    finishing = _Finishing(working, count, finish)
    try:
        while True:
            working.refresh()
            left = [] if working.complete else [k for k in range(count) if k not in working.done]
            known = before + round(len(canvas.tiles) * (1 - len(left) / count))
            told.progress.skip(max(known - told.progress.done, 0))
            if not left:
                return
            first = next((k for k in left if working.claims.take(k // GROUP)), None)
            if first is None:
                if not wait:
                    return
                time.sleep(PATIENCE)
            else:
                working.refresh()  # another may have finished the group just before
                if first not in working.done:
                    yield from _in_one_go(strips(told, canvas, height, first=first, depth=depth), working, finishing)
                finishing.wait()
                working.claims.give_all_back()
    finally:
        finishing.close()
        working.claims.close()


def in_turn(rasters: Iterable[One], make: Callable[[One, bool], Made | None]) -> list[Made]:
    """What becomes of several rasters, in their order; without those that other processes have made.

    Those that others are at work on are left for a second turn, in which they are waited for.

    Args:
        make: of a raster and whether to wait; None if nothing came of it.
    """
    every, made = list(rasters), dict[int, Made]()
    for wait in (False, True):
        for number, raster in enumerate(every):
            if number not in made and (found := make(raster, wait)) is not None:
                made[number] = found
    return [made[number] for number in sorted(made)]


def _in_one_go(found: Iterator[Strip], working: WorkingRaster, finishing: _Finishing) -> Iterator[Strip]:
    """Strip after strip, on into the next group as long as it is to be had."""
    for strip in found:
        yield strip
        following = strip.number + 1
        if following == finishing.strips:
            finishing.begin(strip.number // GROUP)
        elif following % GROUP == 0:
            taken = working.claims.take(following // GROUP)
            finishing.begin(strip.number // GROUP)
            working.refresh()
            if not taken or following in working.done:
                return
        elif following in working.done:
            return


class _Finishing:
    """Groups of strips that are finished in a thread of its own, and then given back.

    Args:
        strips: how many there are.
        finish: a group; None if there is nothing to do.
    """

    def __init__(self, working: WorkingRaster, strips: int, finish: Callable[[int], None] | None) -> None:
        self.working, self.strips, self.finish = working, strips, finish
        self._pool, self._begun = ThreadPoolExecutor(1), list[Future[None]]()

    def begin(self, group: int) -> None:
        """A group of which this process has made the last strip that it could; others may still be at work on it.

        Raises:
            Exception: of a group before.
        """
        whole = self.working.done.issuperset(range(group * GROUP, min((group + 1) * GROUP, self.strips)))
        if self.finish is None or not whole:
            self.working.claims.give_back(group)
            return
        while self._begun and self._begun[0].done():
            self._begun.pop(0).result()
        self._begun.append(self._pool.submit(self._finish, self.finish, group))

    def _finish(self, finish: Callable[[int], None], group: int) -> None:
        finish(group)
        self.working.claims.give_back(group)

    def wait(self) -> None:
        """Until all are finished.

        Raises:
            Exception: of any.
        """
        while self._begun:
            self._begun.pop(0).result()

    def close(self) -> None:
        """Leaves those that have not been begun."""
        self._pool.shutdown(cancel_futures=True)
