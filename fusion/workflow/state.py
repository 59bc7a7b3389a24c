"""What the steps of an experiment hand on to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..data import FolderDataset, TileDataset

__all__ = ["State"]


@dataclass
class State:
    """Everything known so far in a run of an experiment.

    Attributes:
        out: the folder of results.
        seed: of everything random.
        data: tiles by split, ``train``, ``val`` and ``test`` as far as there are such; ``all`` is all of them. What
            is no tiles is as its own opener returns it.
        models: by name; ``pretrained`` and ``random`` share a configuration, statistics included.
        metrics: nested; becomes ``metrics.json``.
        sections: of the report, in order.
        appendix: sections that come after all others, e.g. about training.
        fresh: train anew rather than going on with what is in ``out``.
        progress: show what training prints.
        opener: opens the same data with other options of their reader.
        probed: rows of probes by what they were made of, so that no step repeats another's, see
            :mod:`fusion.workflow.probed_rows`.
        kept: by key of a group of scores, what several runs are judged by together, see :mod:`fusion.workflow.kept`.
        part: of an experiment with repetitions or several seeds, where ``out`` lies in its results, ``seed-1``.
    """

    out: Path
    seed: int
    data: dict[str, Any]
    models: dict[str, nn.Module] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    sections: list[Any] = field(default_factory=list)
    appendix: list[Any] = field(default_factory=list)
    fresh: bool = False
    progress: bool = False
    opener: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    probed: dict[Any, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    part: Path = field(default_factory=Path)

    def run_folder(self, folder: str) -> Path:
        """Where a training run of this name is; ``../NAME/RUN`` is that of another experiment, of the same repetition
        and seed, so that no two seeds share a model."""
        path = Path(folder)
        if path.parts[:1] != ("..",) or self.part == Path():
            return self.out / path
        results = self.out
        for _ in self.part.parts:
            results = results.parent
        return results.joinpath(*path.parts[:2], self.part, *path.parts[2:])

    def reopened(self, reader: Mapping[str, Any] | None) -> State:
        """The same state on the same data, read with other options, e.g. ``{"labels": "map"}``.

        Raises:
            ValueError: the data did not come from a reader.
        """
        if not reader:
            return self
        if self.opener is None:
            raise ValueError(f"these data cannot be read with other options ({', '.join(reader)})")
        return replace(self, data=self.opener(reader), probed={})

    def split(self, name: str) -> TileDataset:
        """The tiles of one split.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.data:
            raise ValueError(self._without_split(name))
        tiles: TileDataset = self.data[name]
        return tiles

    def _without_split(self, name: str) -> str:
        """Why there is no such split: no labels to deal, too little ground to deal them, or another name."""
        data = self.data.get("all")
        if name in ("train", "val", "test") and isinstance(data, FolderDataset) and "train" not in self.data:
            if not data.labels_described:
                return f"the data have no labels, so no split {name!r}: describe `labels` (docs/data.md)"
            undealt = next((note for note in data.notes() if "no splits are dealt" in note), "")
            return undealt or f"the data have no split {name!r}: describe `splits` (docs/data.md)"
        return f"the data has no split {name!r}; it has {', '.join(self.data)}"

    def model(self, name: str) -> nn.Module:
        """A model of an earlier step.

        Raises:
            ValueError: no step has made it.
        """
        if name not in self.models:
            raise ValueError(f"no step has made a model {name!r} so far; there are {', '.join(self.models) or 'none'}")
        return self.models[name]
