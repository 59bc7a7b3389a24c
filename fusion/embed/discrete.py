"""Embeddings as codes: a store of small integers with its codebooks beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fusion.kernels import quantize

from .layout import TIME, add_array, new_group
from .store import open_store

__all__ = ["EmbeddingQuantizer", "read_codes", "write_codes"]


@dataclass(frozen=True)
class EmbeddingQuantizer:
    """A residual quantizer of standardised embeddings; one layer is plain vector quantization.

    Made by :meth:`fit`. ``mean`` and ``std`` are (E,), of what it was fitted on.
    """

    mean: torch.Tensor
    std: torch.Tensor
    codes: quantize.ResidualVectorQuantizer

    @classmethod
    def fit(
        cls,
        embedding: np.ndarray,
        codes: int,
        layers: int = 1,
        *,
        steps: int = 40,
        batch_size: int = 4096,
        seed: int = 0,
    ) -> EmbeddingQuantizer:
        """k-means start, then moving averages over random batches of (N, E), N at least ``codes``.

        Raises:
            ValueError: fewer vectors than codes, or a vector that is not finite.
        """
        if len(embedding) < codes or not np.isfinite(embedding).all():
            raise ValueError(f"EmbeddingQuantizer: {codes} codes want as many finite vectors, {embedding.shape} given")
        x = torch.from_numpy(np.ascontiguousarray(embedding, dtype=np.float32))
        mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
        x = (x - mean) / std
        quantizer = quantize.ResidualVectorQuantizer(x.shape[1], codes, layers, decay=0.9, seed=seed).train()
        generator = torch.Generator().manual_seed(seed)
        quantizer(x[torch.randperm(len(x), generator=generator)[: max(batch_size, 64 * codes)]])  # starts the codebooks
        for _ in range(steps):
            quantizer(x[torch.randint(len(x), (min(batch_size, len(x)),), generator=generator)])
        return cls(mean, std, quantizer.eval())

    @property
    def bits(self) -> float:
        """Per pixel and date."""
        return self.codes.bits

    @torch.no_grad()
    def encode(self, embedding: np.ndarray) -> np.ndarray:
        """(..., E) to (..., layers), -1 where there is no data; the smallest integer type that holds the codes."""
        x = (torch.from_numpy(np.ascontiguousarray(embedding, dtype=np.float32)) - self.mean) / self.std
        dtype = np.int16 if self.codes.codebook_size <= 2**15 else np.int32
        return self.codes.encode(x).numpy().astype(dtype)

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """(..., layers) to (..., E) float32, NaN for -1."""
        return (self.codes.decode(torch.from_numpy(codes.astype(np.int64))) * self.std + self.mean).numpy()


def write_codes(store: str | Path, out: str | Path, quantizer: EmbeddingQuantizer) -> int:
    """The codes of a finished store of embeddings as a Zarr of their own; returns the bytes it takes on disk.

    ``codes`` (time, layer, y, x) is uint8 up to 255 codes, else uint16; the largest value means no data. ``codebook``
    (layer, code, feature) is in the embedding's own units up to ``mean``, which is added once: a reader needs no
    more than ``mean + sum over layers of codebook[layer, code]``.

    Raises:
        ValueError: the store is not finished, or ``out`` exists.
    """
    import zarr

    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already; give another path")
    data = open_store(store)
    times, _, height, width = data.embedding.shape
    size, layers = quantizer.codes.codebook_size, len(quantizer.codes.layers)
    dtype = np.uint8 if size <= 255 else np.uint16
    nodata = np.iinfo(dtype).max
    root = new_group(out, {"of": dict(data.attrs)["identity"], "bits": quantizer.bits})
    codes = root.create_array(
        "codes", shape=(times, layers, height, width), chunks=(times, layers, 64, 64), dtype=dtype
    )
    codes.attrs.update({"_ARRAY_DIMENSIONS": ["time", "layer", "y", "x"], "nodata": int(nodata)})
    for top in range(0, height, 64):
        values = np.moveaxis(data.embedding[:, :, top : top + 64].values, 1, -1)  # (T, h, W, E)
        found = quantizer.encode(values).astype(np.int64)
        codes[:, :, top : top + 64] = np.moveaxis(np.where(found < 0, nodata, found), -1, 1).astype(dtype)
    books = np.stack([(book * quantizer.std).numpy() for book in _codebooks(quantizer)])
    add_array(root, "codebook", books, ["layer", "code", "feature"])
    add_array(root, "mean", quantizer.mean.numpy(), ["feature"])
    for name in ("feature", "y", "x"):
        add_array(root, name, data[name].values, [name])
    add_array(root, "time", data.time.values.astype("datetime64[D]").astype(np.int64), ["time"], **TIME)
    zarr.consolidate_metadata(out, zarr_format=2)
    return disk_bytes(out)


def read_codes(path: str | Path) -> np.ndarray:
    """(time, feature, y, x) float32 embeddings of a store of codes, NaN where there is no data."""
    import zarr

    root: Any = zarr.open_group(Path(path), mode="r")
    codes: np.ndarray = np.asarray(root["codes"][...]).astype(np.int64)  # (T, layers, H, W)
    missing = codes[:, 0] == root["codes"].attrs["nodata"]
    books, mean = np.asarray(root["codebook"][...]), np.asarray(root["mean"][...])
    values = mean + sum(book[np.where(missing, 0, codes[:, k])] for k, book in enumerate(books))  # (T, H, W, E)
    return np.moveaxis(np.where(missing[..., None], np.nan, values), -1, 1).astype(np.float32)


def _codebooks(quantizer: EmbeddingQuantizer) -> list[torch.Tensor]:
    """(K, E) of every layer, of standardised embeddings."""
    return [cast(torch.Tensor, layer.codebook) for layer in quantizer.codes.layers]


def disk_bytes(folder: Path) -> int:
    """Of all files below a folder."""
    return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
