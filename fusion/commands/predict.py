"""``fusion predict``: from tiles to maps of classes or quantities."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from fusion.data import TileDataset

__all__ = ["predict"]

_PAGES = 10


def predict(
    run: str,
    *,
    data: str,
    out: str | None = None,
    reader: dict[str, Any] | None = None,
    modalities: list[str] | None = None,
    split: str = "all",
    probabilities: bool = False,
    entropy: bool = False,
    batch_size: int = 8,
    workers: int = 0,
    restart: bool = False,
    estimate: bool = False,
    report: bool = True,
) -> int:
    """Writes what a fine-tuned model says of every pixel or tile: GeoTIFF where the data is georeferenced, else NPZ.

    Classes have their names and colours in the file; quantities are float32. A style for QGIS and a picture lie beside
    it. Tiles that overlap are averaged, so that no border of a tile is left to be seen: give the description of the
    data a `stride` below its `tile`. Stopped at any moment, the same command goes on after the last finished rows,
    which lie in a folder of the map's name and `.partial`.

    Args:
        run: run folder or checkpoint of the fine-tuned model.
        data: `landscape`, a folder of TreeSatAI-TS, PASTIS-HD or FLAIR, or a YAML file that describes one.
        out: the file, RUN/prediction.tif by default; several rasters go into a folder of that name.
        reader: options of the data's reader.
        modalities: use only these, e.g. --modalities '[s2,s1]'.
        split: the tiles to map; one that is dealt for labels, as the description has no splits, takes
            --reader.labels true.
        probabilities: write those of every class too, beside the map with _probabilities in its name.
        entropy: write how uncertain the classes are, from 0 to 1, with _entropy in its name.
        batch_size: tiles at a time.
        workers: processes that read tiles.
        restart: begin anew, and throw away what an interrupted run of this map has left.
        estimate: only say what the map will take: time, memory, size on disk; nothing is written.
        report: write a page beside the map, with .html for .tif, that shows it and says how right it is.
    """
    from pathlib import Path
    from typing import cast

    from fusion.commands.session import begin, beside, command_line, interruptible
    from fusion.embed import estimate_map, predict_map
    from fusion.training import Finetuning, load_finetuned

    options: dict[str, Any] = {
        "probabilities": probabilities,
        "entropy": entropy,
        "batch_size": batch_size,
        "workers": workers,
    }
    given = {"data": data, "out": out, "reader": reader, "modalities": modalities, "split": split, **options}
    defaults = {name: parameter.default for name, parameter in inspect.signature(predict).parameters.items()}
    again = command_line("predict", [run], {name: v for name, v in given.items() if v != defaults[name]})
    source = Path(run)
    module = cast(Finetuning, load_finetuned(source))
    target = beside(source, "prediction.tif", out)
    with interruptible(f"stopped; what is finished is kept. To go on: {again}"):
        state = begin(data, target.parent, reader=reader, modalities=modalities, model=source, labelled=False)
        tiles = state.split(split)
        if estimate:
            print(estimate_map(module, tiles, target, **options))
            return 0
        maps = predict_map(module, tiles, target, restart=restart, progress=True, **options)
    for written in maps:
        print(written)
    placed = [written.path for written in maps if written.path.suffix == ".tif"]
    if report:
        _write_pages(placed, source, tiles, data, reader or {}, split)
    opened = [f"open {shlex.quote(str(placed[0]))} in QGIS"] if placed else []
    scored = {"data": data, "reader": reader}
    following = [f"next: {command_line('evaluate', [run], scored)}"] if _labelled(data, tiles) else []
    if opened or following:
        print("; ".join(opened + following))
    return 0


def _write_pages(
    maps: Sequence[Path], run: Path, tiles: TileDataset, data: str, reader: Mapping[str, Any], split: str
) -> None:
    """A page for each map, with the image of the data also where the model does not look at it."""
    from fusion.data import open_data, open_unlabelled, partition
    from fusion.evaluation.composite import visible_bands
    from fusion.workflow.map_report import write_map_report

    if not maps:
        print("no page: the tiles have no place, so there is no map to show")
        return
    seen = tiles if visible_bands(tiles.modalities).true else partition(open_unlabelled(data, **reader))[split]
    labelled: TileDataset | None = tiles if tiles.task is not None else None
    if labelled is None and _labelled(data, tiles):
        try:
            labelled = open_data(data, **reader)
        except ValueError as error:
            print(f"the page shows no labels: {error}")
    for path in maps[:_PAGES]:
        print(
            f"{write_map_report(path, seen, run, labelled=labelled)}: shows the map in a browser, and how right it is"
        )
    if len(maps) > _PAGES:
        print(f"{len(maps)} maps; only the first {_PAGES} have a page")


def _labelled(data: str, tiles: TileDataset) -> bool:
    """Whether there is something to score the map with: labels of the tiles, or a description of some."""
    from pathlib import Path

    from fusion.yaml_loader import load_yaml

    path = Path(data)
    described = load_yaml(path.read_text()) if path.suffix in (".yaml", ".yml") else {}
    return tiles.task is not None or bool(described.get("labels"))
