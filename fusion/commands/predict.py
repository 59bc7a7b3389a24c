"""``fusion predict``: from tiles to maps of classes or quantities."""

from __future__ import annotations

import inspect
import shlex
from typing import Any

__all__ = ["predict"]


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
    block: int = 64,
) -> int:
    """Writes what a fine-tuned model says of every pixel or tile: GeoTIFF where the data is georeferenced, else NPZ.

    Classes have their names and colours in the file; quantities are float32. A style for QGIS and a picture lie beside
    it. Tiles that overlap are averaged, so that no border of a tile is left to be seen: give the description of the
    data a `stride` below its `tile`. Stopped at any moment, the same command goes on after the last finished rows,
    which lie in a folder of the map's name and `.partial`. A probe of a context-aware model maps the pixels of cubes.

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
        block: pixels per side in memory at a time (cubes).
        estimate: only say what the map will take: time, memory, size on disk; nothing is written.
    """
    from pathlib import Path

    from fusion.commands.session import begin, beside, command_line, interruptible, known_to
    from fusion.embed import estimate_map, predict_map
    from fusion.training import Probed, load_finetuned

    options: dict[str, Any] = {
        "probabilities": probabilities,
        "entropy": entropy,
        "batch_size": batch_size,
        "workers": workers,
    }
    given = {
        "data": data,
        "out": out,
        "reader": reader,
        "modalities": modalities,
        "split": split,
        "block": block,
        **options,
    }
    defaults = {name: parameter.default for name, parameter in inspect.signature(predict).parameters.items()}
    again = command_line("predict", [run], {name: v for name, v in given.items() if v != defaults[name]})
    source = Path(run)
    module: Any = load_finetuned(source)
    target = beside(source, "prediction.tif", out)
    with interruptible(f"stopped; what is finished is kept. To go on: {again}"):
        cubes = isinstance(module, Probed) and module.of_cubes  # whose pixels `fusion evaluate` does not score
        if cubes:
            if modalities or split != "all":
                raise ValueError(f"{run} maps whole cubes with its own sensors; leave --modalities and --split out")
            module, tiles = _of_cubes(module, data, reader, block)
            options["batch_size"] = 1  # a block is memory enough
        else:
            state = begin(data, target.parent, reader=reader, modalities=modalities, model=source, labelled=False)
            tiles = known_to(module, state.split(split))
        if estimate:
            print(estimate_map(module, tiles, target, **options))
            return 0
        maps = predict_map(module, tiles, target, restart=restart, progress=True, **options)
    for written in maps:
        print(written)
    opened = [f"open {shlex.quote(str(maps[0].path))} in QGIS"] if maps[0].path.suffix == ".tif" else []
    scored = {"data": data, "reader": reader}
    following = [f"next: {command_line('evaluate', [run], scored)}"] if not cubes and _labelled(data, tiles) else []
    if opened or following:
        print("; ".join(opened + following))
    return 0


def _of_cubes(probe: Any, data: str, reader: dict[str, Any] | None, block: int) -> tuple[Any, Any]:
    """What predicts the pixels of cubes, and their blocks as tiles."""
    from fusion.commands.session import of_cubes
    from fusion.data import open_cubes
    from fusion.embed import CubeBlocks, CubeProbe

    options = of_cubes(reader)
    options.pop("longest_gap", None)  # the probe has its own
    blocks = CubeBlocks(open_cubes(data, **options), list(probe.model.sensors), block)
    return CubeProbe(probe, blocks), blocks


def _labelled(data: str, tiles: Any) -> bool:
    """Whether there is something to score the map with: labels of the tiles, or a description of some."""
    from pathlib import Path

    from fusion.yaml_loader import load_yaml

    path = Path(data)
    described = load_yaml(path.read_text()) if path.suffix in (".yaml", ".yml") else {}
    return tiles.task is not None or bool(described.get("labels"))
