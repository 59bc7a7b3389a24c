"""Masks of described folders: bands of rasters, files of their own, other resolutions, images."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import rasterio

from .rasters import DATES, DAYS, SERIES, SIDE, image, opened, write, write_series

STORED = {"variable": "s2", "bands": ["B04", "B08"], "resolution": 10, "dates": "time"}
CLEAR, CLOUD = 4, 9


def scl(cloudy=np.s_[:, :4], side=SIDE):
    """(side, side) uint8: cloud in a part, by default the west."""
    codes = np.full((side, side), CLEAR, np.uint8)
    codes[cloudy] = CLOUD
    return codes


def seen(data, name="s2"):
    """Dates of each tile."""
    return [tile.days[name].tolist() if name in tile.values else [] for tile in data]


@pytest.mark.parametrize("variable", [None, "s2", "SCL"])
def test_a_band_of_a_raster_masks_the_others(tmp_path, variable):
    for k, date in enumerate(DATES):
        write(
            tmp_path / "s2" / f"a_{date}.tif", np.concatenate([image(k), scl()[None].astype(np.uint16)]), nodata=CLEAR
        )
    mask = {"band": "SCL", "classes": [CLEAR]} | ({"variable": variable} if variable else {})
    data = opened(tmp_path, {"s2": SERIES | {"bands": ["B04", "B08", "SCL"], "mask": mask}})
    assert data.modalities[0].bands == ("B04", "B08")
    assert seen(data) == [[], DAYS, [], DAYS]
    probability = {"band": "SCL", "at_most": 5}  # the nodata value of the file is that of the other bands
    assert seen(opened(tmp_path, {"s2": SERIES | {"bands": ["B04", "B08", "SCL"], "mask": probability}})) == seen(data)


@pytest.mark.parametrize("size", [5, 10, 20, 40])
@pytest.mark.parametrize("described", [True, False])
def test_a_mask_in_files_of_its_own_at_any_resolution(tmp_path, size, described):
    write_series(tmp_path)
    side = 80 // size
    for k, date in enumerate(DATES):
        codes = scl(np.s_[:, : side // 2] if k == 1 else np.s_[:0], side)
        write(tmp_path / "scl" / f"a_{date}.tif", codes, size=float(size))
    mask = {"files": "scl/{scene}_{date}.tif", "classes": [CLEAR]} | ({"resolution": size} if described else {})
    data = opened(tmp_path, {"s2": SERIES | {"mask": mask}})
    assert seen(data) == [[DAYS[0], DAYS[2]], DAYS] * 2


def test_of_a_finer_mask_every_pixel_must_be_clear(tmp_path):
    write_series(tmp_path)
    for date in DATES:
        codes = scl(np.s_[:0], 16)
        codes[0, 0] = CLOUD  # a quarter of the first pixel
        write(tmp_path / "scl" / f"a_{date}.tif", codes, size=5.0)
    layer = (
        opened(tmp_path, {"s2": SERIES | {"mask": {"files": "scl/{scene}_{date}.tif", "classes": [CLEAR]}}})
        .scenes[0]
        .layers["s2"]
    )
    clear = layer.clear(np.arange(3), (0, 0), (SIDE, SIDE), 10)
    assert not clear[:, 0, 0].any()
    assert clear.sum() == 3 * (64 - 1)


def test_a_coarser_mask_that_no_tile_edge_meets(tmp_path):
    """30 m, tiles of 40 m: a pixel takes the mask pixel that its centre lies in."""
    write_series(tmp_path)
    codes = scl(np.s_[:0], 3)
    codes[1, 1] = CLOUD  # 30..60 m
    for date in DATES:
        write(tmp_path / "scl" / f"a_{date}.tif", codes, size=30.0)
    mask = {"files": "scl/{scene}_{date}.tif", "classes": [CLEAR], "resolution": 30}
    layer = opened(tmp_path, {"s2": SERIES | {"mask": mask}}).scenes[0].layers["s2"]
    wanted = np.ones((SIDE, SIDE), bool)
    wanted[3:6, 3:6] = False
    assert np.array_equal(layer.clear(np.array([0]), (0, 0), (SIDE, SIDE), 10)[0], wanted)
    assert np.array_equal(layer.clear(np.array([0]), (40, 40), (4, 4), 10)[0], wanted[4:, 4:])


def test_masks_are_matched_by_date_and_a_lacking_one_is_named(tmp_path):
    write_series(tmp_path)
    for k, date in enumerate(["2020-04-01", *DATES]):
        write(tmp_path / "scl" / f"a_{date.replace('-', '')}.tif", scl(np.s_[:] if k == 1 else np.s_[:0]))
    source = SERIES | {"mask": {"files": "scl/{scene}_{date}.tif", "classes": [CLEAR]}}
    assert seen(opened(tmp_path, {"s2": source})) == [DAYS[1:]] * 4
    (tmp_path / "scl" / "a_20200510.tif").unlink()
    with pytest.raises(ValueError, match=r"no mask for 1 of 3 dates, e.g. 2020-05-10; copy them"):
        opened(tmp_path, {"s2": source})
    for path in (tmp_path / "scl").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"no file for the mask of 's2' \(scl/{scene}_{date}.tif\)"):
        opened(tmp_path, {"s2": source})


def test_one_mask_without_dates_holds_for_all(tmp_path):
    write_series(tmp_path)
    write(tmp_path / "land.tif", scl(np.s_[4:]))
    assert seen(opened(tmp_path, {"s2": SERIES | {"mask": {"files": "land.tif", "classes": [CLEAR]}}})) == [
        DAYS,
        DAYS,
        [],
        [],
    ]


@pytest.mark.parametrize("suffix", [".h5", ".npy"])
def test_masks_in_other_containers(tmp_path, suffix):
    values = np.stack([image(k) for k in range(3)])
    codes = np.stack([scl(np.s_[:0]), scl(), scl(np.s_[:0])])
    snow_and_cloud = np.stack(
        [np.zeros((3, SIDE, SIDE), np.uint8), np.where(codes == CLOUD, 80, 10).astype(np.uint8)], 1
    )
    with h5py.File(tmp_path / "cube_a.h5", "w") as file:
        file["s2"], file["time"] = values, [date.encode() for date in DATES]
    if suffix == ".h5":
        with h5py.File(tmp_path / "mask_a.h5", "w") as file:
            file["scl"], file["both"] = codes, snow_and_cloud
        by_class = {"files": "mask_{scene}.h5", "variable": "scl", "classes": [CLEAR]}
        by_band = {"files": "mask_{scene}.h5", "variable": "both", "band": 2, "at_most": 50}
    else:
        np.save(tmp_path / "scl_a.npy", codes)
        np.save(tmp_path / "both_a.npy", snow_and_cloud)
        by_class = {"files": "scl_{scene}.npy", "classes": [CLEAR]}
        by_band = {"files": "both_{scene}.npy", "band": 2, "at_most": 50}
    for mask in (by_class, by_band):
        data = opened(tmp_path, {"s2": STORED | {"mask": mask, "files": "cube_{scene}.h5"}}, files="cube_{scene}.h5")
        assert seen(data) == [[DAYS[0], DAYS[2]], DAYS] * 2


def test_an_image_is_masked_too(tmp_path):
    write(tmp_path / "aerial" / "a.tif", image())
    codes = scl(np.s_[:0])
    codes[:, :4], codes[0, 4] = CLOUD, CLOUD
    write(tmp_path / "scl" / "a.tif", codes)
    aerial = {"files": "aerial/{scene}.tif", "axes": ["band", "y", "x"], "bands": ["R", "G"], "resolution": 10}
    data = opened(tmp_path, {"aerial": aerial | {"mask": {"files": "scl/{scene}.tif", "classes": [CLEAR]}}})
    assert ["aerial" in tile.values for tile in data] == [False, True, False, True]
    rest = image()[0, :4, 4:].ravel()[1:].mean()
    assert data[1].values["aerial"][0, 0, 0] == pytest.approx(rest)


def test_what_a_mask_does_not_know_is_not_clear(tmp_path):
    write_series(tmp_path)
    for date in DATES:
        probability = np.zeros((SIDE, SIDE), np.float32)
        probability[:4, :4], probability[4:, 4:] = np.nan, -1
        write(tmp_path / "clp" / f"a_{date}.tif", probability, nodata=-1)
    mask = {"files": "clp/{scene}_{date}.tif", "at_most": 50}
    assert seen(opened(tmp_path, {"s2": SERIES | {"mask": mask}})) == [[], DAYS, DAYS, []]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"classes": [4]}, "mask: give its variable, its files, or one of the bands as band"),
        ({"band": "CLP", "at_most": 1}, "mask band 'CLP' is none of B04, B08"),
        (
            {"files": "s2/{scene}_{date}.tif", "band": "B04", "at_most": 1},
            "bands of files of their own go by number from 1",
        ),
        ({"files": "s2/{scene}_{date}.tif", "band": 3, "at_most": 1}, "mask: band 3 of 2"),
        ({"files": "s2/{scene}_{date}.tif", "classes": ["four"]}, "classes must be a number, not 'four'"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(tmp_path, mask, message):
    write_series(tmp_path)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, {"s2": SERIES | {"mask": mask}})


def test_the_packing_of_a_mask_is_that_of_each_file(tmp_path):
    write_series(tmp_path)
    for k, date in enumerate(DATES):
        with rasterio.open(write(tmp_path / "m" / f"a_{date}.tif", np.full((8, 8), 40, np.uint8)), "r+") as file:
            file.scales = (1.0 + k,)  # 40, 80 and 120 per cent of cloud
    mask = {"files": "m/{scene}_{date}.tif", "at_most": 90}
    tile = opened(tmp_path, {"s2": SERIES | {"mask": mask}})[0]
    assert tile.days["s2"].tolist() == DAYS[:2]
