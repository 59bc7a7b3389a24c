"""Representations as maps: three principal components as colours, beside what the eye would see."""

from __future__ import annotations

import numpy as np

from fusion.data import Modality, Tile, TileDataset
from fusion.embed.mosaic import lay_out

from .features import Features
from .plots import legend_patch, panels, picture
from .report import Picture

__all__ = ["embedding_map", "pca_rgb", "true_colour"]

_TRUE_COLOUR = (("r", "g", "b"), ("red", "green", "blue"), ("b04", "b03", "b02"), ("b4", "b3", "b2"))


def embedding_map(
    features: Features, dataset: TileDataset, classes: np.ndarray | None = None, conditions: str = ""
) -> Picture:
    """PCA-RGB of the patches of a data set beside its true colour (and, if given, its classes).

    Tiles are put where they lie if the data is georeferenced and the tiles touch; else side by side, which the
    caption says. ``classes`` (tiles,) is a class index a tile.

    Args:
        features: of the patches of ``dataset``, ``extract(..., level="patch")``.

    Raises:
        ValueError: features of whole tiles, or of other tiles.
    """
    maps = features.maps()  # (tiles, rows, columns, D)
    if len(maps) != len(dataset):
        raise ValueError(f"embedding_map: features of {len(maps)} tiles, a data set of {len(dataset)}")
    colours = pca_rgb(maps.reshape(-1, maps.shape[-1])).reshape(*maps.shape[:3], 3)
    corners, shape, placed = _corners(dataset)
    shown = [("embedding (PCA to RGB)", _join(colours, corners, shape, dataset.grid))]
    visible = _visible(dataset)
    if visible is not None:
        source, modality = visible
        seen = _stretch(np.stack([true_colour(dataset[i], modality) for i in range(len(dataset))]))
        shown.insert(0, (source, _join(seen, corners, shape, dataset.grid)))
    if classes is not None:
        tiles = _class_colours(np.asarray(classes))[:, None, None]  # (tiles, 1, 1, 3)
        shown.append(("class", _join(tiles, corners, shape, dataset.grid)))
    aspect = shape[0] / shape[1]
    figure, axes = panels(len(shown), width=4.2 * len(shown), height=max(2.0, 4.2 * min(aspect, 2.5)))
    for panel, (title, image) in zip(axes, shown, strict=True):
        panel.imshow(image, interpolation="nearest")
        panel.set_title(title, fontsize=10)
        panel.set_axis_off()
    if classes is not None:
        seen = np.unique(classes)
        handles = [
            legend_patch(c, name) for c, name in zip(_class_colours(seen), _class_names(dataset, seen), strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(seen)), frameon=False, fontsize=8)
    side = dataset.modalities[0].patch_metres * dataset.grid[0] / maps.shape[1]  # features may be of larger patches
    where = "at their place, north up" if placed else "side by side, not georeferenced"
    text = (
        f"{len(dataset)} tiles {where}; one colour a patch of {side:g} m. Similar "
        "colours are similar embeddings: the three strongest principal components, each stretched from its 2nd to "
        "its 98th percentile."
    )
    return picture(figure, f"{text} {conditions}".strip())


def pca_rgb(x: np.ndarray) -> np.ndarray:
    """(N, D) to (N, 3) in 0..1: the three strongest principal components, stretched between percentiles 2 and 98.

    Signs are fixed (the largest loading is positive), so the same features give the same colours.

    Raises:
        ValueError: fewer than three dimensions.
    """
    if x.ndim != 2 or x.shape[1] < 3:
        raise ValueError(f"pca_rgb: (N, D) with D >= 3 wanted, {x.shape} given")
    centred = x.astype(np.float64) - x.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :3]  # (D, 3), strongest first
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), range(3)])
    return _stretch(centred @ axes)


def true_colour(tile: Tile, modality: Modality) -> np.ndarray:
    """(H, W, 3) values of the red, green and blue bands of a tile: an image as it is, a series as the median of its
    valid dates (which leaves most clouds out). NaN where the tile has none."""
    names = [band.lower() for band in modality.bands]
    bands = next([names.index(b) for b in rgb] for rgb in _TRUE_COLOUR if set(rgb) <= set(names))
    values = tile.values.get(modality.name)
    if values is None:
        side = modality.patch_size
        return np.full((side, side, 3), np.nan)
    if modality.kind == "series":
        valid = tile.valid.get(modality.name)
        kept = values if valid is None else values[valid]
        values = kept.median(dim=0).values
    return values[bands].numpy().transpose(1, 2, 0)


def _visible(dataset: TileDataset) -> tuple[str, Modality] | None:
    """The finest modality with red, green and blue."""
    able = [m for m in dataset.modalities if any(set(rgb) <= {b.lower() for b in m.bands} for rgb in _TRUE_COLOUR)]
    if not able:
        return None
    finest = min(able, key=lambda m: m.resolution)
    median = ", median of dates" if finest.kind == "series" else ""
    return f"true colour ({finest.name}{median})", finest


def _corners(dataset: TileDataset) -> tuple[np.ndarray, tuple[int, int], bool]:
    """Upper left patch of each tile (T, 2), patches of the whole map, and whether that is where they lie."""
    rows, columns = dataset.grid
    if dataset.located().known.all():
        canvases = lay_out(dataset)
        if len(canvases) == 1 and not canvases[0].flipped:
            corners = np.empty((len(dataset), 2), dtype=int)
            corners[canvases[0].tiles] = canvases[0].corners
            return corners, canvases[0].shape, True
    across = int(np.ceil(np.sqrt(len(dataset))))
    at = np.stack(np.divmod(np.arange(len(dataset)), across), axis=1)  # (T, 2)
    return at * (rows, columns), (int(at[-1, 0] + 1) * rows, across * columns), False


def _join(tiles: np.ndarray, corners: np.ndarray, shape: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """(T, h, w, 3) tiles, any number of pixels a patch, onto one white sheet."""
    fine = max(1, tiles.shape[1] // grid[0])  # pixels a patch
    fine = min(fine, max(1, 2048 // max(shape)))  # a picture, not a data product
    down = max(1, -(-tiles.shape[1] // (grid[0] * fine)))
    tiles = tiles[:, ::down, ::down]
    size = (grid[0] * fine, grid[1] * fine)
    index = [np.arange(n) * have // n for n, have in zip(size, tiles.shape[1:3], strict=True)]
    tiles = tiles[:, index[0]][:, :, index[1]]  # (T, *size, 3)
    sheet = np.ones((shape[0] * fine, shape[1] * fine, 3))
    for tile, (row, column) in zip(tiles, corners * fine, strict=True):
        sheet[row : row + size[0], column : column + size[1]] = np.nan_to_num(tile, nan=1.0)
    return sheet


def _stretch(values: np.ndarray) -> np.ndarray:
    """Each of the last axis' channels from its 2nd to its 98th percentile to 0..1; NaN stays."""
    flat = values.reshape(-1, values.shape[-1])
    low, high = np.nanpercentile(flat, [2, 98], axis=0)
    return np.clip((values - low) / np.where(high > low, high - low, 1), 0, 1)


def _class_names(dataset: TileDataset, seen: np.ndarray) -> list[str]:
    return [dataset.classes[k] if dataset.task == "multiclass" else str(k) for k in seen]


def _class_colours(classes: np.ndarray) -> np.ndarray:
    """(T,) indices to (T, 3)."""
    from matplotlib import colormaps

    return colormaps["tab20"](classes % 20)[:, :3]
