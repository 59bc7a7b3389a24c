"""Dates of one sensor and their nearest dates of another: what systems that join sensors date by date depend on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .modality import Modality
from .tiles import Tile

__all__ = ["LONGEST_GAP", "PartnerDates", "nearest_gaps"]

LONGEST_GAP = 7  # days between the reference's date and another sensor's that still count as one look at the ground
_FEW = 0.05  # share of dates without a partner that is not worth a line


def nearest_gaps(days: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) days from each of ``days`` (n,) to the nearest of ``others`` (m,) int64, m > 0, in any order."""
    others = np.sort(others)
    after = np.searchsorted(others, days).clip(0, len(others) - 1)
    before = (after - 1).clip(0)
    nearest: np.ndarray = np.minimum(np.abs(others[after] - days), np.abs(others[before] - days))
    return nearest


class PartnerDates:
    """Counts, tile after tile, the reference's dates that have no date of another sensor near them.

    The reference is the first series in a unit of reflectance, else the first; series of a single value a tile have no
    pixels and are no sensors.
    """

    def __init__(self, modalities: Sequence[Modality], grid: tuple[int, int]) -> None:
        series = [m for m in modalities if m.kind == "series" and m.patch_size * max(grid) > 1]
        self.reference = next((m.name for m in series if m.unit.startswith("reflectance")), "")
        if not self.reference and series:
            self.reference = series[0].name
        self.gaps: dict[str, list[np.ndarray]] = {m.name: [] for m in series if m.name != self.reference}

    def add(self, tile: Tile) -> None:
        for name, found in self.gaps.items():
            if self.reference in tile.values and name in tile.values:
                own, other = (tile.days[n][tile.valid[n]].numpy() for n in (self.reference, name))
                if len(own) and len(other):
                    found.append(nearest_gaps(own, other))

    def warnings(self) -> list[str]:
        told = []
        for name, found in self.gaps.items():
            gaps = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
            alone = int((gaps > LONGEST_GAP).sum())
            if alone > _FEW * len(gaps):
                told.append(
                    f"{name}: {alone} of {len(gaps)} dates of {self.reference} have none of {name} within "
                    f"{LONGEST_GAP} days (nearest {gaps.min()}, median {int(np.median(gaps))}, largest {gaps.max()} "
                    "days); the context system leaves such pairs out, or takes them with --training.longest_gap"
                )
        return told
