"""Which tokenizers there are, by name.

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
from collections.abc import Callable, Mapping
from typing import Any

from ..data.modality import Modality
from ..kernels import (
    FiniteScalarQuantizer,
    MeanScaleBins,
    MuLaw,
    QuantileBins,
    SymbolicAggregate,
    UniformBins,
    VectorQuantizer,
)
from .base import ModalityTokenizer
from .bins import ImageBins, SeriesBins
from .calendar import Calendar
from .image_autoencoder import PatchAutoencoder
from .image_patches import ImagePatches, PatchCodec
from .relative import RelativeBins
from .series_patches import RelativePatches
from .textons import PatchTextons

__all__ = ["kinds", "make_tokenizer", "register_tokenizer"]

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
    return ImageBins(m, grid, UniformBins(bins, margin=margin, channels=m.channels))


def _image_scalar(m: Modality, grid: Grid, *, bins: int = 256, margin: float = 0.05) -> ImageBins:
    return ImageBins(m, grid, UniformBins(bins, margin=margin, channels=m.channels), whole=True)


def _series_bins(m: Modality, calendar: Calendar, *, bins: int = 256, margin: float = 0.05) -> SeriesBins:
    return SeriesBins(m, calendar, UniformBins(bins, margin=margin, channels=m.channels))


def _series_quantile(m: Modality, calendar: Calendar, *, bins: int = 256) -> SeriesBins:
    return SeriesBins(m, calendar, QuantileBins(bins, channels=m.channels))


def _series_mu_law(m: Modality, calendar: Calendar, *, bins: int = 256) -> SeriesBins:
    return SeriesBins(m, calendar, MuLaw(bins - 1, channels=m.channels))


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


def register_tokenizer(kind: str, factory: Callable[..., PatchCodec]) -> None:
    """Makes a tokenizer of image patches known as ``{"kind": kind, ...}``.

    Args:
        factory: ``factory(modality, **settings)`` returns a module with ``codebook_size``,
            ``encode(patches (R, C, h, w)) -> (R,)`` int64 and ``decode((R,)) -> patches``, in physical values. Its
            weights travel in the checkpoints of the model. One that is to be fitted, too, is a
            :class:`~fusion.tokenizers.LearnedPatchCodec`.

    Raises:
        ValueError: the name is taken.
    """
    if kind in _IMAGE:
        raise ValueError(f"a tokenizer of images {kind!r} is already known; there are {', '.join(_IMAGE)}")
    _IMAGE[kind] = lambda modality, grid, **settings: ImagePatches(modality, grid, factory(modality, **settings))


def make_tokenizer(modality: Modality, grid: Grid, settings: Mapping[str, Any]) -> ModalityTokenizer:
    """The tokenizer of a modality, not yet fitted.

    Args:
        grid: patches per tile (rows, columns).
        settings: ``{"kind": ..., further settings}``; ``steps`` are not the tokenizer's, but of its training.

    Raises:
        ValueError: an unknown kind or setting.
    """
    image = modality.kind == "image"
    known = _IMAGE if image else _SERIES
    given = {k: v for k, v in settings.items() if k != "steps"}
    kind = given.pop("kind", None)
    if kind not in known:
        raise ValueError(
            f"{modality.name}: no tokenizer {kind!r} for {'an image' if image else 'a series'}; "
            f"there are {', '.join(known)}"
        )
    try:
        if image:
            return known[kind](modality, grid, **given)
        calendar = Calendar(**{k: given.pop(k) for k in _CALENDAR if k in given})
        return known[kind](modality, calendar, **given)
    except TypeError as error:
        takes = [p for p in inspect.signature(known[kind]).parameters if p not in ("m", "modality", "grid", "calendar")]
        takes += () if image else _CALENDAR
        raise ValueError(f"{modality.name}: tokenizer {kind!r}: {error}; its settings are {', '.join(takes)}") from None
    except ValueError as error:
        raise ValueError(f"{modality.name}: tokenizer {kind!r}: {error}") from None
