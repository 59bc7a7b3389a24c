"""From tiles to maps: runs a model over a data set and writes what it says of every patch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..data import TileBatch, TileDataset
from ..training.loading import require_fit
from ..training.systems import config_of
from .blend import Told, evaluating, rasters, stacked
from .blended import NothingObserved, blended
from .choices import Choices
from .codec import QuantizationError
from .damage import listed
from .formats.about import About
from .formats.geoparquet import Table, require_pyarrow
from .formats.geozarr import require_free, write_geozarr
from .formats.temporary import sweep
from .items import write_embedding_item
from .mosaic import Canvas
from .precision import Precision
from .progress import Progress
from .raster import Dtype, write_npz, write_sections
from .room import tells_a_full_disk
from .scale import at_scale
from .seams import Seams, seam_cosines
from .shared import in_turn
from .table import write_table
from .working import WorkingFolder, WorkingRaster, identity_of

__all__ = ["UNPLACED", "EmbeddingMap", "describe", "embed_map", "fingerprint"]

# What is written for the suffix of `out`; tiles without a place go into an NPZ in any case.
_FORMATS = {"": ".tif", ".tif": ".tif", ".tiff": ".tif", ".npz": ".tif", ".zarr": ".zarr", ".parquet": ".parquet"}

UNPLACED = "The data is not georeferenced: no CRS, no transform. One array a tile, by name."


@dataclass(frozen=True)
class EmbeddingMap:
    """One file of embeddings.

    Attributes:
        path: the file.
        shape: rows, columns, dimensions of a GeoTIFF or a Zarr; tiles, rows, columns, dimensions of an NPZ; patches,
            dimensions of a table.
        crs: None where unknown.
        patch: width and height of a patch in units of the CRS; None where unknown.
        dtype: of the stored values.
        error: of the stored values against the model's, measured on the file.
        seams: how neighbours across tile borders compare with neighbours within a tile; None without a place.
        damaged: by name of a tile that is no data because its files cannot be read, the reason.
    """

    path: Path
    shape: tuple[int, ...]
    crs: str | None
    patch: tuple[float, float] | None
    dtype: Dtype
    error: QuantizationError
    seams: Seams | None = None
    damaged: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape[:-1])) if len(self.shape) > 2 else f"{self.shape[0]} rows"
        place = f"{self.crs}, patches of {self.patch[0]:g} x {self.patch[1]:g}" if self.crs and self.patch else "no CRS"
        lines = [f"{self.path}: {size}, {self.shape[-1]} bands, {self.dtype}, {place}"]
        if self.dtype == "int8":
            lines.append(f"  stored against model: mean cosine {self.error.mean_cosine:.5f}")
        if self.seams is not None and self.seams.pairs:
            lines.append(f"  {self.seams}")
        if self.damaged:
            lines.append(listed(self.damaged))
        return "\n".join(lines)


@tells_a_full_disk
def embed_map(
    model: nn.Module,
    dataset: TileDataset,
    out: str | Path,
    *,
    dtype: Dtype = "float32",
    modalities: Sequence[str] | None = None,
    patch_scale: int = 1,
    batch_size: int | None = None,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "float32",
    compile_model: bool = False,
    restart: bool = False,
    progress: bool = False,
    licence: str | None = None,
) -> list[EmbeddingMap]:
    """Writes the patch embeddings of every tile, north up, one band a dimension.

    The suffix of ``out`` decides the format: ``.tif`` a GeoTIFF, ``.zarr`` a Zarr of version 3 (see
    :mod:`~fusion.embed.formats.geozarr`), ``.parquet`` one table of all patches (see
    :mod:`~fusion.embed.formats.geoparquet`). :func:`~fusion.embed.open_embeddings` reads them.

    Tiles that share a lattice of patches go into one raster, ``out`` itself; if they make several rasters (several CRS,
    or scattered places), ``out`` without its suffix becomes a folder with one raster each, named by its first tile.
    Beside each lies its STAC item (``.json``). Where tiles overlap, patches are averaged with a weight that falls off
    to the border of the tile. A tile without any observation is no data, and so is one whose files cannot be read,
    which the result lists. Tiles without a place go into one NPZ.

    A raster is computed from north to south in strips of rows, which lie in the folder ``<out>.partial`` until it is
    whole. Stopped at any moment and called again with the same model, data and options, it goes on with what is missing
    and writes the bytes that it would have written without the interruption (on the same machine with the same number
    of threads). Any number of processes may do the same call at once (``torchrun``, or several shells, on one machine
    or on a file system that knows POSIX locks); they share the strips, and each returns the maps that it has written.

    Args:
        model: maps a :class:`TileBatch` to something with ``.patches`` (B, P, D).
        out: the file, or the folder beside which it would lie if there were one raster only.
        dtype: ``"float32"``, or ``"int8"``: vectors of unit length in AlphaEarth's mapping.
        modalities: use only these.
        patch_scale: embed patches of so many of the model's patches per side, for models whose ``forward`` takes
            ``patch_scale``. Tiles that overlap share a raster if they are such patches apart.
        batch_size: tiles at a time; by default some 2,000 patches, or fewer where a measurement says that these would
            take over half of the free memory. A call that goes on with an earlier one takes that one's.
        device: where the model runs; by default where it is.
        precision: ``"float32"``, ``"bfloat16"``, or ``"auto"``: bfloat16 on GPUs that calculate in it, and on
            processors that do if a trial on some tiles says that it is faster and that the result differs by 2 % at
            most (root mean square); float32 elsewhere and of small maps. A call that goes on takes the earlier one's.
        compile_model: by ``torch.compile``: the first batch takes about a minute, others less than without; last digits
            differ.
        restart: begin anew, whatever an earlier call left.
        progress: say how far it is.
        licence: of the model, for those who get the map.

    Raises:
        ValueError: a wrong ``dtype`` or suffix, data whose bands, units or grid are not the model's, tiles some of
            which have a place and some not, rotated tiles, a scale that the model does not take or that does not divide
            the grid, the beginning of another map or a Zarr of something else in the way.
        RuntimeError: a file cannot be written; one that was there is untouched.
    """
    out, suffix = Path(out), _suffix(out)
    if dtype not in ("float32", "int8"):
        raise ValueError(f"embed_map: dtype is 'float32' or 'int8', not {dtype!r}")
    dataset = dataset if modalities is None else dataset.with_modalities(modalities)
    if hasattr(model, "config"):
        require_fit(model, dataset, readable=True)
    encode, grid = at_scale(model, dataset.grid, patch_scale)
    tags = describe(model, dataset)
    about = About(tags, dataset.modalities, patch_scale, licence=licence)
    if patch_scale > 1:
        tags["FUSION_PATCH_SCALE"] = str(patch_scale)
    targets = [(canvas, path.with_suffix(suffix)) for canvas, path in rasters(dataset, out, grid)]
    if suffix == ".parquet":
        require_pyarrow()
    for _, path in targets if suffix == ".zarr" else ():
        require_free(path)

    def patches(batch: TileBatch) -> Tensor:
        encoded: Tensor = encode(batch).patches  # (B, P, D)
        return encoded.unflatten(1, grid)

    with evaluating(model, device) as chosen:
        choices = Choices(precision, batch_size)
        told = Told(patches, grid, dataset, choices.at_first, workers, chosen, compiled=compile_model)
        if not targets:
            choices.take(told)
            return [_write_unplaced(told, out.with_suffix(".npz"), dtype, about.own_tags())]
        told.progress = Progress(len(dataset), sum(int(np.prod(c.shape)) for c, _ in targets), shown=progress)
        job = {
            **about.own_tags(),
            **identity_of(dataset),
            "files": [path.name for _, path in targets],
            "dtype": dtype,
            **choices.known(told),
            "device": chosen.type,
            "compiled": compile_model,
        }
        file = out.with_suffix(suffix)
        partial = file.with_name(f"{file.name}.partial")
        folder = WorkingFolder(partial, job, choices.to_measure(told), restart=restart)
        choices.take(told, folder.job)
        making = _Making(told, dtype, about, folder, _depth(model, told))
        if suffix == ".parquet":
            table = write_table(told, [canvas for canvas, _ in targets], file, dtype, about, folder, making.depth)
            found = [] if table is None else [_of_table(table, file, targets[0][0], dtype, told.damaged)]
        else:
            found = _write_rasters(making, targets)
        folder.remove()
        told.progress.end()
    return found


@dataclass(frozen=True)
class _Making:
    """What all rasters of a map have in common; D is ``depth``."""

    told: Told
    dtype: Dtype
    about: About
    folder: WorkingFolder
    depth: int


def _write_rasters(making: _Making, targets: Sequence[tuple[Canvas, Path]]) -> list[EmbeddingMap]:
    """Those that this process has written, or an earlier run."""
    working = [making.folder.raster(str(number), path) for number, (_, path) in enumerate(targets)]
    return in_turn(zip(targets, working, strict=True), lambda one, wait: _write_canvas(making, *one[0], one[1], wait))


def _depth(model: nn.Module, told: Told) -> int:
    """D of the model's patches: as its configuration says, else of the first tile that was observed; 0 of none."""
    known = getattr(getattr(model, "config", None), "dim", None)
    if known is not None:
        return int(known)
    usual, told.progress = told.progress, Progress(0, 0, shown=False)
    try:
        return next((cells.shape[-1] for _, cells in told.of(np.arange(len(told.dataset)))), 0)
    finally:
        told.progress = usual


def _suffix(out: str | Path) -> str:
    given = Path(out).suffix.lower()
    if given not in _FORMATS:
        wanted = ", ".join(dict.fromkeys(_FORMATS.values()))
        raise ValueError(f"embed_map: {out} ends in {given!r}; files that end in {wanted} are written")
    return _FORMATS[given]


def _write_canvas(
    making: _Making, canvas: Canvas, path: Path, working: WorkingRaster, wait: bool
) -> EmbeddingMap | None:
    """None where another process has written the map, or without ``wait`` is about to."""
    told, dtype, transform = making.told, making.dtype, canvas.transform
    if working.complete:
        told.progress.skip(len(canvas.tiles))
    else:
        try:
            geotiff = dtype if path.suffix == ".tif" else None
            blend = blended(told, canvas, path, working, making.depth, wait=wait, geotiff=geotiff)
        except NothingObserved:  # so that there is nothing to go on with
            making.folder.remove()
            raise
        with working.claims.alone():
            working.refresh()
            if blend is None or working.complete:
                return None
            seams = seam_cosines(blend.values, blend.owner)
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path)
            first, last = working.span or (None, None)
            about, dim = replace(making.about, first=first, last=last), blend.values.shape[-1]
            if blend.sections is None:
                known = about.as_attributes(dim, dtype)
                error = write_geozarr(path, blend.values, transform, canvas.crs, dtype, about.own_tags(), known)
            else:
                error = write_sections(blend.sections, transform, canvas.crs, about.as_tags(dim, dtype))
            write_embedding_item(path, canvas, dim, dtype, about)
            working.finish({"shape": list(blend.values.shape), "error": asdict(error), "seams": asdict(seams)})
    found = working.summary
    measured = QuantizationError(**found["error"]), Seams(**found["seams"])
    place = canvas.crs or None, (transform.a, -transform.e)
    return EmbeddingMap(path, tuple(found["shape"]), *place, dtype, *measured, working.damaged)


def _write_unplaced(told: Told, path: Path, dtype: Dtype, tags: dict[str, str]) -> EmbeddingMap:
    values = stacked(told)  # (N, rows, columns, D)
    error = write_npz(path, values, told.dataset.names, dtype, tags | {"FUSION_NOTE": UNPLACED})
    return EmbeddingMap(path, values.shape, None, None, dtype, error, damaged=told.damaged)


def _of_table(table: Table, path: Path, first: Canvas, dtype: Dtype, damaged: Mapping[str, str]) -> EmbeddingMap:
    patch = (first.transform.a, -first.transform.e) if table.crs == first.crs else None
    return EmbeddingMap(path, (table.rows, table.dim), table.crs or None, patch, dtype, table.error, damaged=damaged)


def fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits that change with any weight, and with the configuration where the model has one."""
    digest = hashlib.sha256()
    if hasattr(model, "config"):
        digest.update(json.dumps(config_of(model).to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        flat: Tensor = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def describe(model: nn.Module, dataset: TileDataset) -> dict[str, str]:
    """What made a map, as tags of its file."""
    return {
        "FUSION_VERSION": __version__,
        "FUSION_SYSTEM": type(model).__name__,
        "FUSION_MODEL": fingerprint(model),
        "FUSION_MODALITIES": ", ".join(f"{m.name} ({' '.join(m.bands)})" for m in dataset.modalities),
    }
