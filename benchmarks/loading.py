"""Where the time of a training step goes: reading tiles, changing them at random, collating, and the model.

    python benchmarks/loading.py [--data landscape DIR ...] [--save]

Pretraining of OmniSat `small` with batches of 16 tiles, flips, turns and left-out dates, in float32. Medians of
milliseconds a step; the first time that tiles are read, when the built-in landscape renders its imagery, is told apart.
Then steps with their loading, by how many processes read beside the model, twice each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.harness import keep  # noqa: E402
from fusion.data import Augmentation, TileBatch, TileDataset, collate, open_data  # noqa: E402
from fusion.omnisat import OmniSatConfig, OmniSatPretraining  # noqa: E402
from fusion.training.loading import training_loader  # noqa: E402

BATCH, STEPS = 16, 12
CHANGES = Augmentation(flips=True, rotations=True, date_dropout=0.2)


class Model:
    """A pretraining step."""

    def __init__(self, tiles: TileDataset) -> None:
        torch.manual_seed(0)
        self.module = OmniSatPretraining(OmniSatConfig.preset("small", tiles.modalities, tiles.grid))
        self.optimizer = torch.optim.Adam(self.module.parameters())

    def step(self, batch: TileBatch) -> None:
        self.optimizer.zero_grad()
        loss: Tensor = self.module.objective(self.module.model, batch).total
        loss.backward()
        self.optimizer.step()


def parts(tiles: TileDataset, model: Model) -> dict[str, float]:
    """Milliseconds a step of each part, one after the other."""
    names, augmented = [modality.name for modality in tiles.modalities], tiles.with_augmentation(CHANGES)
    numbers = [k % len(tiles) for k in range(BATCH)]
    read, changed, together, computed = [], [], [], []
    for seed in range(STEPS):
        read.append(_timed(lambda s=seed: [tiles[i, s] for i in numbers])[0])
        whole, batch = _timed(lambda s=seed: [augmented[i, s] for i in numbers])
        changed.append(whole - read[-1])
        seconds, collated = _timed(lambda b=batch: collate(b, names))
        together.append(seconds)
        computed.append(_timed(lambda b=collated: model.step(b))[0])
    measured = {"read": read, "augment": changed, "collate": together, "model": computed}
    return {name: 1e3 * statistics.median(times) for name, times in measured.items()}


def steps(tiles: TileDataset, model: Model, workers: int) -> float:
    """Milliseconds a step with its loading, beyond the first, for which a process has to start."""

    def endless() -> Iterator[TileBatch]:
        many = tiles.subset([k % len(tiles) for k in range(BATCH * (STEPS + 1))])
        loader = training_loader(many.with_augmentation(CHANGES), BATCH, workers=workers)
        while True:
            yield from loader

    batches, times = endless(), []
    model.step(next(batches))
    for _ in range(STEPS):
        times.append(_timed(lambda: model.step(next(batches)))[0])
    return 1e3 * statistics.mean(times)


def _timed(work: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", nargs="+", default=["landscape"], help="as fusion's --data: landscape, or a folder")
    options.add_argument("--save", action="store_true")
    asked = options.parse_args()
    rows = []
    for source in asked.data:
        tiles = open_data(source)
        model = Model(tiles)
        seen = min(BATCH * STEPS, len(tiles))
        first, _ = _timed(lambda t=tiles, n=seen: [t[i, 0] for i in range(n)])
        row: dict[str, Any] = {"data": Path(source).name, "tiles": len(tiles), "first": 1e3 * first * BATCH / seen}
        row |= parts(tiles, model)
        row |= {f"{workers} readers": [] for workers in (0, 1)}
        for workers in (0, 1, 0, 1):
            row[f"{workers} readers"].append(steps(tiles, model, workers))
        rows.append(row)
        print(row, flush=True)
    if asked.save:
        print(keep("loading", threads=torch.get_num_threads(), rows=rows))


if __name__ == "__main__":
    main()
