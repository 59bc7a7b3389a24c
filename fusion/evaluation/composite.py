"""What the eye would see of a data set, and its labels, on the pixels of a map; tile by tile, whatever its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fusion.data import Modality, Tile, TileDataset
from fusion.data.spacing import evenly_spaced
from fusion.embed.mosaic import Canvas, lay_out

from .viewer import NO_CLASS, Ground, PhotoLayer

__all__ = ["Visible", "label_classes", "label_values", "photograph", "visible_bands"]

_TRUE_COLOUR = (
    ("r", "g", "b"),
    ("red", "green", "blue"),
    ("b04", "b03", "b02"),  # Sentinel-2
    ("b4", "b3", "b2"),  # Landsat 8 and 9, and Sentinel-2
    ("sr_b4", "sr_b3", "sr_b2"),
)
_THEMATIC_MAPPER = {"b1", "b2", "b3", "b4", "b5", "b7"}  # Landsat 4 to 7: red is B3
_VALUES = 1 << 30  # that are read for a picture, at most
_TILES = (100, 2000)  # that are read for a picture, at least and at most


@dataclass(frozen=True)
class Visible:
    """Bands that stand for red, green and blue.

    Attributes:
        modality: whose they are.
        bands: positions of three bands, or of one.
        true: whether they are red, green and blue.
    """

    modality: Modality
    bands: tuple[int, ...]
    true: bool

    @property
    def told(self) -> str:
        """In words."""
        names = [self.modality.bands[b] for b in self.bands]
        if self.true:
            return f"True colour from {self.modality.name} ({', '.join(names)})"
        if len(names) == 1:
            return f"No bands are named as red, green and blue: {self.modality.name} {names[0]} in grey"
        shown = f"{self.modality.name} {', '.join(names)} as red, green, blue"
        return f"No bands are named as red, green and blue: {shown}, which are no true colours"


def visible_bands(modalities: Sequence[Modality]) -> Visible:
    """The finest modality with red, green and blue by name; else the first three bands, or the first, of the finest."""
    found = [Visible(m, bands, True) for m in modalities if (bands := _red_green_blue(m.bands)) is not None]
    if found:
        return min(found, key=lambda visible: visible.modality.resolution)
    finest = min(modalities, key=lambda m: (m.resolution, -m.channels))
    return Visible(finest, (0, 1, 2) if finest.channels >= 3 else (0,), False)


def photograph(dataset: TileDataset, ground: Ground, title: str = "True colour") -> PhotoLayer | None:
    """The image of the tiles on the pixels of a map: a series as the median of its valid dates, stretched from the 2nd
    to the 98th percentile of each colour.

    Tiles are read one after another. Of very many tiles or very much data a regular part is read, which the note says.

    Args:
        dataset: whose tiles have places in the CRS of ``ground``.

    Returns:
        None where no tile lies on the map.
    """
    visible = visible_bands(dataset.modalities)
    dataset = dataset.with_modalities([visible.modality.name])
    tiles, canvas = _on_the_ground(dataset, ground)
    if canvas is None:
        return None
    read = _affordable(dataset, tiles)
    sheet = _Sheet(ground, len(visible.bands))
    position = {int(canvas.tiles[t]): int(t) for t in read}
    for number, tile in dataset.readable(list(position)):
        image = _clear_image(tile, visible)
        if image is not None:
            sheet.add(canvas, position[number], image, dataset.grid)
    mean = sheet.mean()
    seen = np.isfinite(mean).all(axis=-1)
    if not seen.any():
        return None
    low, high = np.percentile(mean[seen], [2, 98], axis=0)
    scaled = np.clip((mean - low) / np.where(high > low, high - low, 1), 0, 1)
    colours = np.rint(255 * np.nan_to_num(scaled)).astype(np.uint8)
    kind = ", median of the valid dates" if visible.modality.kind == "series" else ""
    note = f"{visible.told}{kind}; each stretched from its 2nd to its 98th percentile."
    if len(read) < len(tiles):
        note += f" {len(read):,} of {len(tiles):,} tiles, evenly spaced, were read for this picture."
    own = title if visible.true else "Image"
    return PhotoLayer(own, np.broadcast_to(colours, (*ground.shape, 3)), seen, note)


def label_classes(dataset: TileDataset, ground: Ground, names: Sequence[str]) -> tuple[np.ndarray, str] | None:
    """Labels of classes on the pixels of a map: (rows, columns) uint8 positions in ``names`` with 255 where there is no
    label, and what a reader must know; None where no tile lies on the map. Classes that ``names`` lacks are no labels.
    """
    codes = np.full(len(dataset.classes) + 1, NO_CLASS, dtype=np.uint8)
    for k, name in enumerate(dataset.classes):
        if name in names:
            codes[k] = list(names).index(name)
    found = np.full(ground.shape, NO_CLASS, dtype=np.uint8)

    def put(window: tuple[slice, slice], cells: np.ndarray) -> None:
        known = (cells >= 0) & (cells < len(dataset.classes)) & (cells != dataset.ignore_index)
        stored = codes[np.where(known, cells, len(dataset.classes)).astype(np.int64)]
        found[window] = np.where(stored == NO_CLASS, found[window], stored)

    note = _each_label(dataset, ground, put)
    return None if note is None else (found, note)


def label_values(dataset: TileDataset, ground: Ground, target: int = 0) -> tuple[np.ndarray, str] | None:
    """Labels of a quantity on the pixels of a map, (rows, columns) float32 with NaN where there is none; as
    :func:`label_classes`.

    Args:
        target: which of several quantities of a tile.
    """
    found = np.full(ground.shape, np.nan, dtype=np.float32)

    def put(window: tuple[slice, slice], cells: np.ndarray) -> None:
        found[window] = np.where(np.isfinite(cells), cells, found[window])

    note = _each_label(dataset, ground, put, target)
    return None if note is None else (found, note)


def _red_green_blue(bands: Sequence[str]) -> tuple[int, ...] | None:
    names = [band.lower() for band in bands]
    if {"b1", "b2", "b3"} <= set(names) <= _THEMATIC_MAPPER and "b7" in names:
        return tuple(names.index(b) for b in ("b3", "b2", "b1"))
    return next((tuple(names.index(b) for b in rgb) for rgb in _TRUE_COLOUR if set(rgb) <= set(names)), None)


def _on_the_ground(dataset: TileDataset, ground: Ground) -> tuple[np.ndarray, Canvas | None]:
    """Positions within its canvas of the tiles that lie on the map, and the canvas: of those with the CRS of the map,
    the one with most of them."""
    best: tuple[np.ndarray, Canvas | None] = (np.empty(0, dtype=np.int64), None)
    if not dataset.located().known.all():
        return best
    rows, columns = dataset.grid
    for canvas in lay_out(dataset):
        if not _same_crs(canvas.crs, ground.crs):
            continue
        tops, lefts = canvas.corners.T
        (height, top), (width, left) = _onto(ground, canvas)
        x, y = left + lefts * width, top + tops * height
        inside = (x < ground.shape[1]) & (x + columns * width > 0) & (y < ground.shape[0]) & (y + rows * height > 0)
        if inside.sum() > len(best[0]):
            best = np.flatnonzero(inside), canvas
    return best


def _onto(ground: Ground, canvas: Canvas) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of rows and of columns how many pixels of the map a patch spans, and where the first one begins."""
    ours, theirs = ground.transform, canvas.transform  # both north up
    return (theirs.e / ours.e, (theirs.f - ours.f) / ours.e), (theirs.a / ours.a, (theirs.c - ours.c) / ours.a)


def _same_crs(one: str, other: str) -> bool:
    from rasterio.crs import CRS

    return one == other or bool(one and other and CRS.from_user_input(one) == CRS.from_user_input(other))


def _affordable(dataset: TileDataset, tiles: np.ndarray) -> np.ndarray:
    """The tiles that are read, of those on the map: all, or as many as a picture is worth, evenly spaced."""
    middle = next(dataset.readable(np.roll(tiles, -(len(tiles) // 2))), None)
    values = 1 if middle is None else max(1, sum(v.numel() for v in middle[1].values.values()))
    most = int(np.clip(_VALUES // values, *_TILES))
    return tiles if len(tiles) <= most else tiles[evenly_spaced(len(tiles), most)]


def _clear_image(tile: Tile, visible: Visible) -> np.ndarray | None:
    """(H, W, bands) float32, NaN where nothing was measured; None where the tile has no valid date."""
    name = visible.modality.name
    if name not in tile.values:
        return None
    bands = list(visible.bands)
    values = tile.values[name][..., bands, :, :].numpy()  # (bands, H, W) or (L, bands, H, W)
    if name in tile.observed:
        values = np.where(tile.observed[name][..., bands, :, :].numpy(), values, np.nan)
    if visible.modality.kind == "series":
        if name in tile.valid:
            values = values[tile.valid[name].numpy()]
        if not len(values):
            return None
        never = np.isnan(values).all(axis=0)
        values = np.where(never, np.nan, np.nanmedian(np.where(never, 0, values), axis=0))
    return np.moveaxis(values, 0, -1).astype(np.float32)


class _Sheet:
    """The mean of all that is laid on each pixel of a map."""

    def __init__(self, ground: Ground, bands: int) -> None:
        self.ground = ground
        self.sums = np.zeros((*ground.shape, bands), dtype=np.float32)
        self.counts = np.zeros((*ground.shape, 1), dtype=np.float32)

    def add(self, canvas: Canvas, t: int, image: np.ndarray, grid: tuple[int, int]) -> None:
        """Args: image: (H, W, bands) of the tile at position ``t`` of the canvas."""
        image = image[::-1] if canvas.flipped else image
        placed = _pixels(self.ground, canvas, t, grid, image.shape[:2], finer=True)
        if placed is None:
            return
        window, rows, columns, parts = placed
        image = image.repeat(parts[0], axis=0).repeat(parts[1], axis=1)[rows[0]][:, columns[0]]
        known = np.isfinite(image).all(axis=-1, keepdims=True)
        for sheet, values in ((self.sums, np.where(known, image, 0)), (self.counts, known.astype(np.float32))):
            binned = np.add.reduceat(np.add.reduceat(values, rows[1], axis=0), columns[1], axis=1)
            sheet[window] += binned

    def mean(self) -> np.ndarray:
        """(rows, columns, bands), NaN where nothing lies."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums / self.counts


Axis = tuple[np.ndarray, np.ndarray]


def _pixels(
    ground: Ground, canvas: Canvas, t: int, grid: tuple[int, int], cells: tuple[int, int], *, finer: bool
) -> tuple[tuple[slice, slice], Axis, Axis, tuple[int, int]] | None:
    """Where the cells (rows, columns) of a tile lie on the map; None beside it.

    Returns:
        The window of the map; of rows and of columns the cells whose middle lies in it and at which of them each pixel
        of the map begins (``finer``), or the cell under the middle of each pixel; and into how many parts cells are cut
        so that every pixel has the middle of one.
    """
    corner = canvas.corners[t]
    spans, chosen, parts = [], [], []
    for axis, (scale, offset) in enumerate(_onto(ground, canvas)):
        first, step = offset + scale * corner[axis], scale * grid[axis] / cells[axis]
        limit, count = ground.shape[axis], cells[axis]
        if finer:
            cut = max(1, int(np.ceil(step - 1e-6)))
            middles = np.floor(first + (np.arange(count * cut) + 0.5) * step / cut + 1e-6).astype(np.int64)
            inside = np.flatnonzero((middles >= 0) & (middles < limit))
            if not inside.size:
                return None
            pixels, starts = np.unique(middles[inside], return_index=True)
            chosen.append((inside, starts))
            spans.append(slice(int(pixels[0]), int(pixels[-1]) + 1))
            parts.append(cut)
        else:
            begin, end = (int(np.clip(np.ceil(v - 0.5 - 1e-6), 0, limit)) for v in (first, first + step * count))
            if begin >= end:
                return None
            at = np.clip(((np.arange(begin, end) + 0.5 - first) / step).astype(np.int64), 0, count - 1)
            chosen.append((at, at))
            spans.append(slice(begin, end))
            parts.append(1)
    return (spans[0], spans[1]), chosen[0], chosen[1], (parts[0], parts[1])


def _each_label(
    dataset: TileDataset,
    ground: Ground,
    put: Callable[[tuple[slice, slice], np.ndarray], None],
    target: int = 0,
) -> str | None:
    """Calls ``put`` with a window of the map and the labels (rows, columns) of its pixels, tile by tile."""
    tiles, canvas = _on_the_ground(dataset, ground)
    if canvas is None:
        return None
    many = dataset.labels_in_files and len(tiles) > _TILES[1]
    read = tiles[evenly_spaced(len(tiles), _TILES[1])] if many else tiles
    for start in range(0, len(read), 64):
        part = read[start : start + 64]
        labels = dataset.subset(canvas.tiles[part]).labels().numpy()  # (n,), (n, T) or (n, H, W)
        for t, label in zip(part, labels, strict=True):
            cells = label if label.ndim == 2 else np.reshape(label if label.ndim == 0 else label[target], (1, 1))
            cells = cells[::-1] if canvas.flipped else cells
            placed = _pixels(ground, canvas, int(t), dataset.grid, cells.shape, finer=False)
            if placed is not None:
                window, (rows, _), (columns, _), _ = placed
                put(window, cells[rows][:, columns])
    what = "Label maps" if dataset.dense else "One label a tile"
    return f"{what} of {len(read):,} of {len(tiles):,} tiles that lie on the map, those it was trained with included."
