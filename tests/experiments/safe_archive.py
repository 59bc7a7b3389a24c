"""Writes a patch of WorldCereal as Sentinel-2 products in SAFE folders, and its parcels as polygons."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely.geometry
from rasterio.features import shapes
from rasterio.transform import from_origin

CROPS = {
    1200: "maize",
    1110: "winter cereals",
    1510: "winter cereals",
    1910: "winter cereals",
    1500: "barley",
    5100: "root crops",
    8100: "root crops",
    9120: "grass",
}
BANDS = {"s2_10m": ("B02", "B03", "B04", "B08"), "s2_20m": ("B05", "B06", "B07", "B8A", "B11", "B12")}


def write_products(patch: Path, folder: Path, tile: str, dates: int) -> int:
    """The ``dates`` clearest acquisitions, a product each, with bands at 10 and 20 m and the scene classification.

    Returns:
        How many files were written.
    """
    with np.load(patch) as data:
        found = {name: (data[f"{name}_dates"], data[name]) for name in BANDS if name in data}
        scl, scl_dates = data["s2_20m_scl"], data["s2_20m_dates"]
        left, _, _, top = (int(x) for x in data["bounds"])
        crs = f"EPSG:{int(data['epsg'])}"
    clear = np.isin(scl, [4, 5, 6, 7]).mean(axis=(1, 2))
    chosen = sorted(np.argsort(-clear, kind="stable")[:dates])
    count = 0
    for position in chosen:
        day = scl_dates[position].decode().replace("-", "")
        time = f"{day}T104021"
        product = f"S2A_MSIL2A_{time}_N0208_R008_{tile}_{time}.SAFE"
        images = folder / product / "GRANULE" / f"L2A_{tile}_A016245_{time}" / "IMG_DATA"
        layers = [("SCL", 20, scl[position])]
        for name, (days, values) in found.items():
            metres = int(name[3:5])
            same = np.flatnonzero(days == scl_dates[position])
            layers += [(b, metres, values[same[0], k]) for k, b in enumerate(BANDS[name]) if len(same)]
        for band, metres, values in layers:
            path = images / f"R{metres}m" / f"{tile}_{time}_{band}_{metres}m.jp2"
            path.parent.mkdir(parents=True, exist_ok=True)
            place = from_origin(left, top, metres, metres)
            _write_jp2(path, values, crs, place)
            count += 1
    return count


def _write_jp2(path: Path, values: np.ndarray, crs: str, place: rasterio.Affine) -> None:
    """Without loss, as ESA's are."""
    profile = {"height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": values.dtype}
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES", "YCBCR420": "NO"}
    with rasterio.open(path, "w", driver="JP2OpenJPEG", crs=crs, transform=place, **profile, **lossless) as file:
        file.write(values, 1)


def write_parcels(patches: list[Path], path: Path, crs: str = "EPSG:31370") -> geopandas.GeoDataFrame:
    """The parcels of several patches as polygons with a field ``crop``, in the national grid of Belgium."""
    crops, outlines = [], []
    for patch in patches:
        with np.load(patch) as data:
            codes, (left, _, _, top) = data["ct"], (int(x) for x in data["bounds"])
            own = f"EPSG:{int(data['epsg'])}"
        known = np.isin(codes, list(CROPS))
        for outline, code in shapes(codes, mask=known, transform=from_origin(left, top, 10, 10)):
            crops.append(CROPS[int(code)])
            outlines.append(shapely.geometry.shape(outline))
    parcels = geopandas.GeoDataFrame({"crop": crops}, geometry=outlines, crs=own).to_crs(crs)
    parcels.to_file(path, driver="GPKG")
    return parcels
