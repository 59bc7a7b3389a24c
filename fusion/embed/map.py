"""From tiles to maps: runs a model over a data set and writes what it says of every patch."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..data import Tile, TileBatch, TileDataset, collate
from ..training.loading import require_fit
from ..training.systems import config_of
from .codec import QuantizationError
from .mosaic import Canvas, lay_out
from .raster import Dtype, write_geotiff, write_npz
from .seams import Seams, seam_cosines

__all__ = ["EmbeddingMap", "embed_map", "fingerprint"]

_UNPLACED = "The data is not georeferenced: no CRS, no transform. One array of patches a tile, by name."


@dataclass(frozen=True)
class EmbeddingMap:
    """One file of embeddings.

    Attributes:
        path: the file.
        shape: rows, columns, dimensions of a GeoTIFF; tiles, rows, columns, dimensions of an NPZ.
        crs: None where unknown.
        patch: width and height of a patch in units of the CRS; None where unknown.
        dtype: of the stored values.
        error: of the stored values against the model's, measured on the file.
        seams: how neighbours across tile borders compare with neighbours within a tile; None without a place.
    """

    path: Path
    shape: tuple[int, ...]
    crs: str | None
    patch: tuple[float, float] | None
    dtype: Dtype
    error: QuantizationError
    seams: Seams | None = None

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape[:-1]))
        place = f"{self.crs}, patches of {self.patch[0]:g} x {self.patch[1]:g}" if self.crs and self.patch else "no CRS"
        lines = [f"{self.path}: {size}, {self.shape[-1]} bands, {self.dtype}, {place}"]
        if self.dtype == "int8":
            lines.append(f"  stored against model: mean cosine {self.error.mean_cosine:.5f}")
        if self.seams is not None and self.seams.pairs:
            lines.append(f"  {self.seams}")
        return "\n".join(lines)


def embed_map(
    model: nn.Module,
    dataset: TileDataset,
    out: str | Path,
    *,
    dtype: Dtype = "float32",
    modalities: Sequence[str] | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: torch.device | str | None = None,
) -> list[EmbeddingMap]:
    """Writes the patch embeddings of every tile, north up, one band a dimension.

    Tiles that share a lattice of patches go into one GeoTIFF, ``out`` itself; if they make several rasters
    (several CRS, or scattered places), ``out`` without its suffix becomes a folder with one GeoTIFF each, named by its
    first tile. Where tiles overlap, patches are averaged with a weight that falls off to the border of the tile.
    A tile without any observation is no data. Tiles without a place go into one NPZ.

    Args:
        model: maps a :class:`TileBatch` to something with ``.patches`` (B, P, D).
        dtype: ``"float32"``, or ``"int8"``: vectors of unit length in AlphaEarth's mapping.
        modalities: use only these.
        device: where the model runs; by default where it is.

    Raises:
        ValueError: a wrong ``dtype``, data whose bands, units or grid are not the model's, tiles some of which have a
            place and some not, rotated tiles.
        RuntimeError: a file cannot be written; one that was there is untouched.
    """
    if dtype not in ("float32", "int8"):
        raise ValueError(f"embed_map: dtype is 'float32' or 'int8', not {dtype!r}")
    dataset = dataset if modalities is None else dataset.with_modalities(modalities)
    if hasattr(model, "config"):
        require_fit(model, dataset)
    out, places = Path(out), dataset.places()
    unplaced = [name for name, place in zip(dataset.names, places, strict=True) if place is None]
    if unplaced and len(unplaced) < len(places):
        raise ValueError(
            f"embed_map: {len(unplaced)} of {len(places)} tiles have no place, e.g. {unplaced[0]}; "
            "embed them separately (dataset.subset)"
        )
    device = torch.device(device) if device is not None else _device(model)
    tags = _describe(model, dataset)
    was_training = model.training
    model.to(device).eval()
    try:
        patches = _Patches(model, dataset, batch_size, workers, device)
        if unplaced:
            return [_write_unplaced(patches, out.with_suffix(".npz"), dtype, tags)]
        canvases = lay_out([p for p in places if p is not None], dataset.grid, dataset.modalities, dataset.names)
        paths = [out.with_suffix(".tif")]
        if len(canvases) > 1:
            paths = [out.with_suffix("") / f"{_file_name(dataset.names[c.tiles[0]])}.tif" for c in canvases]
        return [_write_canvas(patches, c, path, dtype, tags) for c, path in zip(canvases, paths, strict=True)]
    finally:
        model.train(was_training)


class _Patches:
    """Runs a model over some tiles of a data set, a batch at a time."""

    def __init__(self, model: nn.Module, dataset: TileDataset, batch: int, workers: int, device: torch.device) -> None:
        self.model, self.dataset, self.batch, self.workers, self.device = model, dataset, batch, workers, device

    def of(self, tiles: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """For each tile that was observed its number within ``tiles`` and its (rows, columns, D) float32 patches."""
        names = [m.name for m in self.dataset.modalities]

        def gather(members: list[Tile]) -> tuple[list[bool], TileBatch | None]:
            observed = [bool(tile.values) for tile in members]
            kept = [tile for tile, seen in zip(members, observed, strict=True) if seen]
            return observed, collate(kept, names) if kept else None

        loader = torch.utils.data.DataLoader(
            self.dataset.subset(tiles), self.batch, collate_fn=gather, num_workers=self.workers
        )
        first = 0
        for observed, batch in loader:
            if batch is not None:
                with torch.inference_mode():
                    encoded = self.model(batch.to(self.device)).patches  # (B, P, D)
                grids = encoded.float().cpu().unflatten(1, self.dataset.grid).numpy()  # (B, rows, columns, D)
                yield from zip((first + np.flatnonzero(observed)).tolist(), grids, strict=True)
            first += len(observed)


def _write_canvas(patches: _Patches, canvas: Canvas, path: Path, dtype: Dtype, tags: dict[str, str]) -> EmbeddingMap:
    rows, columns = patches.dataset.grid
    weight = _taper(rows)[:, None] * _taper(columns)  # (rows, columns)
    owner = np.full(canvas.shape, -1, dtype=np.int32)  # the tile whose weight is largest
    strongest = np.zeros(canvas.shape, dtype=np.float32)
    total = np.zeros(canvas.shape, dtype=np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The sums lie in a file, not in memory: a map may be larger than memory.
    with tempfile.TemporaryFile(dir=path.parent) as scratch:
        sums: np.ndarray | None = None
        for t, grid in patches.of(canvas.tiles):  # grid (rows, columns, D)
            if sums is None:
                sums = np.memmap(scratch, np.float32, "w+", shape=(*canvas.shape, grid.shape[-1]))
            top, left = canvas.corners[t]
            here = np.s_[top : top + rows, left : left + columns]
            sums[here] += weight[..., None] * (grid[::-1] if canvas.flipped else grid)
            total[here] += weight
            owner[here] = np.where(weight > strongest[here], t, owner[here])
            strongest[here] = np.maximum(weight, strongest[here])
        if sums is None:
            raise ValueError(f"embed_map: none of the {len(canvas.tiles)} tiles of {path} has an observation")
        for row in range(canvas.shape[0]):
            with np.errstate(invalid="ignore"):
                sums[row] /= total[row, :, None]  # 0 / 0 = NaN = no data
        seams = seam_cosines(sums, owner)
        error = write_geotiff(path, sums, canvas.transform, canvas.crs, dtype, tags)
        shape, transform = sums.shape, canvas.transform
        del sums  # unmaps the file before it goes
    return EmbeddingMap(path, shape, canvas.crs or None, (transform.a, -transform.e), dtype, error, seams)


def _write_unplaced(patches: _Patches, path: Path, dtype: Dtype, tags: dict[str, str]) -> EmbeddingMap:
    names = patches.dataset.names
    values: np.ndarray | None = None
    for t, grid in patches.of(range(len(names))):
        if values is None:
            values = np.full((len(names), *grid.shape), np.nan, dtype=np.float32)  # (N, rows, columns, D)
        values[t] = grid
    if values is None:
        raise ValueError(f"embed_map: none of the {len(names)} tiles has an observation")
    error = write_npz(path, values, names, dtype, tags | {"FUSION_NOTE": _UNPLACED})
    return EmbeddingMap(path, values.shape, None, None, dtype, error)


def _taper(length: int) -> np.ndarray:
    """Weights that fall off linearly to the borders and never reach 0: 1, 2, 3, 3, 2, 1."""
    k = np.arange(length)
    return np.minimum(k + 1, length - k).astype(np.float32)


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


def _describe(model: nn.Module, dataset: TileDataset) -> dict[str, str]:
    return {
        "FUSION_VERSION": __version__,
        "FUSION_SYSTEM": type(model).__name__,
        "FUSION_MODEL": fingerprint(model),
        "FUSION_MODALITIES": ", ".join(f"{m.name} ({' '.join(m.bands)})" for m in dataset.modalities),
    }


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")


def _file_name(tile: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in tile)
