"""Which part of a description is read: some of its modalities, those that the files have, some of the scenes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .description import Description

if TYPE_CHECKING:
    from .scene import Scene

__all__ = ["kept_scenes", "lacking", "narrow", "without"]


def narrow(description: Description, modalities: Sequence[str] | None, labels: bool) -> Description:
    """The description with some modalities, in that order, and with or without its labels.

    Raises:
        ValueError: no modality, or one that is not described.
    """
    if modalities is not None:
        unknown = [name for name in modalities if name not in description.modalities]
        if unknown or not len(modalities):
            raise ValueError(
                f"modalities {unknown or modalities} unknown; described are {', '.join(description.modalities)}"
            )
        description = replace(description, modalities={name: description.modalities[name] for name in modalities})
    return description if labels else replace(description, labels=None)


def kept_scenes(description: Description, names: Iterable[str]) -> list[str]:
    """The scenes, in the order of their names, but those that the description excludes."""
    return sorted(name for name in names if not any(fnmatchcase(name, pattern) for pattern in description.exclude))


def lacking(description: Description, scenes: Sequence[Scene]) -> list[str]:
    """Modalities that none of the scenes has."""
    return [m for m in description.modalities if scenes and not any(m in scene.layers for scene in scenes)]


def without(description: Description, names: Sequence[str]) -> Description:
    """The description without some modalities."""
    return replace(description, modalities={m: s for m, s in description.modalities.items() if m not in names})
