"""One way to open any data set: by a name, a description or a folder."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from .dataset import TileDataset

__all__ = ["open_dataset"]

PRESETS = Path(__file__).parents[1] / "presets" / "data"
OWN = "fusion.yaml"  # a description that lies in its folder


def open_dataset(source: str | Path, folder: str | Path | None = None, **options: Any) -> TileDataset:
    """Opens a data set.

    Args:
        source: ``"landscape"`` (synthetic, needs no folder), ``"treesat"``, the name of a description that ships with
            the package (``"biomassters"``, ``"worldcereal"``, ``"worldcereal-monthly"``), a YAML file, or a folder
            that holds ``fusion.yaml`` or TreeSatAI-TS.
        folder: where the files are; by default where the description is.
        options: of the reader, e.g. ``modalities``, ``max_dates``, ``labels``; for the landscape those of
            :class:`~fusion.data.landscape.Landscape` too (``size``, ``seed``, ``year``).

    Raises:
        ValueError: nothing of the kind, an option the reader does not have, or what the reader raises.
    """
    name = str(source)
    if name == "landscape":
        from .landscape import Landscape, LandscapeTiles

        of_scene = {key: options.pop(key) for key in set(options) & set(inspect.signature(Landscape).parameters)}
        return _call(LandscapeTiles, Landscape(**of_scene), **options)
    if Path(source).is_dir():
        folder = folder or source
        name = str(Path(source) / OWN) if (Path(source) / OWN).is_file() else "treesat"
        if name == "treesat" and not [*Path(source).rglob("*_filenames.lst")]:
            raise ValueError(f"{source}: holds neither {OWN} nor TreeSatAI-TS; write {OWN} (docs/data.md shows one)")
    preset = PRESETS / f"{name}.yaml"
    description = preset if preset.is_file() else Path(name)
    if name == "treesat" or preset.is_file():
        if folder is None:
            raise ValueError(f"{name}: the folder with the files is wanted (--data DIR)")
    elif not description.is_file():
        known = ["landscape", "treesat", *sorted(path.stem for path in PRESETS.glob("*.yaml"))]
        raise ValueError(f"{name}: no such data set, description or folder; names are {', '.join(known)}")
    if name == "treesat":
        from .treesat import TreeSatDataset

        return _call(TreeSatDataset, folder, **options)
    from .cube import CubeDataset

    return _call(CubeDataset, description, folder or description.parent, **options)


def _call(reader: type, *arguments: Any, **options: Any) -> TileDataset:
    known = [n for n, p in inspect.signature(reader).parameters.items() if n not in ("self", "folder", "landscape")]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"{reader.__name__} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return reader(*arguments, **options)
