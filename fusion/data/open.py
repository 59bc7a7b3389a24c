"""From what a user says about data (a word, a folder, a YAML) to tiles, and from tiles to splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..settings import call
from .cubes import Cube
from .dataset import TileDataset

__all__ = ["open_cubes", "open_data", "partition"]

_NO_READER = (
    "`landscape` (built in), a folder of TreeSatAI-TS (with train_filenames.lst), a YAML that describes a folder "
    "beside it, or a folder with --reader.cube NAME"
)


def open_data(source: str | Path, **reader: Any) -> TileDataset:
    """Opens a data set by what ``source`` is.

    * ``"landscape"``: the built-in synthetic one; options of :class:`~fusion.data.Landscape` and
      :class:`~fusion.data.LandscapeTiles`.
    * a folder with ``*_filenames.lst``: TreeSatAI-TS; options of :class:`~fusion.data.TreeSatDataset`.
    * a YAML file: cubes as it describes them, in its own folder or in ``folder``; options of
      :class:`~fusion.data.FolderDataset`.
    * a folder, with the description as ``cube``: a file, or the name of one that ships with the package.

    Raises:
        ValueError: nothing of this, or an unknown option.
    """
    if str(source) == "landscape":
        return _landscape(reader)
    path = Path(source)
    if not path.exists():
        raise ValueError(f"no data at {path}; give {_NO_READER}")
    if "cube" in reader or path.suffix in (".yaml", ".yml"):
        from .folder import FolderDataset

        description, folder, options = _folder(path, reader)
        return call(FolderDataset, options, "reader of cubes", description, folder)
    if any(path.glob("*_filenames.lst")) or any(path.glob("split/*_filenames.lst")):
        from .treesat import TreeSatDataset

        return call(TreeSatDataset, reader, "reader of TreeSatAI-TS", path)
    raise ValueError(f"{path} is not recognised; give {_NO_READER}")


def open_cubes(source: str | Path, **reader: Any) -> list[Cube]:
    """Opens described data as whole cubes instead of tiles, for the context-aware system.

    ``source`` and ``cube`` as in :func:`open_data`; further options of :func:`fusion.data.folder.read_cubes`.

    Raises:
        ValueError: no description, or what the reader refuses.
    """
    from .folder import read_cubes

    path = Path(source)
    if not path.exists() or (path.is_dir() and "cube" not in reader):
        raise ValueError(f"no described cubes at {path}; give a YAML that describes a folder, or --reader.cube NAME")
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

    Args:
        splits: the data set's own split for each role, where names differ, e.g. ``{"test": "chip-b"}``. Roles that
            are not named are taken by their own name.

    Raises:
        ValueError: a split that the data set does not have, or two roles that share tiles.
    """
    wanted = {role: role for role in ("train", "val", "test") if role in dataset.splits} | dict(splits or {})
    parts = {role: dataset.split(name) for role, name in wanted.items() if name is not None}
    for role in parts.keys() - {"train"}:
        shared = set(parts[role].names) & set(parts["train"].names) if "train" in parts else set()
        if shared:
            raise ValueError(
                f"the splits for train ({wanted['train']}) and {role} ({wanted[role]}) share {len(shared)} tiles, e.g. "
                f"{min(shared)}: scores would mean nothing"
            )
    return parts | {"all": dataset}
