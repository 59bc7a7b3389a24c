"""What a map is made with that is measured where the user does not say it: the precision, and tiles at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .batches import fitting_batch, usual_batch
from .blend import Told
from .precision import Precision, decided
from .trial import try_on_map

__all__ = ["Choices"]


@dataclass(frozen=True)
class Choices:
    """What the user says of them.

    Attributes:
        precision: ``"auto"`` for what is faster.
        batch_size: tiles at a time; None for what fits.
    """

    precision: Precision
    batch_size: int | None

    @property
    def at_first(self) -> int:
        """Tiles at a time until they are measured."""
        return 1 if self.batch_size is None else self.batch_size

    def known(self, told: Told) -> dict[str, Any]:
        """Entries of a job, for :class:`~fusion.embed.working.WorkingFolder`.

        Raises:
            ValueError: a word that is no precision.
        """
        both = {"precision": decided(self.precision, told.device), "batch_size": self.batch_size}
        return {name: value for name, value in both.items() if value is not None}

    def to_measure(self, told: Told) -> dict[str, Callable[[], Any]]:
        """The other entries, the precision first, in which the memory of a batch is measured."""
        known = self.known(told)
        told.precision = known.get("precision", told.precision)
        usual = self.batch_size or usual_batch(told.dataset.grid)
        measures: dict[str, Callable[[], Any]] = {
            "precision": lambda: try_on_map(told, usual),
            "batch_size": lambda: fitting_batch(told),
        }
        return {name: measure for name, measure in measures.items() if name not in known}

    def take(self, told: Told, job: Mapping[str, Any] | None = None) -> None:
        """Sets what ``told`` is to be asked with: that of a job, or without one measured now."""
        if job is None:
            job = self.known(told) | {name: measure() for name, measure in self.to_measure(told).items()}
        told.precision, told.batch_size = job["precision"], job["batch_size"]
