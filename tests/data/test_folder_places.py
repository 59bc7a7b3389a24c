"""Described folders: where scenes lie, what labels their tiles get, and which split they belong to."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import xarray

from fusion.data import FolderDataset, Geo

from .described_folder import DATES, arrays, described, rewrite


def test_places_from_bounds_and_from_coordinates_either_way_up(folder):
    south_up = arrays()["s2"][:, :, ::-1]
    for scene in ("north", "south"):
        rewrite(
            folder, scene, s2=south_up, crop=arrays()["crop"][::-1], epsg=np.int32(32631),
            bounds=np.array([500000, 5399920, 500080, 5400000]),
            x=500005.0 + 10 * np.arange(8), y=5399925.0 + 10 * np.arange(8),
        )  # fmt: skip
    labels = {"variable": "crop", "resolution": 10, "reduction": "majority", "classes": {"a": 1, "b": 2, "c": 3}}
    flipped = FolderDataset(described(georeference={"epsg": "epsg", "x": "x", "y": "y"}, labels=labels), folder)
    assert flipped.places()[2] == Geo((10.0, 0.0, 500000.0, 0.0, -10.0, 5399960.0), "EPSG:32631")
    assert np.array_equal(flipped[2].values["s2"], arrays()["s2"][:, :, 4:, :4])
    assert flipped.labels()[:4].tolist() == [0, 1, 2, 1]
    as_is = FolderDataset(described(georeference={"epsg": 32631, "bounds": "bounds"}), folder)
    assert as_is.places() == flipped.places()
    assert np.array_equal(as_is[2].values["s2"], south_up[:, :, 4:, :4])


def test_places_in_degrees_and_by_cf_conventions(folder):
    lat, lon = 47 - 0.0001 * (np.arange(8) + 0.5), 11 + 0.00013 * (np.arange(8) + 0.5)
    for scene in ("north", "south"):
        rewrite(folder, scene, lat=lat, lon=lon)
    degrees = FolderDataset(described(georeference={"epsg": 4326, "x": "lon", "y": "lat"}), folder)
    place = degrees.places()[3]
    assert place.crs == "EPSG:4326"
    assert place.transform == pytest.approx((0.00013, 0, 11 + 4 * 0.00013, 0, -0.0001, 47 - 4 * 0.0001))
    xarray.Dataset(
        {"s2": (("time", "band", "y", "x"), arrays()["s2"]), "spatial_ref": ((), 0)},
        coords={"dates": ("time", np.array(DATES, dtype="M8[ns]")),
                "y": 5400000.0 - 10 * np.arange(8), "x": 500000.0 + 10 * np.arange(8)},
    ).assign(
        spatial_ref=xarray.Variable((), 0, {"crs_wkt": rasterio.CRS.from_epsg(32632).to_wkt()})
    ).to_netcdf(folder / "a.nc", engine="h5netcdf")  # fmt: skip
    cf = FolderDataset(described(files="{scene}.nc", georeference={"cf": True}), folder)
    assert cf.places()[0] == Geo((10.0, 0.0, 499995.0, 0.0, -10.0, 5400005.0), "EPSG:32632")


def test_labels_mean_majority_any_and_map(folder):
    crop = arrays()["crop"]
    crop[:4, :4][:2] = 0  # half of the first tile is unknown
    crop[4:, 4:][:1] = 3
    rewrite(folder, crop=crop)

    def labelled(**labels):
        return FolderDataset(described(labels={"resolution": 10} | labels), folder)

    classes = {"wheat": 1, "other": [2, 3]}
    majority = labelled(variable="crop", reduction="majority", classes=classes, min_labelled=0.6)
    assert majority.task == "multiclass"
    assert majority.classes == ("wheat", "other")
    assert majority.names[0] == "north_r0000_c0040"  # the half-labelled one is left out
    assert majority.labels().tolist() == [1, 1, 1, 0, 1, 1, 1]
    several = labelled(variable="crop", reduction="any", classes={"a": 1, "b": 2, "c": 3})
    assert several.task == "multilabel"
    assert several.labels()[:4].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]]
    mean = labelled(variable="agb", reduction="mean", nodata=[0, 1])
    assert mean.task == "regression"
    assert mean.labels()[0, 0] == pytest.approx((arrays()["agb"][:4, :4].sum() - 1) / 14)
    whole = labelled(variable="crop", reduction="none", classes={"a": 1, "b": 2, "c": 3})
    assert whole.labels().shape == (8, 4, 4)
    assert whole.labels()[0, 0, 0] == -1
    assert labelled(variable="crop", reduction="none", classes={"a": 1})[1].label.shape == (4, 4)
    assert len(FolderDataset(described(labels={"variable": "crop", "resolution": 10, "reduction": "majority",
                                             "classes": {"a": 1}}), folder, labels=False)) == 8  # fmt: skip


def test_splits_by_file_and_by_area_never_share_a_pixel(folder):
    splits = {
        "train": {"files": "n*", "columns": [0, 0.5]},
        "test": {"columns": [[0.5, 1]]},
        "edge": {"rows": [0.25, 1]},
    }
    data = FolderDataset(described(splits=splits), folder)
    assert data.split("train").names == ["north_r0000_c0000", "north_r0040_c0000"]
    assert data.split("test").names == [f"{s}_r{r:04d}_c0040" for s in ("north", "south") for r in (0, 40)]
    assert data.split("edge").names == [f"{s}_r0040_c{c:04d}" for s in ("north", "south") for c in (0, 40)]
    overlapping = FolderDataset(described(splits=splits, stride=20), folder)
    assert overlapping.split("train").names == [f"north_r{r:04d}_c0000" for r in (0, 20, 40)]
