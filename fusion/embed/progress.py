"""How far a map is: one line that says how much is done, how fast, and how long the rest takes."""

from __future__ import annotations

import sys
import time

__all__ = ["Progress", "duration"]

_TERMINAL, _LOG = 0.5, 30.0  # seconds between two lines


class Progress:
    """Counts tiles and says pixels: on a terminal in one line that is written over, else in a line every 30 s.

    Args:
        tiles: of all that is to be done.
        pixels: of the map that these tiles make.
        shown: False counts and says nothing.
    """

    def __init__(self, tiles: int, pixels: int, *, shown: bool) -> None:
        self.tiles, self.pixels, self.shown = tiles, pixels, shown
        self.done = self.earlier = 0  # tiles; those of an earlier run among them
        self.started = self.told = time.perf_counter()

    def skip(self, tiles: int) -> None:
        """Tiles that an earlier run has done."""
        self.done += tiles
        self.earlier += tiles

    def add(self, tiles: int) -> None:
        """Tiles that were done now."""
        self.done = min(self.done + tiles, self.tiles)  # at a border between processes tiles are read twice
        now, terminal = time.perf_counter(), sys.stderr.isatty()
        if self.shown and self.tiles and now - self.told >= (_TERMINAL if terminal else _LOG):
            self.told = now
            print(
                f"\r{self}\033[K" if terminal else str(self), end="" if terminal else "\n", file=sys.stderr, flush=True
            )

    def end(self) -> None:
        """Leaves the line, so that the next one begins on its own."""
        if self.shown and self.told > self.started and sys.stderr.isatty():
            print(file=sys.stderr)

    def __str__(self) -> str:
        seconds, made = time.perf_counter() - self.started, self.done - self.earlier
        rate = made / max(seconds, 1e-9)  # tiles a second
        left = (self.tiles - self.done) / rate if rate else 0.0
        return (
            f"{self.done / self.tiles:4.0%} of {self.pixels / 1e6:,.1f} million pixels, "
            f"{rate * self.pixels / self.tiles:,.0f} a second, {duration(left)} left"
        )


def duration(seconds: float) -> str:
    """``duration(2950)`` is ``"49 min"``."""
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
