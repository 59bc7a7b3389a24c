"""``fusion embed``: from tiles to a map of embeddings."""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["embed"]


def embed(
    run: str,
    *,
    data: str,
    out: str | None = None,
    reader: dict[str, Any] | None = None,
    modalities: list[str] | None = None,
    split: str = "all",
    dtype: Literal["float32", "int8"] = "float32",
    batch_size: int = 32,
    workers: int = 0,
) -> int:
    """Writes the embedding of every patch: GeoTIFF where the data is georeferenced, NPZ where it is not.

    Args:
        run: run folder or checkpoint of the encoder.
        data: `landscape`, a folder of TreeSatAI-TS, or a YAML that describes cubes.
        out: the file, RUN/embeddings.tif by default; several rasters go into a folder of that name.
        reader: options of the data's reader, e.g. --reader.stride 4 for overlapping tiles.
        modalities: use only these, e.g. --modalities '[s2,s1]'.
        split: the tiles to embed.
        dtype: float32, or int8 (unit vectors in AlphaEarth's mapping, a quarter of the size).
        batch_size: tiles at a time.
        workers: processes that read tiles.
    """
    from pathlib import Path

    from fusion.commands.session import begin
    from fusion.embed import embed_map

    source = Path(run)
    target = Path(out) if out else (source if source.is_dir() else source.parent) / "embeddings.tif"
    state = begin(data, target.parent, reader=reader, modalities=modalities, model=source)
    options = {"dtype": dtype, "batch_size": batch_size, "workers": workers}
    for written in embed_map(state.model("pretrained"), state.split(split), target, **options):
        print(written)
    return 0
