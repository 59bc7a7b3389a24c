"""``fusion embed``: from tiles or cubes to maps of embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

__all__ = ["embed"]


def embed(
    run: str,
    *,
    data: str,
    out: str | None = None,
    reader: dict[str, Any] | None = None,
    modalities: list[str] | None = None,
    split: str = "all",
    overlap: float | None = None,
    dtype: Literal["float32", "int8"] = "float32",
    patch_scale: int = 1,
    batch_size: int | None = None,
    workers: int = 0,
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    compile_model: bool = False,
    restart: bool = False,
    block: int = 64,
) -> int:
    """Writes the embedding of every patch: GeoTIFF, Zarr or GeoParquet where the data is georeferenced, else NPZ.

    A context-aware model embeds every pixel of described cubes on every date it was seen: a Zarr and a GeoTIFF a date.
    Stopped at any moment, the same command goes on where it stopped. Several processes, e.g. by torchrun, share the
    work.

    Args:
        run: run folder or checkpoint of the encoder.
        data: a folder of images, or of TreeSatAI-TS, PASTIS-HD or FLAIR; a YAML that describes one; or `landscape`.
        out: the file, RUN/embeddings.tif by default; .tif is a cloud-optimised GeoTIFF, .zarr a Zarr 3, .parquet a
            table of patches (GeoParquet); several rasters go into a folder of that name. Cubes: a folder of .zarr.
        reader: options of the data's reader.
        modalities: use only these, e.g. --modalities '[s2,s1]'.
        split: the tiles to embed; one that is dealt for labels, as the description has no splits, takes
            --reader.labels true.
        overlap: share of a tile's side by which tiles of a described folder overlap, 0.25 by default: their average
            has no seams. A `stride` in the description is kept.
        dtype: float32, or int8 (unit vectors in AlphaEarth's mapping, a quarter of the size).
        patch_scale: embed patches of so many of the model's patches per side (OmniSat).
        batch_size: tiles at a time; by default as many as the free memory allows and the model needs to be fast.
        workers: processes that read tiles.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1, ...; cubes are embedded on the CPU.
        precision: float32, bfloat16, or auto: bfloat16 on GPUs that calculate in it, and of large maps on processors
            that do if a trial on some tiles says that it is faster and that the result differs by 2 % at most.
        compile_model: compile the model first (torch.compile), which takes about a minute and pays for large maps;
            not for cubes.
        restart: begin anew, and throw away what an interrupted run of this map has left.
        block: pixels per side in memory at a time (cubes).
    """
    from fusion.commands.following import again, command, lead_on
    from fusion.commands.map_pages import labelled
    from fusion.commands.session import begin, beside, covering, interruptible
    from fusion.embed import choose_device, embed_map
    from fusion.embed.device import require_cpu
    from fusion.embed.formats.about import licence_beside
    from fusion.training import read_header

    source = Path(run)
    if read_header(source).system == "context":
        if patch_scale != 1:
            raise ValueError(f"{run} embeds single pixels, it has no patches; leave --patch_scale {patch_scale} out")
        require_cpu(run, device, precision, compile_model)
        return _embed_cubes(source, data, out, reader or {}, dtype, block)
    target = beside(source, "embeddings.tif", out)
    state = begin(data, target.parent, reader=reader, modalities=modalities, model=source, labelled=False)
    options: dict[str, Any] = {
        "dtype": dtype,
        "patch_scale": patch_scale,
        "batch_size": batch_size,
        "workers": workers,
        "device": choose_device(device),
        "precision": precision,
        "compile_model": compile_model,
    }
    tiles = state.split(split)
    if overlap is not None or (patch_scale == 1 and split == "all"):
        tiles = covering(tiles, split, overlap, "patch")
    given = {"data": data, "out": out, "reader": reader, "modalities": modalities, "split": split, "overlap": overlap}
    line = again(embed, run, **given | options | {"device": device})
    with interruptible(f"stopped; what is finished is kept. To go on: {line}"):
        kept: dict[str, Any] = {"restart": restart, "licence": licence_beside(source)}
        maps = embed_map(state.model("pretrained"), tiles, target, progress=True, **kept, **options)
    for written in maps:
        print(written)
    if labelled(state.split("all")):
        lead_on(command("probe", run, data=data, reader=reader, modalities=modalities))
    return int(any(written.damaged for written in maps))


def _embed_cubes(
    run: Path, data: str, out: str | None, reader: dict[str, Any], dtype: Literal["float32", "int8"], block: int
) -> int:
    from fusion.commands.following import command, lead_on
    from fusion.commands.session import beside
    from fusion.context import ContextFusion
    from fusion.data import open_cubes
    from fusion.embed import embed_cube
    from fusion.training import load_model

    model = cast(ContextFusion, load_model(run))
    folder = beside(run, "embeddings", out)
    given, reader = reader, dict(reader)
    longest_gap = reader.pop("longest_gap", 7)
    cubes, damaged = open_cubes(data, **reader), dict[str, str]()
    for cube in cubes:
        target = folder if folder.suffix == ".zarr" and len(cubes) == 1 else folder / f"{cube.name}.zarr"
        written = embed_cube(model, cube, target, dtype=dtype, block=block, longest_gap=longest_gap, progress=True)
        print(written)
        damaged |= written.damaged
    lead_on(command("probe", run, data=data, reader=given, save="linear"))
    return int(bool(damaged))
