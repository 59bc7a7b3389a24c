"""The data of an experiment, opened once for all of its seeds."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import open_data, partition
from ..data.transfer import transfers
from ..settings import call
from .experiment import Experiment

__all__ = ["Opened", "Opener", "imported", "transfer_names"]


@dataclass(frozen=True)
class Opened:
    """Parts by role, a sentence about them, and what opens the same data with other options of the reader."""

    parts: dict[str, Any]
    described: str
    reopen: Callable[[Mapping[str, Any]], dict[str, Any]] | None


class Opener:
    """Opens what a YAML says of its data, and keeps it open for the next seed.

    Args:
        experiment: with the reader's options of one repetition.
        source: folder, or ``landscape``, which is another one with another seed.
        transfer: which of the splits by scene to take, of an experiment with ``transfer``.
    """

    def __init__(self, experiment: Experiment, source: str | Path, transfer: str | None = None) -> None:
        self.data, self.source, self.transfer = dict(experiment.data), source, transfer
        self.reader = dict(self.data.get("reader", {}))
        self._last: tuple[int | None, Opened] | None = None

    def open(self, seed: int) -> Opened:
        """The data for one seed.

        Raises:
            ValueError: as :func:`fusion.data.open_data` and :func:`fusion.data.transfer.transfers`.
        """
        depends = str(self.source) == "landscape" and "seed" not in self.reader and "open" not in self.data
        own = seed if depends else None
        if self._last is None or self._last[0] != own:
            self._last = own, self._open(own)
        last = self._last[1]
        return Opened(dict(last.parts), last.described, last.reopen)

    def _open(self, seed: int | None) -> Opened:
        if "open" in self.data:
            parts, described = call(imported(self.data["open"]), self.reader, "reader", self.source)
            return Opened(parts, described, None)
        reader = self.reader | ({} if seed is None else {"seed": seed})

        def opened(more: Mapping[str, Any]) -> dict[str, Any]:
            dataset = open_data(self.source, **(reader | dict(more)))
            if self.transfer is None:
                return partition(dataset, self.data.get("splits"))
            found: dict[str, Any] = _transfers(self.data["transfer"], dataset)[self.transfer]
            return found

        parts = opened({})
        return Opened(parts, _describe(parts), opened)


def transfer_names(experiment: Experiment, source: str | Path) -> list[str]:
    """Names of the repetitions of an experiment with ``transfer``: one for each scene that is left out.

    Raises:
        ValueError: as :func:`fusion.data.transfer.transfers`, or splits, repeats or an own opener beside it.
    """
    twice = [name for name in ("splits", "open") if name in experiment.data]
    twice += ["repeats"] if experiment.repeats else []
    if twice:
        raise ValueError(
            f"experiment {experiment.name}: transfer makes splits and repetitions itself; leave out {', '.join(twice)}"
        )
    dataset = open_data(source, **dict(experiment.data.get("reader", {})))
    return list(_transfers(experiment.data["transfer"], dataset))


def imported(place: str) -> Callable[..., Any]:
    """The function ``module:name``.

    Raises:
        ValueError: there is no such module or function.
    """
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no function {place!r}: {error}") from None


def _transfers(setting: Any, dataset: Any) -> dict[str, Any]:
    """``scene``, or a mapping of settings."""
    settings = setting if isinstance(setting, Mapping) else {"by": setting}
    return call(transfers, settings, "transfer", dataset)


def _describe(parts: Mapping[str, Any]) -> str:
    dataset = parts["all"]
    scored = parts.get("test", dataset)  # of fewer classes, where only those are kept that all scenes have
    sizes = ", ".join(f"{len(part)} {role}" for role, part in parts.items() if role != "all")
    metres = dataset.modalities[0].patch_metres
    ground = f"{dataset.grid[0] * metres:g} x {dataset.grid[1] * metres:g} m"
    labels = f"; {len(scored.classes)} {dataset.task} classes" if dataset.task not in (None, "regression") else ""
    labels = f"; target {', '.join(dataset.classes)}" if dataset.task == "regression" else labels
    return f"{len(dataset)} tiles of {ground} ({sizes}); {', '.join(m.name for m in dataset.modalities)}{labels}"
