"""What the configurations of models of tiles share: modalities and grid, named sizes, plain types and back."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self, TypeVar

from ..data.modality import Modality

__all__ = ["TileModelConfig", "formerly", "renamed"]

Config = TypeVar("Config", bound="TileModelConfig")


def renamed(values: Mapping[str, Any], former: Mapping[str, str]) -> dict[str, Any]:
    """``values`` under today's names, those of ``former`` (today's by former name) exchanged.

    Raises:
        ValueError: one is given under both names.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        today = former.get(name, name)
        if today in found:
            raise ValueError(f"{today} is given under two names, its own and a former one")
        found[today] = value
    return found


def formerly(**former: str) -> Callable[[type[Config]], type[Config]]:
    """A configuration takes fields by former names, too, e.g. ``@formerly(width="mlp_dim")``.

    So files that were written before load, and settings that somebody keeps go on to work.
    """

    def accept(config: type[Config]) -> type[Config]:
        init = vars(config)["__init__"]

        @functools.wraps(init)
        def accepting(self: Config, *args: Any, **values: Any) -> None:
            init(self, *args, **renamed(values, former))

        setattr(config, accepting.__name__, accepting)
        config.former = former
        return config

    return accept


@dataclass(frozen=True)
class TileModelConfig:
    """Of a model of tiles; a system adds its sizes.

    Attributes:
        modalities: with mean and std per band where known.
        grid: patches per tile (rows, columns), the same for every modality.
    """

    modalities: tuple[Modality, ...]
    grid: tuple[int, int]

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # fields by name of a preset
    former: ClassVar[Mapping[str, str]] = {}  # today's names of fields by former ones

    def __post_init__(self) -> None:
        own = type(self).__name__
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
        return cls(tuple(modalities), (rows, columns), **{**cls.sizes[name], **renamed(changes, cls.former)})

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
        system = type(self).__name__.removesuffix("Config")
        raise ValueError(f"{system}: unknown modality {name!r}; the model has {known}")

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for YAML and checkpoint metadata; :meth:`from_dict` is the inverse."""
        return {**asdict(self), "modalities": [m.to_dict() for m in self.modalities]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From plain types, as :meth:`to_dict` gives them or gave them under former names.

        Raises:
            ValueError: an unknown field.
        """
        known = renamed(values, cls.former)
        unknown = set(known) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"{cls.__name__}: unknown field {', '.join(sorted(unknown))}")
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in copy.deepcopy(known).items()}
        plain["modalities"] = tuple(
            m if isinstance(m, Modality) else Modality.from_dict(m) for m in plain["modalities"]
        )
        return cls(**plain)
