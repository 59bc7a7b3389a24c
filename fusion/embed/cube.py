"""From a cube to a store of embeddings: resumable, by any number of processes at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from affine import Affine

from fusion.context import ContextFusion
from fusion.data.cubes import Cube
from fusion.data.files import DamagedFile

from .codec import ErrorMeter, QuantizationError
from .damage import listed
from .dense import BlockEncoder
from .formats.temporary import sweep
from .map import fingerprint
from .raster import Dtype, write_geotiff
from .room import tells_a_full_disk
from .store import EmbeddingStore, remove_leftovers

__all__ = ["EmbeddedCube", "embed_cube"]

TILE = 10_980**2  # pixels of 10 m in a Sentinel-2 tile


@dataclass(frozen=True)
class EmbeddedCube:
    """What became of a cube.

    Attributes:
        path: the Zarr.
        rasters: a GeoTIFF a date, next to it.
        shape: dates, dimensions, rows, columns.
        dates: ISO dates that are in it; ``skipped``: those on which nothing was observed.
        blocks: made by this call, of ``all_blocks``; the others were there or came from other processes.
        pixels: times dates, made by this call (with data); ``seconds`` it took.
        error: of int8 values against the model's, over what this call wrote; None for float32.
        damaged: by block (its rows and columns) that is no data because files cannot be read, the reason.
    """

    path: Path
    rasters: tuple[Path, ...]
    shape: tuple[int, int, int, int]
    dates: tuple[str, ...]
    skipped: tuple[str, ...]
    blocks: int
    all_blocks: int
    pixels: int
    seconds: float
    error: QuantizationError | None
    damaged: Mapping[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Pixels and dates with data per second of this process."""
        return self.pixels / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        times, dim, height, width = self.shape
        lines = [f"{self.path}: {times} dates, {dim} features, {height} x {width} pixels"]
        if self.skipped:
            lines.append(f"  skipped, nothing seen: {', '.join(self.skipped)}")
        if self.blocks:
            hours = TILE / self.rate / 3600
            lines.append(
                f"  {self.blocks} of {self.all_blocks} blocks in {self.seconds:.1f} s, {self.rate:.0f} pixels/s: one "
                f"date of a Sentinel-2 tile takes {hours:.1f} h of one such process"
            )
        else:
            lines.append("  was complete")
        if self.error is not None:
            lines.append(f"  stored against model: mean cosine {self.error.mean_cosine:.5f}")
        if self.damaged:
            lines += [listed(self.damaged, "blocks"), f"  once they are mended, remove {self.path} and embed again"]
        return "\n".join(lines)


@tells_a_full_disk
def embed_cube(
    model: ContextFusion,
    cube: Cube,
    out: str | Path,
    *,
    dtype: Dtype = "float32",
    block: int = 64,
    dates: Sequence[int] | np.ndarray | None = None,
    least_observed: float = 0.035,
    longest_gap: int = 7,
    rasters: bool = True,
    progress: bool = False,
) -> EmbeddedCube:
    """Embeds every pixel at every date of the reference sensor on which it was observed.

    Killed at any moment and called again, it goes on where it stopped, and what results has the bits of a run that was
    never interrupted (on the same machine with the same number of threads). A block whose files cannot be read is no
    data, and listed. Any number of processes may do the same
    call at once (``torchrun``, or several shells on a file system that knows POSIX locks); they share the blocks.

    Args:
        out: the Zarr, e.g. ``embeddings.zarr``; GeoTIFFs go into the folder of the same name without the suffix.
        dtype: ``"float32"``, or ``"int8"``: the direction of the vector alone, in AlphaEarth's mapping.
        block: pixels per side of what is in memory at a time, half a window and all dates of every sensor with it.
        dates: positions of the reference's dates; by default those on which more than ``least_observed`` of the pixels
            were observed (3.5 % in the paper). Dates on which nothing was observed are left out, and listed.
        longest_gap: days to another sensor's nearest date, beyond which it does not take part.
        rasters: write a GeoTIFF a date; only if the place is known.

    Raises:
        ValueError: the cube does not fit the model, ``out`` holds something else, or a setting that can mean nothing.
    """
    for name, value, least in (("block", block, 1), ("longest_gap", longest_gap, 0)):
        if isinstance(value, bool | float) or value < least:
            raise ValueError(f"embed_cube: {name} is {value!r}; a whole number of at least {least} is wanted")
    if not least_observed < 1:
        raise ValueError(f"embed_cube: least_observed is {least_observed}; a share of the pixels below 1 is wanted")
    started = time.perf_counter()
    reference = model.config.reference.modality.name
    share, chosen = np.zeros(0), np.zeros(0, dtype=np.int64)
    if reference in cube.sensors:  # a cube without it is refused below
        share = cube.sensors[reference].observed_share()
        usable = np.flatnonzero(share > (least_observed if dates is None else 0))
        chosen = usable if dates is None else np.intersect1d(dates, usable)
        if not len(chosen):
            raise ValueError(
                f"cube {cube.name!r}: {reference!r} saw more than {least_observed:.1%} of the pixels on none of "
                f"{len(share)} dates (at best {share.max():.1%}); check nodata value and cloud mask"
            )
    encoder = BlockEncoder(model, cube, dates=chosen, longest_gap=longest_gap)
    empty = {*cube.sensors[reference].dates[share == 0], *cube.skipped.get(reference, ())}
    about = {
        "model": fingerprint(model),
        "system": type(model).__name__,
        "sensors": {n: list(model.sensor(n).config.modality.bands) for n in encoder.sensors},
        "cube": cube.name,
        "skipped": sorted(map(str, empty)),
    }
    store = EmbeddingStore.create(
        out, encoder.dates, encoder.dim, cube.shape, cube.geo, block=block, dtype=dtype, about=about
    )
    store.remove_damaged()
    made, pixels, meter = 0, 0, ErrorMeter()
    with closing(store.claims()) as claims:
        while not store.complete and (left := [b for b in store.blocks() if not store.done(*b)]):
            worked = False
            for i, j in left:
                with claims.holding(i * store.grid[1] + j) as mine:
                    if not mine or store.done(i, j):
                        continue
                    try:
                        values = encoder(*store.pixels(i, j))
                    except DamagedFile as error:
                        values = store.damage(i, j, str(error))
                    stored = store.write(i, j, values)
                    meter.add(*(np.moveaxis(part, 1, -1) for part in (values, stored)))
                worked, made = True, made + 1
                pixels += int(np.isfinite(values[:, 0]).sum())
                if progress:
                    # With the end of its line in one write: unbuffered, lines of processes would run into another.
                    print(f"block {i},{j} of {store.grid[0]} x {store.grid[1]}\n", end="", flush=True)
            if not worked:
                time.sleep(0.2)  # the rest is in the hands of others; if one of them dies, its lock is free
    seconds = time.perf_counter() - started
    files = _finish(store, cube, encoder, rasters)
    return EmbeddedCube(
        store.path,
        files,
        store.shape,
        tuple(map(str, encoder.dates)),
        tuple(about["skipped"]),
        made,
        int(np.prod(store.grid)),
        pixels,
        seconds,
        meter.result() if dtype == "int8" and made else None,
        store.damaged(),
    )


def _finish(store: EmbeddingStore, cube: Cube, encoder: BlockEncoder, rasters: bool) -> tuple[Path, ...]:
    """Writes a GeoTIFF a date, if the place is known and they are wanted, and marks the store as complete."""
    geo, folder = cube.geo if rasters else None, store.path.with_suffix("")
    files = () if geo is None else tuple(folder / f"{date}.tif" for date in encoder.dates)
    with store.claims().alone():
        if not store.complete:
            if geo is not None:
                for t, path in enumerate(files):
                    sweep(path)
                    tags = {"FUSION_MODEL": fingerprint(encoder.model), "FUSION_DATE": path.stem}
                    write_geotiff(path, _OneDate(store, t), Affine(*geo.transform), geo.crs, store.dtype, tags)
            remove_leftovers(store.path)
            store.finish()
    return files


class _OneDate:
    """One date of a store as (rows, columns, D), read where it is sliced."""

    def __init__(self, store: EmbeddingStore, date: int) -> None:
        self.store, self.date = store, date
        self.shape = (*store.shape[2:], store.shape[1])

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        return np.moveaxis(self.store.read(self.date, *window), 0, -1)
