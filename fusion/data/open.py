"""From what a user says about data (a word, a folder, a YAML) to tiles, and from tiles to splits."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings import call
from .cubes import Cube
from .dataset import TileDataset

if TYPE_CHECKING:
    from .describe import Guess

__all__ = ["open_cubes", "open_data", "open_unlabelled", "partition", "published_name"]

_NO_READER = (
    "`landscape` (built in), a folder of TreeSatAI-TS (with train_filenames.lst), PASTIS-HD (with metadata.geojson) or "
    "FLAIR #2 (with flair_aerial_train), a folder with fusion.yaml, which describes it, another YAML that does, or a "
    "folder with --reader.cube NAME"
)


_DESCRIPTION = "fusion.yaml"  # of the folder in which it lies


@dataclass(frozen=True)
class _Published:
    """A published data set: the files by any of which its folder is recognised, and its reader."""

    name: str
    files: tuple[str, ...]
    reader: str

    def is_in(self, folder: Path) -> bool:
        return any(any(folder.glob(pattern)) for pattern in self.files)

    def open(self, folder: Path, options: Mapping[str, Any]) -> TileDataset:
        module, _, name = self.reader.partition(":")
        reader = getattr(import_module(f".{module}", __package__), name)
        opened: TileDataset = call(reader, options, f"reader of {self.name}", folder)
        return opened


_PUBLISHED = (
    _Published("TreeSatAI-TS", ("*_filenames.lst", "split/*_filenames.lst"), "treesat:TreeSatDataset"),
    _Published("PASTIS-HD", ("metadata.geojson", "DATA_S2", "DATA_S1[AD]", "DATA_SPOT"), "pastis:PastisDataset"),
    _Published("FLAIR #2", ("flair*aerial*", "flair*labels*", "flair*sen*", "aux-data"), "flair:FlairDataset"),
)


def open_data(source: str | Path, **reader: Any) -> TileDataset:
    """Opens a data set by what ``source`` is.

    * ``"landscape"``: the built-in synthetic one; options of :class:`~fusion.data.Landscape` and
      :class:`~fusion.data.LandscapeTiles`.
    * a folder with ``*_filenames.lst``: TreeSatAI-TS; options of :class:`~fusion.data.TreeSatDataset`.
    * a folder with ``metadata.geojson``: PASTIS-HD; options of :class:`~fusion.data.PastisDataset`.
    * a folder with ``flair_aerial_train`` and its like: FLAIR #2; options of :class:`~fusion.data.FlairDataset`.
    * a YAML file, or a folder with ``fusion.yaml``: cubes as it describes them, in its own folder or in ``folder``;
      options of :class:`~fusion.data.FolderDataset`.
    * a folder, with the description as ``cube``: a file, or the name of one that ships with the package.
    * any other folder or file: as :func:`fusion.data.describe.describe` guesses it, which is told on stderr and in
      ``notes()``.

    Raises:
        ValueError: nothing of this, an unknown option, or files that do not say their bands or dates.
    """
    if str(source) == "landscape":
        return _landscape(reader)
    path = _description_in(Path(source), reader)
    if not path.exists():
        raise ValueError(f"no data at {path}; give {_NO_READER}")
    if _described(path, reader):
        from .folder import FolderDataset

        description, folder, options = _folder(path, reader)
        return call(FolderDataset, options, "reader of cubes", description, folder)
    for published in _PUBLISHED:
        if path.is_dir() and published.is_in(path):
            return published.open(path, reader)
    from .folder import FolderDataset

    guess, said = _guess(path)
    dataset: FolderDataset = call(FolderDataset, reader, "reader of cubes", guess.description, guess.folder)
    dataset.opener.remarks["description"] = said
    return dataset


def open_unlabelled(source: str | Path, **reader: Any) -> TileDataset:
    """Opens a data set for what needs no labels: every tile of a described folder, also where labels are described and
    a tile has none. Splits that are dealt for want of described ones are of labelled tiles, and are not there.

    ``labels`` among the options is kept, and brings back what :func:`open_data` opens.

    Raises:
        ValueError: as :func:`open_data`.
    """
    path = _description_in(Path(source), reader)
    described = _described(path, reader) or (path.exists() and not published_name(path))
    return open_data(path, **({"labels": False} if described else {}) | reader)


def published_name(path: Path) -> str:
    """Of which published data set a folder is; empty if of none."""
    return next((one.name for one in _PUBLISHED if path.is_dir() and one.is_in(path)), "")


def _guess(path: Path) -> tuple[Guess, str]:
    """What a folder without a description seems to hold, and how to keep that.

    Raises:
        ValueError: nothing that is read, or something that only a person can know.
    """
    from .describe import describe

    near = _near(path)
    if near:
        raise ValueError(f"{path} is not recognised; {near}")
    try:
        guess = describe(path)
    except ValueError as error:
        raise ValueError(f"{path} is not recognised. {error}. Give {_NO_READER}") from error
    keep = shlex.join(["fusion", "data", "describe", str(path), "--out", str(guess.folder / _DESCRIPTION)])
    if guess.open_questions:
        raise ValueError(
            f"{path} has no description, and its files do not say all: {guess.open_questions[0]}. Write one and answer "
            f"there: {keep}"
        )
    others = sorted(other.name for other in guess.folder.glob("*.y*ml"))
    unread = f" ({others[0]} is not read: give it itself)" if others else ""
    said = f"no description{unread}, guessed {guess.summary()}; keep and mend it with: {keep}"
    print(f"{path}: {said}", file=sys.stderr)
    return guess, said


def _description_in(path: Path, reader: Mapping[str, Any]) -> Path:
    """The description in a folder that has one, unless another is named; else the path as it is."""
    described = path / _DESCRIPTION
    return described if "cube" not in reader and described.is_file() else path


def _described(path: Path, reader: Mapping[str, Any]) -> bool:
    return "cube" in reader or (path.suffix in (".yaml", ".yml") and not path.is_dir())


def _near(path: Path) -> str:
    """Which folder beside the one that was given is that of a published data set; empty if none is."""
    folders = [child for child in sorted(path.iterdir()) if child.is_dir()] if path.is_dir() else []
    for folder in [*folders, path.resolve().parent]:
        for published in _PUBLISHED:
            if published.is_in(folder):
                return f"{folder} is a folder of {published.name}: give that"
    return ""


def open_cubes(source: str | Path, **reader: Any) -> list[Cube]:
    """Opens described data as whole cubes instead of tiles, for the context-aware system.

    ``source``, ``cube`` and ``folder`` as in :func:`open_data`; further options of
    :func:`fusion.data.folder.read_cubes`.

    Raises:
        ValueError: no description, or what the reader refuses.
    """
    from .folder import read_cubes

    path = _description_in(Path(source), reader)
    if not path.exists() or ("cube" not in reader and published_name(path)):
        raise ValueError(
            f"no described cubes at {path}; give a folder with {_DESCRIPTION}, another YAML that describes one, or "
            "--reader.cube NAME"
        )
    if not _described(path, reader):
        guess, _ = _guess(path)
        return call(read_cubes, reader, "reader of cubes", guess.description, guess.folder)
    description, folder, options = _folder(path, reader)
    return call(read_cubes, options, "reader of cubes", description, folder)


def _folder(path: Path, reader: Mapping[str, Any]) -> tuple[str | Path, Path, dict[str, Any]]:
    """Description (a file or the name of one), folder, and the options that are left."""
    options = dict(reader)
    if path.is_dir():
        return options.pop("cube"), path, options
    return path, Path(options.pop("folder", path.parent)), options


def _landscape(options: Mapping[str, Any]) -> TileDataset:
    from .landscape import Landscape, LandscapeTiles

    scene = {k: v for k, v in options.items() if k in ("size", "seed", "year", "field_metres", "fine")}
    tiles = {k: v for k, v in options.items() if k not in scene}
    return call(LandscapeTiles, tiles, "reader of the landscape", Landscape(**scene))


def partition(dataset: TileDataset, splits: Mapping[str, str | None] | None = None) -> dict[str, TileDataset]:
    """The tiles by role: ``train``, ``val`` and ``test`` as far as the data set has such splits, and ``all``.

    Some published protocols validate on the very tiles that train. Such a split is left out, so that whoever trains
    holds tiles out or goes without, and taken where it is named: ``{"val": "val"}``.

    Args:
        splits: the data set's own split for each role, where names differ, e.g. ``{"test": "chip-b"}``. Roles that
            are not named are taken by their own name.

    Raises:
        ValueError: a split that the data set does not have, or two roles that share tiles.
    """
    named = dict(splits or {})
    wanted = {role: role for role in ("train", "val", "test") if role in dataset.splits} | named
    parts = {role: dataset.split(name) for role, name in wanted.items() if name is not None}
    trained = set(parts["train"].names) if "train" in parts else set()
    own = wanted.get("train") == "train" and wanted.get("val") == "val"
    published = own and set(parts["val"].names) == trained
    if published and "val" not in named:
        del parts["val"]
    for role in parts.keys() - {"train"}:
        shared = set(parts[role].names) & trained
        if shared and not (published and role == "val"):
            raise ValueError(
                f"the splits for train ({wanted['train']}) and {role} ({wanted[role]}) share {len(shared)} tiles, e.g. "
                f"{min(shared)}: scores would mean nothing"
            )
    return parts | {"all": dataset}
