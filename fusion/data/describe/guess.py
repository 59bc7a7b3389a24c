"""What was found in a folder: the description, whence every part of it was guessed, and what is left to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .writing import commented_yaml

__all__ = ["Guess", "NotNeededError", "Part", "Question"]


class NotNeededError(ValueError):
    """The data are known without a description; the message says how they are read."""


@dataclass(frozen=True)
class Question:
    """
    Attributes:
        text: what only a person can know, in words.
        needed: without the answer the values, or what they are called, may be wrong.
    """

    text: str
    needed: bool = False


@dataclass
class Part:
    """One modality of a folder.

    Attributes:
        source: what stands under its name in ``modalities``.
        comments: by key of ``source``, from what it was guessed.
        scenes: names that its pattern gives.
        extent: height and width of the smallest scene looked at, in metres; None where it has no pixels.
        place: CRS, left and top of its first raster; None where unknown.
        align: its rasters lie on grids of their own.
        georeference: what the files lack and their description needs.
    """

    name: str
    source: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    scenes: Sequence[str] = ()
    extent: tuple[float, float] | None = None
    place: tuple[str, float, float] | None = None
    align: str = ""
    georeference: Mapping[str, Any] = field(default_factory=dict)

    def number_bands(self, count: int, why: str, asked: str) -> None:
        """Bands that nothing names: a single one is called like the modality, several are numbered and asked for."""
        self.source["bands"] = [self.name] if count == 1 else [f"B{k + 1}" for k in range(count)]
        if count > 1:
            self.comments["bands"] = f"numbered: {why}"
            self.questions.append(Question(f"the names of the {count} bands of {asked}", needed=True))


@dataclass(frozen=True)
class Guess:
    """A description with its reasons; ``str`` of it is the YAML.

    Attributes:
        folder: that the description is of: where the YAML belongs.
        description: what :func:`fusion.data.folder.load_description` takes.
        comments: from what a value was guessed, by the path of its key: ``("modalities", "s2", "unit")``.
        questions: what the files do not say.
    """

    folder: Path
    description: Mapping[str, Any]
    comments: Mapping[tuple[str, ...], str]
    questions: tuple[Question, ...] = ()

    @property
    def open_questions(self) -> list[str]:
        """Those without whose answer values may be wrong."""
        return [question.text for question in self.questions if question.needed]

    def summary(self) -> str:
        """What was guessed, in one line."""
        parts = []
        for name, source in self.description["modalities"].items():
            bands = source.get("bands") or source.get("variable") or ()
            listed = [bands] if isinstance(bands, str) else [str(band) for band in bands]
            shown = " ".join(listed[:4]) + (f" ...({len(listed)})" if len(listed) > 4 else "")
            unit = f", {source['unit']}" if source.get("unit") else ""
            metres = f" at {source['resolution']:g} m" if source.get("resolution") else ""
            parts.append(f"{name} ({shown}{metres}{unit})")
        labels = self.description.get("labels") or {}
        if labels:
            file = labels.get("vector") or labels.get("table") or labels.get("files") or labels.get("variable")
            parts.append(f"labels of {file}")
        return ", ".join(parts)

    def __str__(self) -> str:
        head = [f"Please answer: {question.text}" for question in self.questions]
        return commented_yaml(self.description, self.comments, head)
