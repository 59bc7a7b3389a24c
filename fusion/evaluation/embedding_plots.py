"""Pictures of dense embeddings: maps over time, similarity to a pixel, a pixel's season."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.spacing import evenly_spaced
from .maps import pca_rgb
from .plots import COLOURS, panels, picture
from .report import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["lines", "pca_maps", "seasonal_curves", "similarity"]


def pca_maps(embedding: np.ndarray, dates: Sequence[str], caption: str, most: int = 6) -> Picture:
    """(dates, E, H, W) as colours: the three strongest principal components, the same for all dates."""
    chosen = evenly_spaced(len(dates), most)
    maps = np.moveaxis(embedding[chosen], 1, -1)  # (n, H, W, E)
    known = np.isfinite(maps).all(axis=-1)
    colours = np.ones((*known.shape, 3))
    colours[known] = pca_rgb(maps[known])
    figure, axes = panels(len(chosen), height=3.6)
    for axis, image, t in zip(axes, colours, chosen, strict=True):
        _image(axis, image, dates[t])
    return picture(
        figure, f"Principal components 1 to 3 of the embeddings as red, green, blue; white: not seen. {caption}"
    )


def similarity(embedding: np.ndarray, pixel: tuple[int, int], date: str, caption: str) -> Picture:
    """(E, H, W): cosine between every pixel's centred embedding and the chosen one's."""
    flat = np.moveaxis(embedding, 0, -1)
    centred = flat - np.nanmean(flat, axis=(0, 1))
    length = np.linalg.norm(centred, axis=-1)
    cosine = centred @ centred[pixel] / (length * length[pixel] + 1e-12)
    figure, (axis,) = panels(1, width=4.6, height=3.8)
    shown = _image(axis, cosine, f"similarity to the cross, {date}", cmap="RdBu_r", vmin=-1, vmax=1)
    axis.plot(pixel[1], pixel[0], "x", color="black", markersize=9, markeredgewidth=2)
    figure.colorbar(shown, ax=axis, shrink=0.8, label="cosine")
    return picture(
        figure, f"Cosine of centred embeddings with that of one pixel (row {pixel[0]}, column {pixel[1]}). {caption}"
    )


def seasonal_curves(
    embedding: np.ndarray, days: np.ndarray, pixels: Mapping[str, tuple[int, int]], caption: str
) -> Picture:
    """(dates, E, H, W): the first two principal components of some named pixels through the year."""
    flat = np.moveaxis(embedding, 1, -1)
    known = np.isfinite(flat).all(axis=-1)
    values = flat[known].astype(np.float64)
    mean = values.mean(0)
    axes_ = np.linalg.svd(values - mean, full_matrices=False)[2][:2]
    figure, axes = panels(2, height=3.2)
    dates = np.asarray(days).astype("datetime64[D]")
    for k, axis in enumerate(axes):
        for colour, (name, (row, column)) in zip(COLOURS, pixels.items(), strict=False):
            seen = known[:, row, column]
            axis.plot(
                dates[seen], (flat[seen, row, column] - mean) @ axes_[k], "o-", ms=3, lw=1, color=colour, label=name
            )
        axis.set_title(f"principal component {k + 1}")
        axis.tick_params(axis="x", rotation=30)
    axes[0].legend(fontsize=8)
    return picture(figure, f"The season of single pixels in the embedding. {caption}")


def lines(x: Sequence[str], series: Mapping[str, Sequence[float]], label: str, caption: str) -> Picture:
    """A line each, over named places on the x axis."""
    figure, (axis,) = panels(1, width=6.2, height=3.4)
    for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
        axis.plot(range(len(x)), values, "o-", color=colour, label=name)
    axis.set_xticks(range(len(x)), x)
    axis.set_ylabel(label)
    axis.legend(fontsize=8)
    return picture(figure, caption)


def _image(axis: Axes, image: np.ndarray, title: str, **style: Any) -> AxesImage:
    shown = axis.imshow(image, interpolation="nearest", **style)
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    return shown
