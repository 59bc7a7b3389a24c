"""Writing a description, and reading by it what it describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...settings import call
from .guess import Guess

__all__ = ["try_out", "write_description"]


def write_description(guess: Guess, path: Path) -> None:
    """
    Raises:
        ValueError: there is another file already, or no folder to write to.
    """
    text = str(guess)
    if path.exists():
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
            return
        other = path.with_name(f"{path.stem}-new{path.suffix or '.yaml'}")
        raise ValueError(
            f"{path} is there already and holds something else, which may be your answers; give another --out, e.g. "
            f"--out {other}"
        )
    if not path.parent.is_dir():
        raise ValueError(f"{path}: no folder {path.parent}; make it, or give another --out")
    path.write_text(text, encoding="utf-8")


def try_out(guess: Guess, options: Mapping[str, Any]) -> tuple[str, bool]:
    """Opens the data as described: one line of what is read, or the error; and whether it went well.

    Args:
        options: of :class:`fusion.data.FolderDataset`.
    """
    from ..folder import FolderDataset

    try:
        dataset: FolderDataset = call(FolderDataset, options, "reader of cubes", guess.description, guess.folder)
        tile = dataset[0]
    except ValueError as error:
        return f"the reader says: {error}", False
    parts = []
    for modality in dataset.modalities:
        days = tile.days.get(modality.name)
        dates = "" if days is None else f", {len(days)} dates"
        parts.append(f"{modality.name} ({modality.channels} band{'s' if modality.channels > 1 else ''}{dates})")
    scenes = len(dataset.scenes)
    labels = f", labels: {dataset.task}" if dataset.task else ""
    place = f"{scenes} scene{'s' if scenes > 1 else ''}"
    return f"reads {len(dataset)} tiles of {place}; the first has {', '.join(parts)}{labels}", True
