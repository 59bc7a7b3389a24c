"""Labels of points and polygons in tables and vector files, whole and damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from damage import Damage

__all__ = ["TABLE", "VECTOR", "of_table", "of_vector", "write_table", "write_vector"]

WEST, NORTH, CRS = 500_000, 5_600_160, "EPSG:32631"
TABLE = {"table": "labels.csv", "field": "crop", "x": "x", "y": "y", "crs": CRS}
VECTOR = {"field": "crop"}
_HEAD = "x,y,crop\n"


def _rows() -> list[str]:
    draw = np.random.default_rng(0)
    places = draw.uniform(5, 155, (24, 2))
    return [f"{WEST + x:.1f},{NORTH - y:.1f},{'wheat' if k % 2 else 'maize'}" for k, (x, y) in enumerate(places)]


def write_table(path: Path) -> None:
    path.write_text(_HEAD + "\n".join(_rows()) + "\n")


def of_table() -> Iterator[Damage]:
    rows = _rows()
    texts: dict[str, str] = {
        "no column": "x,y\n" + "\n".join(row.rpartition(",")[0] for row in rows),
        "no header": "\n".join(rows),
        "header only": _HEAD,
        "column twice": "x,x,crop\n" + "\n".join(rows),
        "field twice": "x,y,crop,crop\n" + "\n".join(f"{row},a" for row in rows),
        "longer row": _HEAD + "\n".join([*rows[:5], rows[5] + ",1,2,3", *rows[6:]]),
        "longer rows": _HEAD + "\n".join(row + ",7" for row in rows),
        "shorter row": _HEAD + "\n".join([*rows[:5], "500010", *rows[6:]]),
        "open quote": _HEAD + "\n".join([*rows[:5], '"' + rows[5], *rows[6:]]),
        "text for a number": _HEAD + "\n".join([*rows[:5], "east,north,wheat", *rows[6:]]),
        "infinite place": _HEAD + "\n".join(["inf,-inf,wheat", *rows]),
        "infinite places": _HEAD + "inf,inf,wheat\n-inf,inf,maize\n",
        "huge places": _HEAD + "1e300,1e300,wheat\n1e308,-1e308,maize\n",
        "nan places": _HEAD + "nan,nan,wheat\n,,maize\n",
        "far away": _HEAD + "0,0,wheat\n1,1,maize\n",
        "no values": _HEAD + "\n".join(row.rpartition(",")[0] + "," for row in rows),
        "infinite values": _HEAD + "\n".join(row.rpartition(",")[0] + ",inf" for row in rows),
        "huge values": _HEAD + "\n".join(row.rpartition(",")[0] + ",1e300" for row in rows),
        "huge whole values": _HEAD + "\n".join(row.rpartition(",")[0] + "," + "9" * 40 for row in rows),
        "fractions": _HEAD + "\n".join(row.rpartition(",")[0] + ",0.5" for row in rows),
        "mixed values": _HEAD + "\n".join([*rows, "500010,5600010,7", "500020,5600020,2.5"]),
        "names of paths": _HEAD + "\n".join(row.rpartition(",")[0] + ",../../up" for row in rows),
        "dates": _HEAD + "\n".join(row.rpartition(",")[0] + ",2020-01-01" for row in rows),
        "semicolons": (_HEAD + "\n".join(rows)).replace(",", ";"),
        "spaces": (_HEAD + "\n".join(rows)).replace(",", " "),
        "zero bytes": _HEAD + "\0\n".join(rows),
        "no line ends": (_HEAD + "\n".join(rows)).replace("\n", " "),
        "carriage returns": (_HEAD + "\n".join(rows)).replace("\n", "\r"),
        "blank lines": _HEAD + "\n\n\n".join(rows),
    }
    for name, text in texts.items():
        yield name, lambda path, text=text: path.write_text(text) and None
    for encoding in ("utf-16", "utf-32", "latin-1"):
        content = (_HEAD + "\n".join(rows)).replace("wheat", "blé").encode(encoding)
        yield encoding, lambda path, content=content: path.write_bytes(content) and None


def _frame(values: Any = None, shapes: Any = None, crs: str | None = CRS) -> Any:
    import geopandas
    from shapely.geometry import box

    places = [(20 * (k % 8), 20 * (k // 8)) for k in range(24)]
    if shapes is None:
        shapes = [box(WEST + x, NORTH - y - 15, WEST + x + 15, NORTH - y) for x, y in places]
    if values is None:
        values = [("maize", "wheat")[k % 2] for k in range(len(shapes))]
    return geopandas.GeoDataFrame({"crop": values}, geometry=shapes, crs=crs)


def _save(path: Path, frame: Any, **options: Any) -> None:
    path.unlink(missing_ok=True)
    frame.to_file(path, **({"driver": "GeoJSON"} if path.suffix == ".geojson" else {}), **options)


def write_vector(path: Path) -> None:
    _save(path, _frame())


def of_vector() -> Iterator[Damage]:
    from shapely.geometry import GeometryCollection, LineString, Point, Polygon

    n = 24
    bow = Polygon([(WEST, NORTH), (WEST + 50, NORTH - 50), (WEST + 50, NORTH), (WEST, NORTH - 50)])
    values = {
        "infinite": [np.inf] * n, "nan": [np.nan] * n, "huge": [1e300] * n, "huge whole": [2**62] * n,
        "fractions": [0.5] * n, "none": [None] * n,
        "bool": [True, False] * (n // 2), "paths": ["../../up"] * n, "empty text": [""] * n,
        "one each": [f"class {k}" for k in range(n)],
    }  # fmt: skip
    for name, own in values.items():
        yield f"values {name}", lambda path, own=own: _save(path, _frame(own))
    shapes = {
        "lines": LineString([(WEST, NORTH), (WEST + 9, NORTH)]), "bow": bow, "none": None, "empty": Polygon(),
        "points": Point(WEST + 5, NORTH - 5), "collection": GeometryCollection([Point(WEST + 5, NORTH - 5), bow]),
        "far": Point(0, 0), "huge": Point(1e300, -1e300), "infinite": Point(np.inf, np.nan),
        "three axes": Point(WEST + 5, NORTH - 5, 7), "no area": Polygon([(WEST, NORTH)] * 4),
    }  # fmt: skip
    for name, shape in shapes.items():
        yield f"shapes {name}", lambda path, shape=shape: _save(path, _frame(["a", "b"], [shape] * 2))
    yield "other field", lambda path: _save(path, _frame().rename(columns={"crop": "use"}))
    yield "no feature", lambda path: _save(path, _frame().iloc[:0])
    yield "other CRS", lambda path: _save(path, _frame(crs="EPSG:3857"))
