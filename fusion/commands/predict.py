"""``fusion predict``: from tiles to maps of classes or quantities."""

from __future__ import annotations

import shlex
from typing import Any, Literal

__all__ = ["predict"]


def predict(
    run: str,
    *,
    data: str,
    out: str | None = None,
    reader: dict[str, Any] | None = None,
    modalities: list[str] | None = None,
    split: str = "all",
    overlap: float | None = None,
    probabilities: bool = False,
    entropy: bool = False,
    batch_size: int | None = None,
    workers: int = 0,
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    compile_model: bool = False,
    restart: bool = False,
    estimate: bool = False,
    report: bool = True,
    block: int = 64,
) -> int:
    """Writes what a fine-tuned model says of every pixel or tile: GeoTIFF where the data is georeferenced, else NPZ.

    Classes have their names and colours in the file; quantities are float32. A style for QGIS, a picture and a STAC
    item lie beside it. Tiles that overlap are averaged, so that no border of a tile is left to be seen. Stopped at any
    moment, the same command goes on after the last finished rows, which lie in a folder of the map's name and
    `.partial`. A probe of a context-aware model maps the pixels of cubes.

    Args:
        run: run folder or checkpoint of the fine-tuned model.
        data: a folder of images, or of TreeSatAI-TS, PASTIS-HD or FLAIR; a YAML that describes one; or `landscape`.
        out: the file, RUN/prediction.tif by default; several rasters go into a folder of that name.
        reader: options of the data's reader.
        modalities: use only these, e.g. --modalities '[s2,s1]'.
        split: the tiles to map; one that is dealt for labels, as the description has no splits, takes
            --reader.labels true.
        overlap: share of a tile's side by which tiles of a described folder overlap, 0.25 by default where labels are
            maps; a `stride` in the description is kept.
        probabilities: write those of every class too, beside the map with _probabilities in its name.
        entropy: write how uncertain the classes are, from 0 to 1, with _entropy in its name.
        batch_size: tiles at a time; by default as many as the free memory allows and the model needs to be fast.
        workers: processes that read tiles.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1, ...; cubes are mapped on the CPU.
        precision: float32, bfloat16, or auto: bfloat16 on GPUs that calculate in it, and of large maps on processors
            that do if a trial on some tiles says that it is faster and that the result differs by 2 % at most.
        compile_model: compile the model first (torch.compile), which takes about a minute and pays for large maps;
            not for cubes.
        restart: begin anew, and throw away what an interrupted run of this map has left.
        block: pixels per side in memory at a time (cubes).
        estimate: only say what the map will take: time, memory, size on disk; nothing is written.
        report: write a page beside the map, with .html for .tif, that shows it and says how right it is.
    """
    from pathlib import Path

    from fusion.commands.following import again, command
    from fusion.commands.map_pages import labelled, write_pages
    from fusion.commands.session import begin, beside, covering, interruptible, known_to, of_tiles
    from fusion.data import open_unlabelled
    from fusion.embed import choose_device, estimate_map, predict_map
    from fusion.embed.device import require_cpu
    from fusion.training import Probed, load_finetuned

    options: dict[str, Any] = {
        "probabilities": probabilities,
        "entropy": entropy,
        "batch_size": batch_size,
        "workers": workers,
        "device": device,
        "precision": precision,
        "compile_model": compile_model,
    }
    given: dict[str, Any] = {"data": data, "out": out, "reader": reader, "modalities": modalities, "split": split}
    given |= {"overlap": overlap, "block": block}
    line = again(predict, run, **given | options)
    source = Path(run)
    options["device"] = choose_device(device)
    module: Any = load_finetuned(source)
    target = beside(source, "prediction.tif", out)
    with interruptible(f"stopped; what is finished is kept. To go on: {line}"):
        cubes = isinstance(module, Probed) and module.of_cubes  # whose pixels `fusion evaluate` does not score
        if cubes:
            if modalities or split != "all" or overlap is not None:
                raise ValueError(
                    f"{run} maps whole cubes with its own sensors; leave --modalities, --split and --overlap out"
                )
            module, tiles = _of_cubes(module, data, reader, block)
            require_cpu(run, device, precision, compile_model)
            options |= {"batch_size": 1, "device": "cpu", "precision": "float32"}  # a block is memory enough
        else:
            state = begin(data, target.parent, reader=reader, modalities=modalities, model=source, labelled=False)
            tiles = known_to(module, state.split(split))
            if overlap is not None or (module.dense and split == "all"):
                tiles = covering(tiles, split, overlap, "pixel" if module.dense else "patch")
        if estimate:
            print(estimate_map(module, tiles, target, **options))
            return 0
        maps = predict_map(module, tiles, target, restart=restart, progress=True, **options)
    for written in maps:
        print(written)
    placed = [written.path for written in maps if written.path.suffix == ".tif"]
    reader = of_tiles(reader) if cubes else reader or {}
    if report:
        write_pages(placed, source, open_unlabelled(data, **reader) if cubes else tiles, data, reader, split)
    opened = [f"open {shlex.quote(str(placed[0]))} in QGIS"] if placed else []
    scored = not cubes and labelled(tiles)
    following = [f"next: {command('evaluate', run, data=data, reader=reader)}"] if scored else []
    if opened or following:
        print("; ".join(opened + following))
    return int(any(written.damaged for written in maps))


def _of_cubes(probe: Any, data: str, reader: dict[str, Any] | None, block: int) -> tuple[Any, Any]:
    """What predicts the pixels of cubes, and their blocks as tiles."""
    from fusion.commands.session import of_cubes
    from fusion.data import open_cubes
    from fusion.embed import CubeBlocks, CubeProbe

    options = of_cubes(reader)
    options.pop("longest_gap", None)  # the probe has its own
    blocks = CubeBlocks(open_cubes(data, **options), list(probe.model.sensors), block)
    return CubeProbe(probe, blocks), blocks
