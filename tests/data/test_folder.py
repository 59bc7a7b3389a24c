"""Described folders, read: every format, axes, masks, units, dates."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import rasterio
import torch
import xarray
import zarr
from rasterio.transform import from_origin

from fusion.data import FolderDataset, Geo, collate, fit_statistics

from .described_folder import DATES, DAYS, DESCRIPTION, SIDE, arrays, described, rewrite, write_hdf5


def test_a_tile_holds_its_window_dates_and_bands(folder):
    data = FolderDataset(DESCRIPTION, folder)
    assert data.names[:4] == ["north_r0000_c0000", "north_r0000_c0040", "north_r0040_c0000", "north_r0040_c0040"]
    assert len(data) == 8
    assert data.blocks().tolist() == ["north"] * 4 + ["south"] * 4
    assert data.grid == (2, 2)
    tile = data[2]
    assert tile.values["s2"].shape == (4, 3, 4, 4)
    assert np.array_equal(tile.values["s2"].numpy(), arrays()["s2"][:, :, 4:, :4].astype(np.float32))
    assert tile.days["s2"].tolist() == DAYS
    assert tile.geo is None
    assert tile.label is None
    (s2,) = data.modalities
    assert (s2.bands, s2.resolution, s2.patch_size, s2.kind) == (("B02", "B04", "B08"), 10, 2, "series")


def write_zarr(folder, values):
    group = zarr.open_group(folder / "north.zarr", mode="w")
    for key, value in values.items():
        if key == "dates":
            value = (np.array(DATES, dtype="M8[D]") - np.datetime64("2020-01-01")).astype(np.int64)
        group.create_array(key, data=value)
    group["dates"].attrs["units"] = "days since 2020-01-01"


def write_netcdf(folder, values):
    axes = ("time", "band", "y", "x")
    dataset = xarray.Dataset(
        {"s2": (axes, values["s2"].astype(np.float32))}, coords={"dates": ("time", np.array(DATES, dtype="M8[ns]"))}
    )
    dataset.to_netcdf(folder / "north.nc", engine="h5netcdf")


@pytest.mark.parametrize("memory", [1 << 20, 0], ids=["memory", "disk"])
@pytest.mark.parametrize(
    ("suffix", "write"),
    [("h5", write_hdf5), ("zarr", write_zarr), ("nc", write_netcdf)],
    ids=["hdf5", "zarr", "netcdf"],
)
def test_every_format_gives_the_same_tiles(folder, suffix, write, memory):
    write(folder, arrays())
    expected = FolderDataset(DESCRIPTION, folder)
    data = FolderDataset(described(files=f"{{scene}}.{suffix}"), folder, memory=memory)
    for i in range(4):
        for item in (i, (i, 3)):
            assert data[item].values["s2"].equal(expected[item].values["s2"])
            assert data[item].days["s2"].equal(expected[item].days["s2"])
    few = FolderDataset(described(files=f"{{scene}}.{suffix}"), folder, memory=memory, max_dates=2)
    assert few[1, 4].values["s2"].shape[0] == 2


def test_variables_in_hdf5_groups(folder):
    write_hdf5(folder, arrays())
    data = FolderDataset(described(files="{scene}.h5", s2__variable="group/s2"), folder)
    assert data[0].values["s2"][0, 0, 0, 0] == 1000


def test_a_data_set_can_be_sent_to_workers(folder):
    write_hdf5(folder, arrays())
    data = FolderDataset(described(files="{scene}.h5"), folder, memory=0)
    data[0]
    assert pickle.loads(pickle.dumps(data))[3].values["s2"].equal(data[3].values["s2"])


def test_geotiffs_by_date(tmp_path):
    values = arrays()["s2"].astype(np.float32)
    values[1, :, :4, :4] = -1
    (tmp_path / "s2").mkdir()
    for date, bands in zip(DATES, values, strict=True):
        with rasterio.open(
            tmp_path / f"s2/T32_{date.replace('-', '')}.tif", "w", driver="GTiff", width=8, height=8, count=3,
            dtype="float32", nodata=-1, crs="EPSG:32632", transform=from_origin(500000, 5400000, 10, 10),
        ) as image:  # fmt: skip
            image.write(bands)
    with rasterio.open(
        tmp_path / "T32_crop.tif", "w", driver="GTiff", width=8, height=8, count=1, dtype="int16", nodata=0,
        crs="EPSG:32632", transform=from_origin(500000, 5400000, 10, 10),
    ) as image:  # fmt: skip
        image.write(arrays()["crop"], 1)
    source = {"files": "s2/{scene}_{date}.tif", "bands": ["B02", "B04", "B08"], "resolution": 10}
    labels = {"files": "{scene}_crop.tif", "resolution": 10, "reduction": "majority", "classes": {"a": 1, "b": [2, 3]}}
    data = FolderDataset(described(files="s2/{scene}_{date}.tif", modalities={"s2": source}, labels=labels), tmp_path)
    assert data.labels().tolist() == [0, 1, 1, 1]
    assert data.names[0] == "T32_r0000_c0000"
    assert data[0].days["s2"].tolist() == DAYS
    assert data[0].valid["s2"].tolist() == [True, False, True, True]
    assert data[3].valid["s2"].all()
    assert data[3].geo == Geo((10.0, 0.0, 500040.0, 0.0, -10.0, 5399960.0), "EPSG:32632")
    assert data.storage("s2") == (4, "float32")


def test_bands_named_by_the_file_are_picked_by_name(folder):
    rewrite(folder, names=np.array(["B02", "B04", "B08"]))
    rewrite(folder, "south", names=np.array(["B08", "B02", "B04"]))
    data = FolderDataset(described(s2__bands="names", s2__use=["B08", "B02"]), folder)
    assert data.modalities[0].bands == ("B08", "B02")
    assert data[0].values["s2"][0, :, 0, 0].tolist() == [1200, 1000]
    assert data[4].values["s2"][0, :, 0, 0].tolist() == [1000, 1100]


def test_scale_offset_nodata_range_and_decibels(folder):
    values = arrays()["s2"].astype(np.int32)
    values[0, 0, 0, 0] = -5
    values[1, 0, 0, 0] = 60000
    values[2, :, :4, :4] = -5
    rewrite(folder, s2=values)
    data = FolderDataset(
        described(s2__scale=0.5, s2__offset=10, s2__nodata=-5, s2__range=[0, 50000]), folder, max_dates=None
    )
    tile = data[0]
    assert tile.values["s2"][0, 1, 0, 0] == 0.5 * 1100 + 10
    gap_free = (values[0, 0, :4, :4].sum() + 5) / 15
    assert tile.values["s2"][0, 0, 0, 0] == pytest.approx(0.5 * gap_free + 10)  # the tile's mean of band and date
    assert tile.valid["s2"].tolist() == [True, True, False, True]
    power = FolderDataset(described(s2__decibels=10, s2__offset=-83), folder)
    assert power[3].values["s2"][0, 0, 0, 0] == pytest.approx(10 * np.log10(1036) - 83, rel=1e-5)


def test_masks_by_probability_and_by_class(folder):
    cloud = np.zeros((4, SIDE, SIDE), dtype=np.uint8)
    cloud[0, :4, :4] = 90
    cloud[1, :1, :4] = 90
    rewrite(folder, cloud=cloud)
    mask = {"variable": "cloud", "at_most": 50}
    tile = FolderDataset(described(s2__mask=mask), folder)[0]
    assert tile.days["s2"].tolist() == DAYS[1:]
    clear = arrays()["s2"][1, 0, 1:4, :4].mean()
    assert tile.values["s2"][0, 0, 0].tolist() == pytest.approx([clear] * 4)
    strict = FolderDataset(described(s2__mask=mask, s2__max_cloud=0.1), folder)[0]
    assert strict.days["s2"].tolist() == DAYS[2:]
    by_class = FolderDataset(described(s2__mask={"variable": "cloud", "classes": [90]}), folder)[0]
    assert by_class.days["s2"].tolist() == DAYS[:1]


def test_a_coarser_mask_and_a_mask_band(folder):
    coarse = np.zeros((4, 4, 4), dtype=np.uint8)
    coarse[0, :2, :2] = 90
    rewrite(folder, coarse=coarse)
    rewrite(folder, "south", coarse=coarse)
    data = FolderDataset(described(s2__mask={"variable": "coarse", "at_most": 50, "resolution": 20}), folder)
    assert data[0].days["s2"].tolist() == DAYS[1:]
    assert data[1].days["s2"].tolist() == DAYS
    band = FolderDataset(described(s2__mask={"variable": "s2", "band": "B08", "at_most": 2500}), folder)
    assert band.modalities[0].bands == ("B02", "B04")
    assert band[0].days["s2"].tolist() == DAYS[:2]


def test_availability_of_dates_and_of_bands(folder):
    per_date = np.array([True, False, True, True])
    per_band = np.ones((4, 3), dtype=bool)
    per_band[2, 1] = False
    rewrite(folder, per_date=per_date, per_band=per_band)
    rewrite(folder, "south", per_date=~per_date, per_band=per_band)
    assert FolderDataset(described(s2__available="per_date"), folder)[0].days["s2"].tolist() == [9, 166, 397]
    assert FolderDataset(described(s2__available="per_date"), folder)[4].days["s2"].tolist() == [60]
    data = FolderDataset(described(s2__available="per_band"), folder)
    assert data[0].days["s2"].tolist() == [9, 60, 397]
    two = FolderDataset(described(s2__available="per_band", s2__use=["B02", "B08"]), folder)
    assert len(two[0].days["s2"]) == 4


def test_other_axes_images_and_weather(folder):
    extra = {
        "channels_last": arrays()["s2"].transpose(0, 2, 3, 1),
        "single": arrays()["s2"][:, 0],
        "height": arrays()["agb"],
        "rain": np.arange(10, dtype=np.float32).reshape(5, 2),
        "rain_dates": np.arange(5),
    }
    for scene in ("north", "south"):
        rewrite(folder, scene, **extra)
    modalities = DESCRIPTION["modalities"] | {
        "last": {"variable": "channels_last", "axes": ["time", "y", "x", "band"]} | {
            k: v for k, v in DESCRIPTION["modalities"]["s2"].items() if k != "variable"
        },
        "single": {"variable": "single", "axes": ["time", "y", "x"], "bands": ["B02"], "resolution": 10,
                   "dates": "dates"},
        "height": {"variable": "height", "axes": ["y", "x"], "bands": ["h"], "resolution": 10},
        "rain": {"variable": "rain", "axes": ["time", "band"], "bands": ["sum", "max"],
                 "dates": ["2020-02-01", "2020-02-02", "2020-02-03", "2020-02-04", "2020-02-05"]},
    }  # fmt: skip
    data = FolderDataset(described(modalities=modalities), folder)
    tile = data[3]
    assert tile.values["last"].equal(tile.values["s2"])
    assert tile.values["single"].equal(tile.values["s2"][:, :1])
    assert np.array_equal(tile.values["height"][0], arrays()["agb"][4:, 4:])
    assert tile.values["rain"].shape == (5, 2, 2, 2)
    assert tile.values["rain"][3, :, 1, 1].tolist() == [6, 7]
    assert tile.days["rain"].tolist() == [31, 32, 33, 34, 35]
    kinds = {m.name: (m.kind, m.patch_size) for m in data.modalities}
    assert kinds["height"] == ("image", 2)
    assert kinds["rain"] == ("series", 1)


def test_months_without_a_year_roll_over(folder):
    data = FolderDataset(described(s2__dates=["Sep", "Nov", "Jan", "Aug"]), folder)
    assert data[0].days["s2"].tolist() == [257, 318, 379, 591]


def test_unsorted_dates_are_sorted_with_their_data(folder):
    order = [2, 0, 3, 1]
    rewrite(folder, dates=np.array(DATES, dtype="S10")[order], s2=arrays()["s2"][order])
    tile = FolderDataset(DESCRIPTION, folder)[0]
    assert tile.days["s2"].tolist() == DAYS
    assert tile.values["s2"][:, 0, 0, 0].tolist() == [1000, 2000, 3000, 4000]


def test_an_optional_modality_may_be_missing(folder):
    rewrite(folder, "north", s1=arrays()["s2"][:, :2])
    s1 = {"variable": "s1", "bands": ["VV", "VH"], "resolution": 10, "dates": "dates", "optional": True}
    data = FolderDataset(described(modalities=DESCRIPTION["modalities"] | {"s1": s1}), folder)
    assert list(data[0].values) == ["s2", "s1"]
    assert list(data[4].values) == ["s2"]
    assert collate([data[0], data[4]]).valid_tiles("s1").tolist() == [True, False]
    assert data.notes() == ["s1: not in 1 of 2 scenes, e.g. south"]


def test_nan_in_a_file_never_reaches_a_batch(folder):
    values = arrays()["s2"].astype(np.float32)
    values[0] = np.nan
    values[1, :, :2, :2] = np.nan
    values[2, 1] = np.inf
    rewrite(folder, s2=values)
    rewrite(folder, "south", s2=np.full((4, 3, SIDE, SIDE), np.nan, dtype=np.float32))
    data = FolderDataset(DESCRIPTION, folder)
    batch = collate([data[i] for i in range(len(data))])
    assert torch.isfinite(batch.values["s2"]).all()
    assert batch.valid["s2"][0].tolist() == [False, True, False, True]
    assert not batch.valid["s2"][4:].any()
    with pytest.raises(ValueError, match="no observed value in 4 tiles"):
        fit_statistics(data.subset(range(4, 8)))


def test_one_tile(folder):
    data = FolderDataset(described(tile=80), folder).subset([1])
    assert len(data) == 1
    assert collate([data[0]]).values["s2"].shape == (1, 4, 3, 8, 8)


def test_biomassters(data_dir):
    folder = data_dir("biomassters_mini")
    data = FolderDataset("biomassters", folder)
    assert len(data) == 512
    assert len(data.split("chip-0060c0a5")) == 256
    assert not set(data.split("train").names) & set(data.split("test").names)
    with h5py.File(folder / "000aa810.h5") as file:
        agb = file["agbm"][16:32, 48:64].mean()
        s1 = file["s1"][3, :2, 16:32, 48:64]
    i = data.names.index("000aa810_r0160_c0480")
    tile = data[i]
    assert tile.label[0] == pytest.approx(agb, rel=1e-5)
    assert tile.values["s1-asc"][3].numpy() == pytest.approx(s1 / 100, rel=1e-5)
    assert len(tile.values["s1-asc"]) == 12
    assert len(tile.values["s1-des"]) == 6  # Sep, Oct, May .. Aug
    assert len(tile.values["s2"]) <= 5  # Mar .. Aug without the empty June
    assert tile.days["s2"].min() >= 365 + 59
    assert tile.values["s2"].shape[1] == 10
    s2, asc, _ = fit_statistics(data, tiles=40)
    assert 1000 < s2.mean[6] < 4000
    assert -14 < asc.mean[0] < -8


def test_worldcereal(data_dir):
    data = FolderDataset("worldcereal", data_dir("worldcereal_patches"))
    assert [m.name for m in data.modalities] == ["s2", "s2-20m", "s1", "surface-temperature", "weather"]
    present = collate([data[0], data[len(data) - 1]]).valid_tiles("s2")
    assert present.sum() == 1
    first = data.places()[0]
    assert first.crs == "EPSG:32631"
    assert first.transform[2] % 20 == 0
    assert 0.3 < len(data.split("train")) / len(data) < 0.7
    monthly = FolderDataset("worldcereal-monthly", data_dir("worldcereal_patches"))
    assert monthly[0].geo.transform[5] == 5612650.0
    s1 = fit_statistics(monthly.with_modalities(["s1"]))[0]
    assert -12 < s1.mean[0] < -7
