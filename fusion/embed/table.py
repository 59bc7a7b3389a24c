"""The patches of tiles, scattered or not, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from affine import Affine

from .blend import Told
from .blended import NothingObserved, blended
from .formats.about import About
from .formats.geoparquet import Part, Table, write_geoparquet
from .formats.temporary import sweep
from .items import write_table_item
from .mosaic import Canvas
from .raster import Dtype
from .working import WorkingFolder

__all__ = ["write_table"]

_STACKED = 4096  # tiles that lie alone which are computed together


def write_table(
    told: Told, canvases: Sequence[Canvas], path: Path, dtype: Dtype, about: About, folder: WorkingFolder, depth: int
) -> Table | None:
    """Writes a row for each patch of the rasters that the tiles make, and the item of the table.

    Where tiles overlap, a patch is their average, as in a raster. A raster without any observation has no rows.

    Args:
        depth: D.

    Returns:
        None where another process has written it.

    Raises:
        NothingObserved: no tile has an observation.
    """
    parts, days, damaged = [], list[str](), dict[str, str]()
    for number, (canvas, pieces) in enumerate(_laid_out(canvases, told.cells)):
        working = folder.raster(str(number))
        try:
            blend = blended(told, canvas, path, working, depth)
        except NothingObserved:
            continue
        finally:
            damaged |= told.damaged
        if blend is None:
            return None
        names = [told.dataset.name(t) for t in canvas.tiles]
        parts.append(Part(blend.values, blend.owner, names, pieces, canvas.crs))
        days += working.span or ()
    told.damaged = damaged
    if not parts:
        folder.remove()  # so that there is nothing to go on with
        raise NothingObserved(told.nothing_observed(f"{len(told.dataset)} tiles", "table"))
    about = replace(about, first=min(days, default=None), last=max(days, default=None))
    dim = parts[0].values.shape[-1]
    with folder.alone() as there:
        if not there:
            return None
        sweep(path)
        table = write_geoparquet(path, parts, dtype, about.as_tags(dim, dtype))
        write_table_item(path, table, dim, dtype, about)
        folder.remove()
    return table


def _laid_out(canvases: Sequence[Canvas], cells: tuple[int, int]) -> list[tuple[Canvas, list[tuple[int, int, Affine]]]]:
    """The rasters to compute; tiles that lie alone are stacked, so that they are computed in whole batches.

    Args:
        cells: rows and columns of a tile.

    Returns:
        Each with the first row, the number of rows and the true transform of the rasters that it is made of.
    """
    found = [(c, [(0, c.shape[0], c.transform)]) for c in canvases if len(c.tiles) > 1]
    alone = [c for c in canvases if len(c.tiles) == 1]
    for kind in dict.fromkeys((c.crs, c.flipped) for c in alone):
        same = [c for c in alone if (c.crs, c.flipped) == kind]
        for some in (same[k : k + _STACKED] for k in range(0, len(same), _STACKED)):
            tops = np.arange(len(some)) * cells[0]
            stack = Canvas(
                Affine.identity(),
                kind[0],
                (len(some) * cells[0], cells[1]),
                np.array([c.tiles[0] for c in some]),
                np.stack([tops, np.zeros_like(tops)], axis=1),
                kind[1],
            )
            found.append((stack, [(int(top), cells[0], c.transform) for top, c in zip(tops, some, strict=True)]))
    return found
