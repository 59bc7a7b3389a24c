"""Places of 2x2 patches: height of every patch, a photo that is brighter in high places, weather that follows."""

import numpy as np

from fusion.data import Modality
from fusion.data.arrays import ArrayTiles

GRID = (2, 2)
MODALITIES = (
    Modality("height", "image", ("mean",), 10.0, 1, "m", mean=(500.0,), std=(150.0,)),
    Modality("photo", "image", ("R", "G"), 2.5, 4, "8 bit", mean=(100.0, 100.0), std=(40.0, 40.0)),
    Modality("weather", "series", ("temperature", "rain"), 20.0, 1, "degC, mm"),
)
TOKENIZERS = {
    "height": {"kind": "bins", "bins": 32},
    "photo": {"kind": "vq", "codebook_size": 16, "dim": 4, "hidden": 16, "steps": 40},
    "weather": {"kind": "bins", "bins": 32, "start": 0, "step": 30, "length": 6},
}


def make_places(count: int = 24, seed: int = 0, dates: int = 18) -> ArrayTiles:
    rng = np.random.default_rng(seed)
    height = rng.uniform(200, 800, (count, 1, *GRID))
    photo = np.kron(height / 8 + np.zeros((1, 2, 1, 1)), np.ones((4, 4))) + rng.normal(0, 5, (count, 2, 8, 8))
    days = np.arange(dates) * 10
    season = 10 * np.sin(2 * np.pi * days / 365)
    temperature = 20 + season[:, None, None] - 0.0065 * height  # (N, L, 2, 2)
    rain = 50 + 0.1 * height + 0 * temperature
    values = {"height": height, "photo": photo, "weather": np.stack([temperature, rain], 2)}
    target = height.mean((1, 2, 3))[:, None] / 100
    return ArrayTiles(
        MODALITIES,
        {name: array.astype(np.float32) for name, array in values.items()},
        days={"weather": days},
        grid=GRID,
        task="regression",
        classes=("height",),
        labels=target.astype(np.float32),
    )
