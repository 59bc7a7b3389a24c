"""A map in a page that needs no other file: layers of one raster that are dragged, enlarged and asked for values.

A layer may be a whole number of times finer than the map: a photograph of what one pixel of the map is a square of.

Each layer is one PNG. That of classes or of a quantity holds codes, not colours: the page decodes it, colours it by its
legend and looks up what lies under the pointer, so no list of pixels is written.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from affine import Affine

__all__ = ["ClassLayer", "Ground", "Layer", "PhotoLayer", "QuantityLayer", "Viewer"]

NO_CLASS = 255
_STEPS = 65_534  # of the range of a quantity
_RAMP = 32  # colours between which a quantity's are interpolated


@dataclass(frozen=True)
class Ground:
    """Where the pixels of all layers lie.

    Attributes:
        shape: rows and columns.
        transform: from (column, row) of a pixel to (x, y) of its upper left corner.
        crs: its name; empty where unknown.
        metres: width and height of a pixel on the ground, in the middle of the map; None where unknown.
        degrees: whether x and y are longitude and latitude.
    """

    shape: tuple[int, int]
    transform: Affine
    crs: str = ""
    metres: tuple[float, float] | None = None
    degrees: bool = False

    def finer(self, times: int) -> Ground:
        """The same ground in pixels of which ``times`` by ``times`` are one of these."""
        shape = (self.shape[0] * times, self.shape[1] * times)
        metres = None if self.metres is None else (self.metres[0] / times, self.metres[1] / times)
        a, b, c, d, e, f = self.transform[:6]
        transform = Affine(a / times, b / times, c, d / times, e / times, f)
        return Ground(shape, transform, self.crs, metres, self.degrees)


@dataclass(frozen=True)
class ClassLayer:
    """A map of classes.

    Attributes:
        title: its name in the list of layers.
        codes: (rows, columns) uint8, the position in ``names``, 255 for no data.
        names: of the classes.
        colours: ``#rrggbb`` of each.
        areas: of each, as it is printed in the legend; empty for none.
        note: what a reader must know of the layer.
    """

    title: str
    codes: np.ndarray
    names: Sequence[str]
    colours: Sequence[str]
    areas: Sequence[str] = ()
    note: str = ""

    def described(self) -> dict[str, Any]:
        """What the page is told of it."""
        return {
            "kind": "classes",
            "title": self.title,
            "names": list(self.names),
            "colours": list(self.colours),
            "areas": list(self.areas) or None,
            "note": self.note,
            "source": _png(self.codes.astype(np.uint8)),
        }


@dataclass(frozen=True)
class QuantityLayer:
    """A map of numbers.

    Attributes:
        title: its name in the list of layers.
        values: (rows, columns) float32, NaN for no data.
        unit: printed after a value.
        shown: values of the first and of the last colour; 2nd and 98th percentile of the values by default.
        ends: titles of the layers that hold the lower and the upper end of an interval about each value.
        note: what a reader must know of the layer.
        ramp: name of Matplotlib's colours.
    """

    title: str
    values: np.ndarray
    unit: str = ""
    shown: tuple[float, float] | None = None
    ends: tuple[str, str] | None = None
    note: str = ""
    ramp: str = "viridis"

    def range(self) -> tuple[float, float]:
        """Values of the first and of the last colour."""
        if self.shown is not None:
            return self.shown
        known = self.values[np.isfinite(self.values)]
        low, high = np.percentile(known, [2, 98]) if known.size else (0.0, 1.0)
        return float(low), float(high)

    def described(self) -> dict[str, Any]:
        """What the page is told of it. A value is kept to the 65534th part of the range of all values."""
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        known = np.isfinite(self.values)
        low, high = (float(f(self.values[known])) for f in (np.min, np.max)) if known.any() else (0.0, 1.0)
        share = (np.where(known, self.values, low).astype(np.float64) - low) / ((high - low) or 1.0)
        codes = np.rint(share * _STEPS).astype(np.uint16)
        code_colours = np.stack([codes >> 8, codes & 255, np.where(known, 0, 255)], axis=-1).astype(np.uint8)
        return {
            "kind": "quantity",
            "title": self.title,
            "unit": self.unit,
            "low": low,
            "high": high,
            "steps": _STEPS,
            "shown": list(self.range()),
            "ends": list(self.ends) if self.ends else None,
            "ramp": [to_hex(colormaps[self.ramp](k / (_RAMP - 1))) for k in range(_RAMP)],
            "note": self.note,
            "source": _png(code_colours),
        }


@dataclass(frozen=True)
class PhotoLayer:
    """What the eye would see.

    Attributes:
        title: its name in the list of layers.
        colours: (rows, columns, 3) uint8.
        seen: (rows, columns) bool, where there is something.
        note: what a reader must know of the layer.
    """

    title: str
    colours: np.ndarray
    seen: np.ndarray
    note: str = ""

    def described(self) -> dict[str, Any]:
        """What the page is told of it."""
        alpha = np.where(self.seen, 255, 0).astype(np.uint8)
        source = _png(np.dstack([np.where(self.seen[..., None], self.colours, 0).astype(np.uint8), alpha]))
        return {"kind": "photo", "title": self.title, "note": self.note, "source": source}


Layer = ClassLayer | QuantityLayer | PhotoLayer


@dataclass(frozen=True)
class Viewer:
    """Layers of one raster as a map in the page, the first of them on top; a photograph is what they are compared with.

    Attributes:
        ground: where they lie.
        layers: with titles that differ, at most one photograph among them.
        caption: below the map.
    """

    ground: Ground
    layers: Sequence[Layer]
    caption: str = ""

    def __post_init__(self) -> None:
        titles = [layer.title for layer in self.layers]
        if not titles or len(set(titles)) < len(titles):
            raise ValueError(f"Viewer: layers with titles of their own are wanted, not {titles}")
        for layer in self.layers:
            size = {PhotoLayer: "colours", QuantityLayer: "values", ClassLayer: "codes"}[type(layer)]
            shape = getattr(layer, size).shape[:2]
            times = max(1, shape[0] // self.ground.shape[0])
            if shape != self.ground.finer(times).shape:
                raise ValueError(
                    f"Viewer: layer {layer.title!r} has {shape} pixels, the map {self.ground.shape}; a layer has the "
                    "pixels of the map, or a whole number of times as many on either side"
                )
            if isinstance(layer, ClassLayer):
                _require_names(layer)

    def html(self) -> str:
        """The map with its style and its script; the same layers give the same text."""
        ground = self.ground
        wide, high = ground.metres or (1.0, 1.0)
        given = {
            "width": ground.shape[1],
            "height": ground.shape[0],
            "aspect": wide / high,
            "metres": high if ground.metres else None,
            "transform": list(ground.transform)[:6],
            "crs": ground.crs,
            "degrees": ground.degrees,
            "layers": [layer.described() for layer in self.layers],
        }
        data = json.dumps(given, allow_nan=False).replace("<", "\\u003c")  # names must not end the script
        style, script = ((files(__package__) / f"viewer.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
        caption = f"<p class=caption>{html.escape(self.caption)}</p>" if self.caption else ""
        return (
            f'<style>{style}</style><div class="map-viewer"><script type="application/json">{data}</script>'
            f"{_SKELETON}</div>{caption}<script>{script}</script>"
        )


_SKELETON = """<div class="map-view"><div class="map-frame"><canvas class="map-canvas" tabindex="0" role="application"
 aria-label="Map. Arrow keys move it, plus and minus enlarge and shrink it, 0 shows all of it."></canvas>
<div class="map-buttons"><button type="button" class="map-in" aria-label="Enlarge">+</button>
<button type="button" class="map-out" aria-label="Shrink">−</button>
<button type="button" class="map-reset" aria-label="Show all of the map">⤢</button></div>
<div class="map-scale"></div></div><output class="map-readout" aria-live="polite">Point at the map, or tap it,
 to see what is there. Drag to move, turn the wheel or pinch to enlarge.</output></div>
<div class="map-side"><fieldset class="map-layers"><legend>Layer</legend></fieldset>
<fieldset class="map-compare"><legend>Compare with true colour</legend>
<div class="map-modes"><label><input type="radio" name="mode" value="fade" checked>fade</label>
<label><input type="radio" name="mode" value="swipe">swipe</label></div>
<input class="map-slider" type="range" min="0" max="100" value="100" aria-label="How much of the layer is shown">
</fieldset><fieldset class="map-legend-box"><legend>Legend</legend><div class="map-legend"></div>
<button type="button" class="map-all">all / none</button></fieldset><p class="map-note"></p></div>
<noscript>The map needs JavaScript, which this browser has switched off.</noscript>"""


def _require_names(layer: ClassLayer) -> None:
    count = len(layer.names)
    if len(layer.colours) != count or (layer.areas and len(layer.areas) != count):
        raise ValueError(
            f"Viewer: layer {layer.title!r} has {count} names, {len(layer.colours)} colours, {len(layer.areas)} areas"
        )
    unknown = np.unique(layer.codes[(layer.codes >= count) & (layer.codes != NO_CLASS)])
    if unknown.size:
        raise ValueError(f"Viewer: layer {layer.title!r} has codes {unknown.tolist()} but {count} names")


def _png(pixels: np.ndarray) -> str:
    """(H, W) or (H, W, 3 or 4) uint8 as an address within the page."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", compress_level=9)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
