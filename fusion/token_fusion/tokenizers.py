"""The tokenizer of a tile: one tokenizer a modality, chosen by name, fitted together and kept with the model.

Kinds for images:

* ``"vq"``, ``"fsq"``: one token a patch, learned (``codebook_size`` 256 and ``dim`` 16, or ``levels`` [8, 5, 5, 5];
  ``hidden``),
* ``"textons"``: one token a patch, learned: the nearest of ``codes`` (256) clusters of colour and contrast,
* ``"bins"``: one token a patch and band, its mean in ``bins`` (256),
* ``"scalar"``: one token a band, the mean of the tile in ``bins`` (256),
* whatever :func:`register_tokenizer` made known.

Kinds for series, all in a calendar of ``length`` intervals of ``step`` days from day ``start`` on:

* ``"bins"``, ``"quantile"``, ``"mu-law"``: one token a value, in ``bins`` (256),
* ``"mean-scale"``: one token a value and one for the scale (``bins`` 1024 between ``low`` and ``high`` scales),
* ``"sax"``: one token a segment (``segments``, ``alphabet`` 16), and one each for mean and deviation,
* ``"patch-vq"``, ``"patch-fsq"``: one token a patch of ``patch`` (8) values, learned (as for images), and one each for
  mean and deviation.

Learned kinds take ``steps``, how long they are trained. ``margin`` is the share of its range by which uniform bins
reach beyond what was seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..data.dataset import TileDataset
from ..data.modality import Modality
from ..data.tiles import TileBatch, collate
from ..kernels import FiniteScalarQuantizer, MeanScaleBins, SymbolicAggregate, VectorQuantizer
from .config import TokenFusionConfig
from .image_tokenizers import ImageBins, ImagePatches, PatchAutoencoder
from .modality_tokenizer import ModalityTokenizer, Places
from .series_tokenizers import Calendar, RelativeBins, RelativePatches, SeriesBins
from .textons import PatchTextons
from .tokens import Layout, Tokens

__all__ = ["TileTokenizer", "kinds", "register_tokenizer"]

Grid = tuple[int, int]


def _vq(codebook_size: int, dim: int) -> VectorQuantizer:
    return VectorQuantizer(dim, codebook_size, restart_below=0.1)


def _image_vq(m: Modality, grid: Grid, *, codebook_size: int = 256, dim: int = 16, hidden: int = 128) -> ImagePatches:
    return ImagePatches(m, grid, PatchAutoencoder(m, _vq(codebook_size, dim), hidden=hidden))


def _image_fsq(m: Modality, grid: Grid, *, levels: tuple[int, ...] = (8, 5, 5, 5), hidden: int = 128) -> ImagePatches:
    return ImagePatches(m, grid, PatchAutoencoder(m, FiniteScalarQuantizer(levels), hidden=hidden))


def _image_textons(m: Modality, grid: Grid, *, codes: int = 256) -> ImagePatches:
    return ImagePatches(m, grid, PatchTextons(m, codes))


def _image_bins(m: Modality, grid: Grid, *, bins: int = 256, margin: float = 0.05) -> ImageBins:
    return ImageBins(m, grid, count=bins, margin=margin)


def _image_scalar(m: Modality, grid: Grid, *, bins: int = 256, margin: float = 0.05) -> ImageBins:
    return ImageBins(m, grid, whole=True, count=bins, margin=margin)


def _series_bins(m: Modality, calendar: Calendar, *, bins: int = 256, margin: float = 0.05) -> SeriesBins:
    return SeriesBins(m, calendar, count=bins, margin=margin)


def _series_quantile(m: Modality, calendar: Calendar, *, bins: int = 256) -> SeriesBins:
    return SeriesBins(m, calendar, rule="quantile", count=bins)


def _series_mu_law(m: Modality, calendar: Calendar, *, bins: int = 256) -> SeriesBins:
    return SeriesBins(m, calendar, rule="mu-law", count=bins)


def _series_mean_scale(
    m: Modality, calendar: Calendar, *, bins: int = 1024, low: float = -15.0, high: float = 15.0
) -> RelativeBins:
    return RelativeBins(m, calendar, MeanScaleBins(bins + MeanScaleBins.FIRST, low=low, high=high))


def _series_sax(m: Modality, calendar: Calendar, *, segments: int = 16, alphabet: int = 16) -> RelativeBins:
    return RelativeBins(m, calendar, SymbolicAggregate(segments, alphabet))


def _series_patch_vq(
    m: Modality, calendar: Calendar, *, patch: int = 8, codebook_size: int = 256, dim: int = 64, hidden: int = 64
) -> RelativePatches:
    return RelativePatches(m, calendar, _vq(codebook_size, dim), patch=patch, hidden=hidden)


def _series_patch_fsq(
    m: Modality, calendar: Calendar, *, patch: int = 8, levels: tuple[int, ...] = (8, 5, 5, 5), hidden: int = 64
) -> RelativePatches:
    return RelativePatches(m, calendar, FiniteScalarQuantizer(levels), patch=patch, hidden=hidden)


_IMAGE: dict[str, Callable[..., ModalityTokenizer]] = {
    "vq": _image_vq,
    "fsq": _image_fsq,
    "textons": _image_textons,
    "bins": _image_bins,
    "scalar": _image_scalar,
}
_SERIES: dict[str, Callable[..., ModalityTokenizer]] = {
    "bins": _series_bins,
    "quantile": _series_quantile,
    "mu-law": _series_mu_law,
    "mean-scale": _series_mean_scale,
    "sax": _series_sax,
    "patch-vq": _series_patch_vq,
    "patch-fsq": _series_patch_fsq,
}
_CALENDAR = ("start", "step", "length")


def kinds(kind: str) -> tuple[str, ...]:
    """Names of the tokenizers for ``"image"`` or ``"series"``."""
    return tuple(_IMAGE if kind == "image" else _SERIES)


def register_tokenizer(kind: str, factory: Callable[..., nn.Module]) -> None:
    """Makes a tokenizer of image patches known as ``{"kind": kind, ...}``.

    Args:
        factory: ``factory(modality, **settings)`` returns a module with ``codebook_size``,
            ``encode(patches (R, C, h, w)) -> (R,)`` int64 and ``decode((R,)) -> patches``, in physical values. Its
            weights travel in the checkpoints of the model.

    Raises:
        ValueError: the name is taken.
    """
    if kind in _IMAGE:
        raise ValueError(f"a tokenizer of images {kind!r} is already known; there are {', '.join(_IMAGE)}")
    _IMAGE[kind] = lambda modality, grid, **settings: ImagePatches(modality, grid, factory(modality, **settings))


def _build(modality: Modality, grid: Grid, settings: dict[str, Any]) -> ModalityTokenizer:
    known = _IMAGE if modality.kind == "image" else _SERIES
    settings = {k: v for k, v in settings.items() if k != "steps"}
    kind = settings.pop("kind", None)
    if kind not in known:
        raise ValueError(
            f"{modality.name}: no tokenizer {kind!r} for {'an image' if modality.kind == 'image' else 'a series'}; "
            f"there are {', '.join(known)}"
        )
    try:
        if modality.kind == "image":
            return known[kind](modality, grid, **settings)
        calendar = Calendar(**{k: settings.pop(k) for k in _CALENDAR if k in settings})
        return known[kind](modality, calendar, **settings)
    except TypeError as error:
        takes = [p for p in inspect.signature(known[kind]).parameters if p not in ("m", "modality", "grid", "calendar")]
        takes += _CALENDAR if modality.kind == "series" else ()
        raise ValueError(f"{modality.name}: tokenizer {kind!r}: {error}; its settings are {', '.join(takes)}") from None
    except ValueError as error:
        raise ValueError(f"{modality.name}: tokenizer {kind!r}: {error}") from None


def _layout(config: TokenFusionConfig, parts: dict[str, Places], vocabulary: dict[str, int]) -> Layout:
    slices, start = {}, 0
    for name, places in parts.items():
        slices[name] = slice(start, start + len(places))
        start += len(places)
    every = list(parts.values())
    return Layout(
        tuple(parts),
        config.grid,
        torch.repeat_interleave(torch.tensor([len(places) for places in every])),
        torch.cat([places.position for places in every]),
        torch.cat([places.time for places in every]),
        torch.cat([places.channel for places in every]),
        slices,
        vocabulary,
    )


class TileTokenizer(nn.Module):
    """Tiles to tokens and back, modality by modality. Fitted once, before a model is trained, and fixed from then on.

    Raises:
        ValueError: an unknown kind or setting.
    """

    def __init__(self, config: TokenFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.parts = nn.ModuleDict(
            {m.name: _build(m, config.grid, config.tokenizer(m.name)) for m in config.modalities}
        )
        self.layout = _layout(
            config,
            {name: part.places for name, part in self.parts.items()},
            {name: part.codebook_size for name, part in self.parts.items()},
        )
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TileTokenizer:
        """Stays in evaluation: what a code means must not change under the model."""
        return super().train(False)

    @property
    def fitted(self) -> bool:
        return all(bool(part.fitted) for part in self.parts.values())

    def fit(
        self, dataset: TileDataset, *, steps: int = 400, seed: int = 0, tiles: int = 2048, progress: bool = False
    ) -> TileTokenizer:
        """Fits every modality's tokenizer anew: deterministic ones from statistics, learned ones by a short training.

        The same seed gives the same tokenizer, whatever was drawn before.

        Args:
            dataset: the training tiles, of which evaluation views are read.
            steps: of training of learned ones, unless their settings say otherwise.
            tiles: at most so many are read, evenly spaced.

        Raises:
            ValueError: a modality has no value in any of these tiles, or a series none within its calendar.
        """
        values = self._read(dataset, tiles)
        device = next((b.device for b in self.buffers()), torch.device("cpu"))
        for name, part in self.parts.items():
            self._require_values(name, values[name], dataset)
            settings = self.config.tokenizer(name)
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                torch.manual_seed(seed)
                part = _build(part.modality, self.config.grid, settings)
                part.learn(values[name], steps=settings.get("steps", steps), seed=seed)
                part.zero_grad()
            part.fitted.fill_(True)
            self.parts[name] = part.to(device)
            if progress:
                print(f"tokenizer of {name}: {settings['kind']}, {part.codebook_size} codes", flush=True)
        self.requires_grad_(False).eval()
        return self

    def encode(self, batch: TileBatch) -> Tokens:
        """The tokens of B tiles; a modality that the batch does not have is not observed.

        Raises:
            ValueError: an unknown modality, or values whose bands or size do not fit.
            RuntimeError: not fitted yet.
        """
        self._require_fitted()
        for name in batch.values:
            self.config.modality(name)  # refuses unknown ones
        codes = []
        for name, part in self.parts.items():
            if name in batch.values:
                codes.append(part.encode(self.values(batch, name)))
            else:
                missing = (len(batch), len(part.places))
                codes.append(torch.full(missing, -1, device=next(iter(batch.values.values())).device))
        return Tokens(torch.cat(codes, 1), self.layout)

    def values(self, batch: TileBatch, name: str) -> Tensor:
        """The physical values that the tokens of a modality stand for, float32, NaN where missing: (B, C, T) of a
        series in its calendar; of an image (B, C, H, W), its means (B, C, rows, columns) (bins) or (B, C) (scalar)."""
        self._check(batch, name)
        return self.parts[name].values(batch)

    def decode(self, name: str, codes: Tensor) -> Tensor:
        """(B, N_m) codes -> values as :meth:`values` has them, NaN for -1.

        Raises:
            ValueError: wrong number of codes, or codes out of range.
        """
        self._require_fitted()
        part = self.parts[self.config.modality(name).name]
        if codes.ndim != 2 or codes.shape[1] != len(part.places):
            raise ValueError(f"decode: {name} has (B, {len(part.places)}) codes, not {tuple(codes.shape)}")
        size = part.sizes.to(codes.device)[part.places.channel.to(codes.device)]  # (n,)
        if bool(((codes < -1) | (codes >= size)).any()):
            raise ValueError(
                f"decode: codes of {name} must be in -1..{int(size.max()) - 1} (fewer in some channels), got "
                f"{int(codes.min())}..{int(codes.max())}"
            )
        return part.decode(codes)

    def expected(self, name: str, probabilities: Tensor) -> Tensor:
        """(B, N_m, K) probabilities -> values as :meth:`values` has them, expected over the codes.

        Bins and symbols: the mean of their centres; patches of series: the mean code vector through the decoder;
        patches of images: the mean of the decoded patches. Scales and relative values are taken as independent.
        """
        self._require_fitted()
        part = self.parts[self.config.modality(name).name]
        wanted = (len(part.places), part.codebook_size)
        if probabilities.ndim != 3 or tuple(probabilities.shape[1:]) != wanted:
            raise ValueError(
                f"expected: {name} has probabilities (B, {wanted[0]}, {wanted[1]}), not {tuple(probabilities.shape)}"
            )
        return part.expected(probabilities)

    def _require_fitted(self) -> None:
        if not self.fitted:
            names = [name for name, part in self.parts.items() if not bool(part.fitted)]
            raise RuntimeError(
                f"the tokenizer of {', '.join(names)} is not fitted: call model.tokenizer.fit(training tiles) once "
                "before training, or load a model"
            )

    def _check(self, batch: TileBatch, name: str) -> None:
        modality, grid = self.config.modality(name), self.config.grid
        wanted = (modality.channels, grid[0] * modality.patch_size, grid[1] * modality.patch_size)
        axes = "(B, C, H, W)" if modality.kind == "image" else "(B, L, C, H, W)"
        values = batch.values[name]
        if values.ndim != len(axes.split(",")) or tuple(values.shape[-3:]) != wanted:
            raise ValueError(
                f"TokenFusion: {name} must be {axes} with (C, H, W) = {wanted} ({', '.join(modality.bands)}; "
                f"{grid[0]} x {grid[1]} patches of {modality.patch_size} pixels), not {tuple(values.shape)}"
            )
        if modality.kind == "series" and name not in batch.days:
            raise ValueError(f"TokenFusion: {name} is a series, but the batch has no days for it")

    def _read(self, dataset: TileDataset, tiles: int) -> dict[str, Tensor]:
        """Values by modality of at most ``tiles`` tiles, on the CPU."""
        missing = [name for name in self.parts if name not in [m.name for m in dataset.modalities]]
        if missing:
            raise ValueError(f"fit: the data set has no {', '.join(missing)}, which the model tokenizes")
        chosen = torch.linspace(0, len(dataset) - 1, min(tiles, len(dataset))).round().long()
        subset = dataset.subset(chosen).with_modalities(list(self.parts))
        read: dict[str, list[Tensor]] = {name: [] for name in self.parts}
        for rows in torch.arange(len(subset)).split(64):
            batch = collate([subset[i] for i in rows.tolist()], list(self.parts))
            for name in batch.values:
                read[name].append(self.values(batch, name))
        return {name: torch.cat(values) if values else torch.empty(0) for name, values in read.items()}

    def _require_values(self, name: str, values: Tensor, dataset: TileDataset) -> None:
        modality = self.config.modality(name)
        seen = values.isfinite().transpose(0, 1).flatten(1).any(1) if values.numel() else torch.zeros(1)
        if bool(seen.all()):
            return
        if not len(values) or modality.kind == "image":
            raise ValueError(f"fit: {name} has no value in {len(dataset)} tiles, e.g. {dataset.names[0]}")
        silent = ", ".join(band for band, any_ in zip(modality.bands, seen, strict=True) if not any_)
        raise ValueError(
            f"fit: {name} ({silent}) has no value within its calendar, {self.parts[name].calendar}, in {len(values)} "
            "tiles; give its tokenizer the start, step and length of the data"
        )
