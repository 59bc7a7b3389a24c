"""Batches in an order that depends on nothing but the seed and the epoch, and that can be taken up in the middle;
and whether data are of the kind that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler

from fusion.data import Modality, Tile, TileBatch, TileDataset, collate
from fusion.data.check import check_modalities, check_values
from fusion.kernels import machine

from .systems import config_of

__all__ = ["RandomViews", "evaluation_loader", "readers", "require_fit", "training_loader", "unseen"]

_MOST_READERS = 8  # of a device


class RandomViews(Sampler[tuple[int, int]]):
    """Shuffled tiles, each with the seed of its random view, for one epoch and one of ``ranks`` processes.

    ``set_epoch`` is called by Lightning. ``resume(epoch, batches)`` leaves out what an interrupted run has seen.
    An epoch has a multiple of ``step`` tiles: where a step is made of several batches, its last one is whole too.
    """

    def __init__(self, tiles: int, batch_size: int, seed: int, rank: int = 0, ranks: int = 1, step: int = 1) -> None:
        self.tiles, self.batch_size, self.seed, self.step = tiles, batch_size, seed, step
        self.rank, self.ranks = rank, ranks
        self.epoch, self.skip = 0, 0

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def resume(self, epoch: int, batches: int) -> None:
        self.epoch, self.skip = epoch, batches

    def __len__(self) -> int:
        share = self.tiles // self.ranks
        return share - share % self.step  # of the whole epoch, as Lightning counts batches from its start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.tiles, generator=generator)
        views = torch.randint(2**31, (self.tiles,), generator=generator)
        mine = order[self.rank :: self.ranks][: len(self)]
        for i in mine[self.skip * self.batch_size :].tolist():
            yield i, int(views[i])


def training_loader(
    dataset: TileDataset,
    batch_size: int,
    *,
    seed: int = 0,
    workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
    parts: int = 1,
) -> DataLoader[Tile]:
    """Shuffled batches of random views; a last, smaller batch is dropped unless it is the only one.

    The batch size is lowered to what the data set (or one process's share of it) has. With ``parts`` every
    ``parts`` batches are one of ``batch_size`` tiles, cut in its order; what is dropped is the same.

    Raises:
        ValueError: fewer tiles than processes, a batch size below 1, or one that cannot be cut into ``parts``.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if len(dataset) < ranks:
        raise ValueError(f"{len(dataset)} training tiles cannot be shared by {ranks} devices; use fewer devices")
    batch_size = min(batch_size, len(dataset) // ranks)
    if batch_size % parts:
        raise ValueError(f"{batch_size} tiles a step cannot be cut into {parts} equal parts")
    sampler = RandomViews(len(dataset), batch_size // parts, seed, rank, ranks, step=batch_size if parts > 1 else 1)
    return DataLoader(
        dataset,
        batch_size // parts,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_collate(dataset),
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),  # its own: creating an iterator must not move the global one
    )


def readers(device: str, devices: int) -> int:
    """How many processes should read tiles for each of ``devices`` devices of this machine, where nobody says.

    A GPU needs some milliseconds for a step whose tiles take a processor a hundred to read, so it gets all cores but
    one, shared, and eight at most. On a CPU reading takes a tenth of a step and a process of its own a core that the
    model needs: none (``benchmarks/loading.py``).
    """
    if device == "cpu":
        return 0
    return min(_MOST_READERS, max(0, machine.cores() - 1) // max(1, devices))


def require_fit(model: nn.Module, dataset: TileDataset, *, readable: bool = False) -> None:
    """Refuses data that the model was not trained for; reads a few tiles.

    Args:
        readable: leave out tiles whose files are damaged, see :func:`fusion.data.check.check_values`.

    Raises:
        ValueError: a modality that the model does not have, other bands, another unit, resolution or grid, or values
            that are a factor of ten from those of the training; the message says how to repair it.
    """
    config = config_of(model)
    known = [m.name for m in config.modalities]
    unknown = [m.name for m in dataset.modalities if m.name not in known]
    if unknown:
        raise ValueError(
            f"the model has {', '.join(known)}, not {', '.join(unknown)}; leave that out: "
            f"dataset.with_modalities([...]), or modalities="
        )
    check_modalities(dataset.modalities, config.modalities)
    if tuple(config.grid) != dataset.grid:
        raise ValueError(
            f"the model was trained on tiles of {' x '.join(map(str, config.grid))} patches, the data have "
            f"{' x '.join(map(str, dataset.grid))}; read them with tiles of the same ground size"
        )
    check_values(dataset, config.modalities, tiles=8, readable=readable)


def evaluation_loader(dataset: TileDataset, batch_size: int, *, workers: int = 0) -> DataLoader[Tile]:
    """Every tile once, in order, as its evaluation view. A tile without any observation is one of which nothing is
    valid, also where a batch has no other."""
    return DataLoader(
        dataset,
        max(1, min(batch_size, len(dataset))),
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=partial(_collate_any, modalities=dataset.modalities, grid=dataset.grid),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
    )


def unseen(batch: TileBatch) -> list[str]:
    """Names of the tiles without any observation."""
    seen = torch.stack([valid.reshape(len(batch), -1).any(1) for valid in batch.valid.values()]).any(0)
    return [name for name, known in zip(batch.names, seen.tolist(), strict=True) if not known]


def _collate_any(tiles: list[Tile], modalities: Sequence[Modality], grid: tuple[int, int]) -> TileBatch:
    names = [modality.name for modality in modalities]
    if any(tile.values for tile in tiles):
        return collate(tiles, names)
    first = modalities[0]
    sides = [patches * first.patch_size for patches in grid]
    blank = torch.zeros(*([1] if first.kind == "series" else []), first.channels, *sides)
    days = {first.name: torch.zeros(1, dtype=torch.int64)} if first.kind == "series" else {}
    batch = collate([replace(tile, values={first.name: blank}, days=days, valid={}) for tile in tiles], names)
    batch.valid[first.name] = torch.zeros_like(batch.valid[first.name])
    return batch


def _collate(dataset: TileDataset) -> partial[TileBatch]:
    return partial(collate, modalities=[m.name for m in dataset.modalities])
