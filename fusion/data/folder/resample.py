"""Pixels of a multiple or a fraction of the size that is wanted, laid onto the grid of their modality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .conventions import Conventions
from .grid import Grid
from .pixels import Override, Pixels, Window

__all__ = ["Resampled", "Resamplings", "multiple"]


def multiple(ratio: float) -> float | None:
    """``ratio`` if it, or its inverse, is a whole number within a hundredth; exactly that."""
    whole = round(ratio) if ratio >= 1 else 1 / max(1, round(1 / ratio))
    return float(whole) if abs(ratio / whole - 1) < 0.01 else None


def _of_shapes(own: tuple[int, int], wanted: tuple[int, int]) -> float | None:
    """How many wanted pixels one is across, by rows and columns of the same ground; the last pixel may reach over the
    edge. None where that is no whole number, nor one over it."""
    for fine, coarse, up in ((wanted, own, True), (own, wanted, False)):
        ratio = round(max(fine) / max(coarse))
        if ratio >= 1 and all(
            few in (many // ratio, -(-many // ratio)) for many, few in zip(fine, coarse, strict=True)
        ):
            return float(ratio) if up else 1 / ratio
    return None


class Resampled(Pixels):
    """Pixels ``ratio`` times as large as wanted, or 1 / n of them; both grids have the same upper left corner.

    Codes are those of the nearest pixel, whatever becomes of values.

    Args:
        source: the pixels.
        ratio: how many wanted pixels one is across: 2, or 0.5.
        size: rows and columns that are wanted.
        method: ``nearest``: of the pixel in which the centre of the wanted one lies (south-east of it on a border);
            ``bilinear``: between the four nearest centres, of which those that were observed count; ``average``: mean
            of the observed pixels, not observed where more than half are not; of coarser pixels as ``nearest``.
        grid: that is wanted, where the place is known.
    """

    def __init__(
        self, source: Pixels, ratio: float, size: tuple[int, int], method: str, grid: Grid | None = None
    ) -> None:
        self.source, self.ratio, self.method, self.grid = source, ratio, method, grid
        self.path, self.files, self.dtype = source.path, source.files, source.dtype
        self.conventions, self.band_names, self.in_memory = source.conventions, source.band_names, source.in_memory
        self.sizes = {**source.sizes, "y": size[0], "x": size[1]}

    @property
    def of_files(self) -> Sequence[Pixels]:
        return self.source.of_files

    def conventions_of(self, date: int | None, band: int) -> Conventions:
        return self.source.conventions_of(date, band)

    def codes(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        rows, columns = self._nearest(window)
        codes, masked = self.source.codes(dates, _window(rows, columns), bands)
        return _picked(codes, rows, columns), None if masked is None else _picked(masked, rows, columns)

    def values(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int], override: Override | None = None
    ) -> np.ndarray:
        if self.method == "average" and self.ratio < 1:
            return self._averaged(dates, window, bands, override)
        if self.method == "bilinear":
            return self._between(dates, window, bands, override)
        rows, columns = self._nearest(window)
        return _picked(self.source.values(dates, _window(rows, columns), bands, override), rows, columns)

    def _ends(self) -> tuple[int, int]:
        return self.source.sizes["y"], self.source.sizes["x"]

    def _nearest(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the source; the last one also for what reaches over its edge."""
        rows, columns = (
            np.minimum(np.floor((start + np.arange(count) + 0.5) / self.ratio + 1e-9).astype(int), end - 1)
            for start, count, end in zip(window[:2], window[2:], self._ends(), strict=True)
        )
        return rows, columns

    def _averaged(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int], override: Override | None
    ) -> np.ndarray:
        fine = round(1 / self.ratio)
        row, column, height, width = window
        top, left = row * fine, column * fine
        size = [
            min(count * fine, end - start)
            for start, count, end in zip((top, left), window[2:], self._ends(), strict=True)
        ]
        values = self.source.values(dates, (top, left, *size), bands, override)  # type: ignore[arg-type]
        # What reaches over the edge of the source was not observed.
        over = [(0, count * fine - there) for count, there in zip(window[2:], size, strict=True)]
        values = np.pad(values, [(0, 0), (0, 0), *over], constant_values=np.nan)
        parts = values.reshape(*values.shape[:2], height, fine, width, fine)
        seen = ~np.isnan(parts)
        count = seen.sum(axis=(3, 5))
        total = np.where(seen, parts, 0).sum(axis=(3, 5), dtype=np.float64)
        mean = total / np.maximum(count, 1)
        return np.where(2 * count >= fine * fine, mean, np.nan).astype(np.float32)

    def _between(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int], override: Override | None
    ) -> np.ndarray:
        lower, upper, share = [], [], []
        for start, count, end in zip(window[:2], window[2:], self._ends(), strict=True):
            centre = np.clip((start + np.arange(count) + 0.5) / self.ratio - 0.5, 0, end - 1)
            first = np.floor(centre + 1e-9).astype(int)
            lower.append(first)
            upper.append(np.minimum(first + 1, end - 1))
            share.append(np.clip(centre - first, 0, 1))
        part = _window(np.stack([lower[0], upper[0]]), np.stack([lower[1], upper[1]]))
        values = self.source.values(dates, part, bands, override)
        total = np.zeros((*values.shape[:2], *window[2:]))
        weights = np.zeros_like(total)
        for rows, of_row in ((lower[0], 1 - share[0]), (upper[0], share[0])):
            for columns, of_column in ((lower[1], 1 - share[1]), (upper[1], share[1])):
                own = values[:, :, rows[:, None] - part[0], columns - part[1]]
                weight = np.where(np.isnan(own), 0, of_row[:, None] * of_column)
                total += np.nan_to_num(own) * weight
                weights += weight
        found = np.full(total.shape, np.nan, np.float32)
        np.divide(total, weights, out=found, where=weights >= 0.5 - 1e-9, casting="same_kind")
        return found


class Resamplings:
    """Resamples parts of modalities and keeps what was done, to be told."""

    def __init__(self) -> None:
        self._done: dict[tuple[str, str, str, str], tuple[dict[str, None], set[Path]]] = {}

    def lay(
        self,
        part: Pixels,
        ratio: float,
        size: tuple[int, int],
        method: str,
        grid: Grid | None,
        what: str,
        band: str,
        metres: float,
    ) -> Pixels:
        """A part in pixels of another size.

        Args:
            ratio, size, grid: as of :class:`Resampled`.
            method: likewise, or ``usual``.
            what: the part is of, with its band, for notes; ``metres`` per pixel that are wanted.
        """
        if method == "usual":
            method = "nearest" if ratio > 1 else "average"
        key = what.strip("'"), f"{metres * ratio:g}", f"{metres:g}", method
        bands, files = self._done.setdefault(key, ({}, set()))
        bands[band] = None
        files.add(part.path)
        return Resampled(part, ratio, size, method, grid)

    def equal(
        self, parts: Sequence[Pixels], what: str, bands: Sequence[str], metres: float, method: str
    ) -> list[Pixels]:
        """Parts in pixels of one size by their shapes, where the place of some is not known: that of those whose place
        is, or of the finest.

        Raises:
            ValueError: shapes that are no multiples of each other.
        """
        sized = [part for part in parts if "y" in part.sizes]
        if len({(part.sizes["y"], part.sizes["x"]) for part in sized}) < 2:
            return list(parts)
        wanted = max(sized, key=lambda part: (part.grid is not None, part.sizes["y"]))
        size, found = (wanted.sizes["y"], wanted.sizes["x"]), []
        for part, band in zip(parts, bands, strict=True):
            own = part.sizes["y"], part.sizes["x"]
            if own == size:
                found.append(part)
                continue
            ratio = _of_shapes(own, size)
            if ratio is None or part.grid is not None:
                raise ValueError(
                    f"{part.path}: {what}{' ' * bool(band)}{band} has {own[0]} x {own[1]} pixels, {wanted.path.name} "
                    f"{size[0]} x {size[1]}: no whole number of pixels of one cover a pixel of the other; cut both to "
                    "the same ground, or give files with a place and align: true"
                )
            found.append(self.lay(part, ratio, size, method, wanted.grid, what, band, metres))
        return found

    def told(self) -> list[str]:
        """A sentence for each modality, pixel size and method."""
        told = []
        for (what, own, wanted, method), (bands, files) in self._done.items():
            names = " ".join(filter(None, bands)) or "values"
            told.append(
                f"{what}: {names} of {own} m, in {len(files)} file(s), laid onto pixels of {wanted} m "
                f"({_METHODS[method]})"
            )
        return told


_METHODS = {
    "nearest": "resample: nearest, the value of the nearest pixel",
    "bilinear": "resample: bilinear, between the nearest four",
    "average": "resample: average, the mean of the observed pixels",
}


def _window(rows: np.ndarray, columns: np.ndarray) -> Window:
    """The smallest that has them."""
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1


def _picked(read: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return read[:, :, rows[:, None] - rows.min(), columns - columns.min()]
