"""What the configurations of models of tiles share: modalities and grid, named sizes, plain types and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from ..data.modality import Modality
from ..settings import former_names, plain, with_new_names, with_tuples

__all__ = ["TileModelConfig"]


@dataclass(frozen=True)
class TileModelConfig:
    """Of a model of tiles; a system adds its sizes. Fields that had other names: :func:`fusion.settings.renamed`.

    Attributes:
        modalities: with mean and std per band where known.
        grid: patches per tile (rows, columns), the same for every modality.
    """

    modalities: tuple[Modality, ...]
    grid: tuple[int, int]

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # fields by name of a preset

    def __post_init__(self) -> None:
        own = type(self).__name__
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))  # the class is frozen
        if not self.modalities:
            raise ValueError(f"{own}: no modality given")
        names = [m.name for m in self.modalities]
        if len(set(names)) < len(names):
            raise ValueError(f"{own}: modalities share a name: {', '.join(names)}")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"{own}: grid must be (rows, columns), both positive, not {self.grid}")

    @classmethod
    def preset(cls, name: str, modalities: Sequence[Modality], grid: Sequence[int], **changes: Any) -> Self:
        """A config of a named size, with fields changed by keyword.

        Raises:
            ValueError: no such size, or values that do not fit.
        """
        if name not in cls.sizes:
            raise ValueError(f"{cls.__name__}: unknown preset {name!r}; one of {', '.join(cls.sizes)}")
        rows, columns = grid
        return cls(tuple(modalities), (rows, columns), **{**cls.sizes[name], **cls._named(changes)})

    @property
    def system(self) -> str:
        """The model's name in messages."""
        return type(self).__name__.removesuffix("Config")

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def modality(self, name: str) -> Modality:
        """The modality of that name.

        Raises:
            ValueError: there is none.
        """
        for modality in self.modalities:
            if modality.name == name:
                return modality
        known = ", ".join(m.name for m in self.modalities)
        raise ValueError(f"{self.system}: unknown modality {name!r}; the model has {known}")

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for YAML and checkpoint metadata; :meth:`from_dict` is the inverse."""
        return {**asdict(self), "modalities": [m.to_dict() for m in self.modalities]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From plain types, as :meth:`to_dict` gives them or gave them under former names.

        Raises:
            ValueError: an unknown field.
        """
        known = cls._named(values)
        unknown = set(known) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"{cls.__name__}: unknown field {', '.join(sorted(unknown))}")
        plain = with_tuples(copy.deepcopy(known))
        plain["modalities"] = tuple(
            m if isinstance(m, Modality) else Modality.from_dict(m) for m in plain["modalities"]
        )
        return cls(**plain)

    @classmethod
    def _named(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """``values`` by the names that the fields have now."""
        return with_new_names(values, former_names(cls), cls.__name__)
