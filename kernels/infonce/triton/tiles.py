"""Tiles of the kernels of patch InfoNCE, by architecture."""

from __future__ import annotations

from typing import Any

from ..._triton.device import Tile

__all__ = ["INTERPRETED", "TILES"]

# By architecture, operands ("half": 16 bits, "split": float32 in two) and pass ("halved" forward has square tiles);
# "wide": more than 256 features. sm_90 measured on an H100, sm_86 counted: benchmarks/README.md.
TILES: dict[tuple[Any, ...], Tile] = {
    (86, "half", "halved"): Tile(64, 64, 4, 3),
    (86, "half", "forward"): Tile(128, 32, 8, 3),
    (86, "half", "backward"): Tile(64, 64, 8, 2),
    (86, "half", "halved wide"): Tile(128, 128, 8, 3, 32),
    (86, "half", "forward wide"): Tile(128, 64, 8, 3, 32),
    (86, "half", "backward wide"): Tile(64, 64, 8, 2, 32),
    (86, "split", "halved"): Tile(32, 32, 2, 2),
    (86, "split", "forward"): Tile(32, 32, 2, 2),
    (86, "split", "backward"): Tile(32, 32, 4, 2),
    (86, "split", "halved wide"): Tile(64, 64, 4, 3, 32),
    (86, "split", "forward wide"): Tile(64, 64, 4, 3, 32),
    (86, "split", "backward wide"): Tile(32, 32, 4, 2, 32),
    (90, "half", "halved"): Tile(128, 128, 4, 2),
    (90, "half", "forward"): Tile(256, 64, 8, 3),
    (90, "half", "backward"): Tile(128, 64, 8, 3),
    (90, "half", "halved wide"): Tile(128, 128, 4, 3, 64),
    (90, "half", "forward wide"): Tile(128, 128, 4, 3, 64),
    (90, "half", "backward wide"): Tile(128, 128, 8, 3, 64),
    (90, "split", "halved"): Tile(64, 64, 4, 2),
    (90, "split", "forward"): Tile(128, 64, 8, 1),
    (90, "split", "backward"): Tile(128, 32, 8, 2),
    (90, "split", "halved wide"): Tile(128, 128, 8, 3, 32),
    (90, "split", "forward wide"): Tile(128, 128, 8, 3, 32),
    (90, "split", "backward wide"): Tile(128, 64, 8, 1, 64),
}
INTERPRETED = Tile(32, 32, 4, 1)
