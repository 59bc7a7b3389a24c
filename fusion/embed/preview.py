"""A picture of a map and the style of it, from its overviews alone: neither needs the map in memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from ..training.files import write_atomically
from .cog import Sheet
from .style import class_colours, paletted, ramp, write_style

__all__ = ["overview", "write_preview", "write_styles"]

_SIDE = 1024  # pixels of a preview's map
_PANELS = 6  # bands that are shown
_LISTED = 40  # classes in a legend
_EMPTY = (1.0, 1.0, 1.0)  # colour of no data


def overview(path: Path, bands: int = _PANELS) -> np.ma.MaskedArray[Any, Any]:
    """(bands, rows, columns) of the first bands, masked where there is no data, in the unit of the bands.

    The finest overview of at most 1024 pixels a side is read, or the raster itself if it is no larger.
    """
    import rasterio

    with rasterio.open(path) as file:
        factors, side = file.overviews(1), max(file.shape)
    level = next((k for k, factor in enumerate(factors) if side / factor <= _SIDE), len(factors) - 1)
    options = {} if side <= _SIDE or not factors else {"overview_level": level}
    with rasterio.open(path, **options) as file:
        count = min(file.count, bands)
        values = file.read(list(range(1, count + 1)), masked=True)
        scale = np.array(file.scales[:count])[:, None, None]
    if values.dtype.kind == "f":
        values = np.ma.masked_invalid(values)
    return values if (scale == 1).all() else values * scale


def write_styles(path: Path, sheet: Sheet) -> Path:
    """Writes the style that QGIS draws a raster with: classes by name, a quantity from its 2nd to its 98th percentile.

    Of several bands it is that of the first.
    """
    if sheet.categories:
        names = dict(enumerate(sheet.categories))
        return write_style(path, paletted(names, class_colours(len(names))))
    if sheet.scale != 1:  # a share
        return write_style(path, ramp(0, 1))
    if sheet.dtype == "uint8":
        names = {0: f"{sheet.bands[0]}: absent", 1: f"{sheet.bands[0]}: present"}
        return write_style(path, paletted(names, {0: (230, 230, 230, 255), 1: (31, 119, 180, 255)}))
    return write_style(path, ramp(*_ends(overview(path, 1))))


def write_preview(path: Path, sheet: Sheet) -> Path:
    """Writes a picture of a raster with its legend to its own name with ``.png``; of the first six bands."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = overview(path)
    count = len(values)
    columns = min(count, 3)
    rows = -(-count // columns)
    height = 5.0 * min(max(values.shape[1] / values.shape[2], 0.3), 2.5)
    # Beside a map of classes its legend must have room, however flat the map and long the names.
    names = sheet.categories[: _LISTED + 1]
    size = (
        5.0 * columns + max(1.5, 0.8 + 0.075 * max(map(len, names), default=0)),
        max(height * rows, 0.18 * len(names)) + 0.8,
    )
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    # A quantity and the ends of its interval are in one unit: one scale of colours. Several quantities have their own.
    together = sheet.together and _ends(values)
    for panel, band, name in zip(panels, values, sheet.bands, strict=False):
        if sheet.categories:
            _draw_classes(panel, band, sheet.categories)
            continue
        ends = (0.0, 1.0) if sheet.dtype == "uint8" else together or _ends(band)
        image = panel.imshow(band, interpolation="nearest", vmin=ends[0], vmax=ends[1], cmap="viridis")
        panel.set_title(name, fontsize=9)
        figure.colorbar(image, ax=panel, shrink=0.7)
    left_out = len(sheet.bands) - count
    title = f"{path.name}{f' ({left_out} more bands)' if left_out else ''}"
    figure.suptitle(title, fontsize=10)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return write_atomically(path.with_suffix(".png"), picture.getvalue())


def _draw_classes(panel: Any, band: np.ma.MaskedArray[Any, Any], names: tuple[str, ...]) -> None:
    from matplotlib.patches import Patch

    table = np.array([colour[:3] for colour in class_colours(len(names)).values()]) / 255
    panel.imshow(np.where(np.ma.getmaskarray(band)[..., None], _EMPTY, table[band.filled(0)]), interpolation="nearest")
    seen = np.unique(band.compressed()).tolist()
    handles = [Patch(color=table[k], label=names[k]) for k in seen[:_LISTED]]
    if len(seen) > _LISTED:
        handles.append(Patch(color=_EMPTY, label=f"and {len(seen) - _LISTED} more"))
    panel.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=8, frameon=False
    )


def _ends(values: np.ma.MaskedArray[Any, Any]) -> tuple[float, float]:
    """The 2nd and the 98th percentile of what is known; 0 and 1 where nothing is."""
    known = values.compressed()
    if not len(known):
        return 0.0, 1.0
    low, high = np.percentile(known, [2, 98])
    return float(low), float(high)
