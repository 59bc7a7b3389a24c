"""What the steps of an experiment hand on to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..data import TileDataset

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

    def split(self, name: str) -> TileDataset:
        """The tiles of one split.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.data:
            raise ValueError(f"the data has no split {name!r}; it has {', '.join(self.data)}")
        tiles: TileDataset = self.data[name]
        return tiles

    def model(self, name: str) -> nn.Module:
        """A model of an earlier step.

        Raises:
            ValueError: no step has made it.
        """
        if name not in self.models:
            raise ValueError(f"no step has made a model {name!r} so far; there are {', '.join(self.models) or 'none'}")
        return self.models[name]
