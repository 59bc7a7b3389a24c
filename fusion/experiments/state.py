"""What the steps of an experiment hand on to each other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..data import TileDataset

__all__ = ["State", "call"]


@dataclass
class State:
    """Everything known so far in a run of an experiment.

    Attributes:
        out: the folder of results.
        seed: of everything random.
        data: tiles by split, ``train``, ``val`` and ``test`` as far as there are such; ``all`` is all of them.
        models: by name; ``pretrained`` and ``random`` share a configuration, statistics included.
        metrics: nested; becomes ``metrics.json``.
        sections: of the report, in order.
        appendix: sections that come after all others, e.g. about training.
        fresh: train anew rather than going on with what is in ``out``.
        progress: show what training prints.
    """

    out: Path
    seed: int
    data: dict[str, TileDataset]
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
        return self.data[name]

    def model(self, name: str) -> nn.Module:
        """A model of an earlier step.

        Raises:
            ValueError: no step has made it.
        """
        if name not in self.models:
            raise ValueError(f"no step has made a model {name!r} so far; there are {', '.join(self.models) or 'none'}")
        return self.models[name]


def call(function: Callable[..., Any], settings: Mapping[str, Any], where: str, *given: Any) -> Any:
    """``function(*given, **settings)``, where a setting the function does not know is refused by name.

    Raises:
        ValueError: an unknown setting; the message lists those there are.
    """
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [name for name, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    settable = known[len(given) :]
    unknown = [name for name in settings if name not in settable]
    if unknown and not open_ended:
        raise ValueError(f"{where}: unknown setting {', '.join(unknown)}; it has {', '.join(settable) or 'none'}")
    missing = [n for n in settable if parameters[n].default is inspect.Parameter.empty and n not in settings]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} must be given")
    return function(*given, **settings)
