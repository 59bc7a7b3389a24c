"""``fusion predict``: from tiles to maps of classes or quantities."""

from __future__ import annotations

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
    batch_size: int = 8,
    workers: int = 0,
    report: bool = True,
) -> int:
    """Writes what a fine-tuned model says of every pixel or tile: GeoTIFF where the data is georeferenced, else NPZ.

    Classes have their names and colours in the file; quantities are float32. Tiles that overlap are averaged, so that
    no border of a tile is left to be seen: give the description of the data a `stride` below its `tile`.

    Args:
        run: run folder or checkpoint of the fine-tuned model.
        data: `landscape`, a folder of TreeSatAI-TS, PASTIS-HD or FLAIR, or a YAML file that describes one.
        out: the file, RUN/prediction.tif by default; several rasters go into a folder of that name.
        reader: options of the data's reader.
        modalities: use only these, e.g. --modalities '[s2,s1]'.
        split: the tiles to map; one that is dealt for labels, as the description has no splits, takes
            --reader.labels true.
        probabilities: write those of every class too, beside the map with _probabilities in its name.
        batch_size: tiles at a time.
        workers: processes that read tiles.
        report: write a page beside the map, with .html for .tif, that shows it and says how right it is.
    """
    from pathlib import Path
    from typing import cast

    from fusion.commands.session import begin, beside
    from fusion.embed import predict_map
    from fusion.training import Finetuning, load_finetuned

    source = Path(run)
    module = cast(Finetuning, load_finetuned(source))
    target = beside(source, "prediction.tif", out)
    state = begin(data, target.parent, reader=reader, modalities=modalities, model=source, labelled=False)
    options: dict[str, Any] = {"probabilities": probabilities, "batch_size": batch_size, "workers": workers}
    tiles = state.split(split)
    maps = predict_map(module, tiles, target, **options)
    for written in maps:
        print(written)
    if report:
        _write_pages([written.path for written in maps], source, tiles, data, reader or {}, split)
    return 0


def _write_pages(
    maps: Sequence[Path], run: Path, tiles: TileDataset, data: str, reader: Mapping[str, Any], split: str
) -> None:
    """A page for each map, with the image of the data also where the model does not look at it."""
    from fusion.data import open_data, open_unlabelled, partition
    from fusion.evaluation.composite import visible_bands
    from fusion.workflow.map_report import write_map_report

    placed = [path for path in maps if path.suffix == ".tif"]
    if not placed:
        print("no page: the tiles have no place, so there is no map to show")
        return
    seen = tiles if visible_bands(tiles.modalities).true else partition(open_unlabelled(data, **reader))[split]
    labelled = tiles
    if tiles.task is None:
        try:
            labelled = open_data(data, **reader)
        except ValueError as error:
            print(f"the page shows no labels: {error}")
    for path in placed[:_PAGES]:
        page = write_map_report(path, seen, run, labelled=labelled if labelled.task is not None else None)
        print(f"{page}: shows the map in a browser, and how right it is")
    if len(placed) > _PAGES:
        print(f"{len(placed)} maps; only the first {_PAGES} have a page")
