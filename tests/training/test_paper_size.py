"""OmniSat at the size of the paper trains on tiles of PASTIS-HD within the memory of one machine."""

import numpy as np
import pytest

from fusion.data import ArrayTiles, Modality
from fusion.omnisat import OmniSatConfig, OmniSatPretraining
from fusion.training import MemoryEstimate, estimate_memory, fit

S2_BANDS = tuple(f"B{i}" for i in range(10))


def tiles_of(side: int, dates: int, count: int = 1) -> ArrayTiles:
    """Patches of 40 m as in PASTIS-HD, ``side`` x ``side`` of them (there 32) on ``dates`` dates (there 50)."""
    draw, pixels = np.random.default_rng(0), 4 * side
    modalities = (
        Modality("spot", "image", ("R", "G", "B"), 1.0, 40, mean=(0,) * 3, std=(1,) * 3),
        Modality("s2", "series", S2_BANDS, 10.0, 4, mean=(0,) * 10, std=(1,) * 10),
        Modality("s1-asc", "series", ("VV", "VH", "ratio"), 10.0, 4, mean=(0,) * 3, std=(1,) * 3),
    )
    shapes = {
        "spot": (3, 40 * side, 40 * side),
        "s2": (dates, 10, pixels, pixels),
        "s1-asc": (dates, 3, pixels, pixels),
    }
    values = {name: draw.normal(size=(count, *shape)).astype(np.float32) for name, shape in shapes.items()}
    days = {name: np.arange(dates) * 7 for name in ("s2", "s1-asc")}
    return ArrayTiles(modalities, values, days, grid=(side, side))


def paper_size(tiles: ArrayTiles, recompute: bool) -> OmniSatPretraining:
    return OmniSatPretraining(OmniSatConfig(tiles.modalities, tiles.grid, recompute=recompute))


def estimated(recompute: bool) -> MemoryEstimate:
    tiles = tiles_of(4, 10)
    return estimate_memory(paper_size(tiles, recompute), tiles, 1)


def test_recomputing_takes_less_memory_and_nothing_grows_faster_than_patches_and_dates():
    """A 64th of the patches of PASTIS-HD, and a fifth of the dates."""
    less, more = estimated(recompute=True), estimated(recompute=False)
    assert less.per_tile < more.per_tile
    assert (less.per_tile - less.state // 4) * 64 * 5 < 16 * 2**30


@pytest.mark.extra
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_tile_of_pastis_trains_within_16_gib(tmp_path, precision):
    tiles = tiles_of(32, 50)
    module = paper_size(tiles, recompute=True)
    arguments = {"precision": precision, "accelerator": "cpu", "progress": False, "memory_limit": 16}
    assert estimate_memory(module, tiles, 1, precision=precision, limit=16).total < 3 * 2**30
    assert fit(module, tiles, None, tmp_path, epochs=1, batch_size=1, **arguments).is_file()
