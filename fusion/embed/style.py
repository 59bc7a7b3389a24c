"""How a GIS draws a map when it is opened: colours of classes, and the style that QGIS reads beside a raster."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..training.files import write_atomically

__all__ = ["class_colours", "paletted", "ramp", "ramp_colours", "write_style"]

_STOPS = 5  # of a ramp


def class_colours(classes: int) -> dict[int, tuple[int, int, int, int]]:
    """Red, green, blue, alpha in bytes: matplotlib's tab20, as in reports; 20 colours, then again from the first."""
    from matplotlib import colormaps

    table = (colormaps["tab20"](np.arange(classes) % 20) * 255).round().astype(int)
    return {k: (int(r), int(g), int(b), 255) for k, (r, g, b, _) in enumerate(table)}


def ramp_colours(low: float, high: float) -> dict[float, tuple[int, int, int]]:
    """Matplotlib's viridis at evenly spaced values; one value where all are the same."""
    from matplotlib import colormaps

    values = np.linspace(low, high, _STOPS if high > low else 1)
    table = (colormaps["viridis"](np.linspace(0, 1, len(values)))[:, :3] * 255).round().astype(int)
    return {float(v): (int(r), int(g), int(b)) for v, (r, g, b) in zip(values, table, strict=True)}


def paletted(names: Mapping[int, str], colours: Mapping[int, tuple[int, int, int, int]]) -> ElementTree.Element:
    """QGIS's renderer of band 1 with a name and a colour for each number."""
    renderer = _renderer("paletted")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for value, name in names.items():
        red, green, blue, alpha = colours[value]
        entry = {"value": str(value), "color": _hex(red, green, blue), "label": name, "alpha": str(alpha)}
        ElementTree.SubElement(palette, "paletteEntry", entry)
    return renderer


def ramp(low: float, high: float) -> ElementTree.Element:
    """QGIS's renderer of band 1 with colours that run from ``low`` to ``high``, in the unit of the band: numbers times
    their scale, where it has one."""
    renderer = _renderer("singlebandpseudocolor")
    ends = {"classificationMin": f"{low:.6g}", "classificationMax": f"{high:.6g}"}
    renderer.attrib |= ends
    shader = ElementTree.SubElement(
        ElementTree.SubElement(renderer, "rastershader"),
        "colorrampshader",
        {
            "colorRampType": "INTERPOLATED",
            "classificationMode": "1",
            "clip": "0",
            "minimumValue": ends["classificationMin"],
            "maximumValue": ends["classificationMax"],
        },
    )
    for value, colour in ramp_colours(low, high).items():
        item = {"value": f"{value:.6g}", "label": f"{value:.4g}", "color": _hex(*colour), "alpha": "255"}
        ElementTree.SubElement(shader, "item", item)
    return renderer


def write_style(raster: Path, renderer: ElementTree.Element) -> Path:
    """Writes the style of a raster to its own name with ``.qml``, which QGIS applies when it opens the raster."""
    root = ElementTree.Element("qgis", {"version": "3.28.0", "styleCategories": "Symbology"})
    ElementTree.SubElement(root, "pipe").append(renderer)
    ElementTree.SubElement(root, "blendMode").text = "0"
    ElementTree.indent(root)
    head = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return write_atomically(
        raster.with_suffix(".qml"), f"{head}{ElementTree.tostring(root, encoding='unicode')}\n".encode()
    )


def _renderer(kind: str) -> ElementTree.Element:
    settings = {"type": kind, "band": "1", "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    renderer = ElementTree.Element("rasterrenderer", settings)
    ElementTree.SubElement(renderer, "rasterTransparency")
    limits = ElementTree.SubElement(renderer, "minMaxOrigin")
    ElementTree.SubElement(limits, "limits").text = "None"  # as given here; QGIS would else take its own
    return renderer


def _hex(red: int, green: int, blue: int) -> str:
    return f"#{red:02x}{green:02x}{blue:02x}"
