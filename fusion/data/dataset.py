"""The base of every reader: what a data set of tiles offers, whatever lies on disk."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..settings import plain
from .admission import admit
from .augmentation import Augmentation, augment, with_deviations
from .files import DamagedFile
from .given import tile_numbers, words
from .modality import Modality
from .months import in_months
from .places import ComputedNames, Places
from .tiles import Geo, Tile, TileBatch, collate

__all__ = ["Task", "TileDataset"]

Task = Literal["multilabel", "multiclass", "regression"]
_AUGMENTED = 1  # of the seeds of a view: what the reader draws is the same with and without augmentation


class TileDataset(torch.utils.data.Dataset[Tile]):
    """Tiles of one place set, each with any of the modalities, in raw physical values.

    ``dataset[i]`` is the evaluation view of tile i: always the same dates, the central crop. ``dataset[i, seed]``
    is a random view: other dates and another crop where the reader has a choice, the same for the same seed.
    Training asks for the second, so no reader has a training mode to be left in by mistake, and a resumed run
    sees what the interrupted one would have seen.

    A reader gives the constructor what is known without reading imagery, and implements :meth:`_read`. Views made by
    :meth:`subset`, :meth:`split`, :meth:`with_modalities`, :meth:`with_classes` and :meth:`with_augmentation` share its
    index and are cheap.

    A label is one of the tile, or a map of its pixels (``dense``). Labels that are too many for memory stay in their
    files: the reader gives ``label_shape`` instead of ``labels`` and implements :meth:`_read_label`.

    Attributes:
        modalities: what a tile may contain, in the order in which batches hold them.
        grid: patches per tile (rows, columns), the same ground grid for every modality.
        task: what the labels are, or None.
        classes: class names, or target names for regression.
        label_shape: of the label of a tile: () for a class, (K,), or (H, W) for a map; None without labels.
        ignore_index: what a map of classes holds where there is no label; a map of a quantity holds NaN there.
        augmentation: what random views are changed by; nothing by default.
        read_ahead: whether tiles may be read by another thread while a model is at work; not where the model reads the
            same files.
    """

    read_ahead = True

    def __init__(
        self,
        names: Sequence[str],
        modalities: Sequence[Modality],
        grid: tuple[int, int],
        *,
        task: Task | None = None,
        classes: Sequence[str] = (),
        labels: Tensor | None = None,
        label_shape: tuple[int, ...] | None = None,
        ignore_index: int = -1,
        splits: Mapping[str, Sequence[int] | np.ndarray] | None = None,
    ) -> None:
        """
        Args:
            labels: (N,) int64 class indices, (N, K) float multi-hot, (N, T) float targets, or (N, H, W) maps of classes
                (int64) or of a quantity (float).
            label_shape: of one label, for a reader that implements :meth:`_read_label`. With ``task`` one of both.
            splits: tile numbers, or a mask of bool of all tiles, by split name.

        Raises:
            ValueError: no tile, or labels that do not fit tiles, task or classes.
        """
        if not len(names):
            raise ValueError(f"{type(self).__name__}: no tile found")
        if (task is None) != (labels is None and label_shape is None):
            raise ValueError(f"{type(self).__name__}: task {task!r} and labels belong together")
        if labels is not None and len(labels) != len(names):
            raise ValueError(f"{type(self).__name__}: {len(labels)} labels for {len(names)} tiles")
        self.modalities = tuple(modalities)
        self.grid = (int(grid[0]), int(grid[1]))
        self.task = plain(task)
        self.classes = words(classes, f"{type(self).__name__}: classes")
        self.label_shape = label_shape if labels is None else tuple(labels.shape[1:])
        self.ignore_index = int(ignore_index)
        self._names: Sequence[str] = names if isinstance(names, ComputedNames) else [str(name) for name in names]
        self._labels = labels
        self.augmentation = Augmentation()
        self._statistics: dict[str, Modality] = {}  # whose bands' deviations the augmentation goes by
        self._months: Mapping[str, np.ndarray] = {}  # of each series those that count, (12,) bool
        self._kept_classes: tuple[int, ...] | None = None  # positions of ``classes`` among the reader's own
        self._splits = {
            str(name): tile_numbers(members, len(names), f"{type(self).__name__}: split {name!r}")
            for name, members in (splits or {}).items()
        }
        self._rows = np.arange(len(names))  # of the reader's own list; views hold some of them

    # What a reader implements.

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        """Tile ``row`` of the reader's own list with ``self.modalities`` (those observed). ``rng`` is None for the
        evaluation view. The base fills in place and label, unless the reader did: a map that moves with a random
        crop."""
        raise NotImplementedError

    def _read_label(self, row: int) -> Tensor:
        """The label of tile ``row``, of a reader whose labels stay in files. Threads may call it at the same time."""
        raise NotImplementedError

    def _place(self, row: int) -> Geo | None:
        """Where tile ``row`` lies, without reading imagery; None where unknown."""
        return None

    def _block(self, row: int) -> str | None:
        """The block of ground of tile ``row``, whose tiles are alike; None where no blocks are known."""
        return None

    def storage(self, modality: str) -> tuple[int, str]:
        """How many files hold a modality, and in what type; (0, "") where this means nothing."""
        return 0, ""

    def notes(self) -> list[str]:
        """What the reader noticed and a report should mention, e.g. dates without data."""
        return []

    # What everybody uses.

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: int | tuple[int, int]) -> Tile:
        i, seed = item if isinstance(item, tuple) else (item, None)
        if not -len(self) <= i < len(self):
            raise IndexError(f"tile {i} of {len(self)}")
        row = int(self._rows[i])
        tile = self._read(row, None if seed is None else np.random.default_rng((seed, row)))
        for modality in self.modalities:
            admit(tile, modality, self.grid)
        if self.task is not None:
            tile.label = self._label(row) if tile.label is None else self._narrowed(tile.label[None])[0]
        tile.geo = tile.geo or self._place(row)
        tile = in_months(tile, self._months) if self._months else tile
        if seed is not None and not self.augmentation.nothing:
            known, own = [self._statistics.get(m.name, m) for m in self.modalities], (seed, row, _AUGMENTED)
            tile = augment(tile, self.augmentation, known, self.dense, np.random.default_rng(own))
        return tile

    def readable(self, tiles: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Tile]]:
        """The evaluation views of some tiles, without those whose files are damaged, with the number of each."""
        for i in tiles:
            try:
                tile = self[int(i)]
            except DamagedFile:
                continue
            yield int(i), tile

    def gather(self, tiles: Sequence[int]) -> tuple[list[bool], TileBatch | None]:
        """Which of some tiles have any observation, and the evaluation views of these as one batch; None for none.

        A reader may read neighbours together.
        """
        members = [self[i] for i in tiles]
        kept = [tile for tile in members if tile.values]
        return [bool(tile.values) for tile in members], collate(
            kept, [m.name for m in self.modalities]
        ) if kept else None

    @property
    def names(self) -> list[str]:
        return [self._names[row] for row in self._rows.tolist()]

    def name(self, tile: int) -> str:
        """Of one tile, without a list of all."""
        return self._names[int(self._rows[tile])]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names that :meth:`split` knows."""
        return tuple(self._splits)

    @property
    def dense(self) -> bool:
        """Whether the label of a tile is a map of its pixels, (H, W)."""
        return self.label_shape is not None and len(self.label_shape) == 2

    @property
    def labels_in_files(self) -> bool:
        """Whether labels are read from files when they are asked for."""
        return self.task is not None and self._labels is None

    def labels(self) -> Tensor:
        """(N,) int64 class indices, (N, K) float multi-hot, (N, T) float targets or (N, H, W) maps; reads no imagery.

        Raises:
            ValueError: the data set has no labels.
        """
        if self.task is None:
            raise ValueError(
                f"{type(self).__name__} of {len(self)} tiles, e.g. {self.names[0]}, has no labels; give the reader a "
                "label file or variable"
            )
        if self._labels is not None:
            return self._narrowed(self._labels[torch.from_numpy(self._rows)])
        with ThreadPoolExecutor() as threads:
            return torch.stack(list(threads.map(self._label, map(int, self._rows))))

    def _label(self, row: int) -> Tensor:
        """Of tile ``row`` of the reader's own list, of the classes that the view keeps."""
        if self._labels is None:
            return self._narrowed(self._read_label(row)[None])[0]
        return self._narrowed(self._labels[row : row + 1])[0]

    def _narrowed(self, labels: Tensor) -> Tensor:
        """Labels (n, ...) of all the reader's classes, as labels of those that the view keeps."""
        if self._kept_classes is None:
            return labels
        if self.task != "multiclass":
            return labels[:, list(self._kept_classes)]
        kept = torch.full_like(labels, self.ignore_index)
        for position, old in enumerate(self._kept_classes):
            kept[labels == old] = position
        return kept

    def places(self) -> list[Geo | None]:
        """Where each tile lies; reads no imagery."""
        return [self._place(int(row)) for row in self._rows]

    def located(self) -> Places:
        """Where the tiles lie, in columns, for data sets of millions; reads no imagery."""
        return Places.of(self.places())

    def blocks(self) -> np.ndarray | None:
        """(N,) name of the block of ground of each tile, or None: tiles of a block are alike, and no N observations."""
        names = [self._block(int(row)) for row in self._rows]
        return None if None in names else np.array(names)

    def ground(self) -> list[tuple[str, float, float]] | None:
        """Of each tile the scene, and the metres from the scene's northern and western border to the tile's; None where
        no scenes are known."""
        return None

    def modality(self, name: str) -> Modality:
        """The modality called ``name``.

        Raises:
            ValueError: there is none; the message lists those there are.
        """
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise ValueError(f"no modality {name!r}; the data set has {', '.join(m.name for m in self.modalities)}")

    def subset(self, indices: Sequence[int] | Tensor | np.ndarray) -> TileDataset:
        """The tiles ``indices`` (of this view), in that order; or those of a mask of bool of all its tiles.

        Raises:
            ValueError: no index, or one out of range.
        """
        chosen = tile_numbers(indices, len(self), "subset")
        if not len(chosen):
            raise ValueError(f"subset: indices of {len(self)} tiles wanted, none given")
        view = copy.copy(self)
        view._rows = self._rows[chosen]
        return view

    def split(self, name: str) -> TileDataset:
        """The tiles of this view that belong to the split ``name``.

        Raises:
            ValueError: no such split, or none of its tiles is here.
        """
        if name not in self._splits:
            known = ", ".join(self._splits) or "none: describe them to the reader"
            raise ValueError(f"{type(self).__name__}: no split {name!r}; known splits: {known}")
        inside = np.flatnonzero(np.isin(self._rows, self._splits[name]))
        if not len(inside):
            raise ValueError(f"{type(self).__name__}: split {name!r} has none of these {len(self)} tiles")
        return self.subset(inside)

    def with_modalities(self, names: Sequence[str]) -> TileDataset:
        """The same tiles with only the modalities ``names``, in that order; others are not even read."""
        names = words(names, "with_modalities: modalities")
        if not names:
            raise ValueError("with_modalities: a list of names is wanted, none given")
        view = copy.copy(self)
        view.modalities = tuple(self.modality(name) for name in names)
        return view

    def with_months(self, months: Mapping[str, np.ndarray]) -> TileDataset:
        """The same tiles; of the series that are named only dates in their months, (12,) bool from January, count."""
        view = copy.copy(self)
        view._months = dict(months)
        return view

    def with_augmentation(self, augmentation: Augmentation, statistics: Sequence[Modality] = ()) -> TileDataset:
        """The same tiles with augmented random views ``dataset[i, seed]``, the same ones in whatever process.

        A tile that is flipped or turned has no place.

        Args:
            statistics: modalities with mean and deviation of their bands, for gain and offset.

        Raises:
            ValueError: rotations of a grid that is not square, gain or offset of bands of unknown deviation.
        """
        if augmentation.rotations and self.grid[0] != self.grid[1]:
            raise ValueError(
                f"with_augmentation: rotations need a square grid, this one is {self.grid[0]} x {self.grid[1]} "
                "patches; take flips alone"
            )
        view = copy.copy(self)
        view.augmentation = augmentation
        view._statistics = with_deviations(self.modalities, statistics, augmentation)
        return view

    def with_classes(self, names: Sequence[str]) -> TileDataset:
        """The same labels reduced to some classes or targets, in that order.

        Multi-label and regression lose columns; multi-class loses the tiles of the other classes, and in maps their
        pixels become ``ignore_index``.

        Raises:
            ValueError: no labels, a class that does not exist, or a map of a quantity, which has one target only.
        """
        names = words(names, "with_classes: classes")
        unknown = [name for name in names if name not in self.classes]
        if unknown or not names:
            raise ValueError(
                f"with_classes: {unknown or list(names)} not among {', '.join(self.classes) or 'no classes'}"
            )
        if self.dense and self.task == "regression":
            raise ValueError(f"with_classes: a map of {self.classes[0]} is one target; nothing can be left out")
        columns = [self.classes.index(name) for name in names]
        view = self
        if self.task == "multiclass" and not self.dense:
            view = self.subset(torch.isin(self.labels(), torch.tensor(columns)).nonzero().flatten())
        view = copy.copy(view)
        view.classes = names
        before = self._kept_classes or range(len(self.classes))
        view._kept_classes = tuple(before[k] for k in columns)
        if view.label_shape is not None and len(view.label_shape) == 1:
            view.label_shape = (len(columns),)
        return view
