"""GeoTIFFs of published archives: another place, orientation or size is refused, and what is missing is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine
from rasterio.warp import transform as project

from fusion.data import FlairDataset, PastisDataset, TreeSatDataset
from fusion.data.check import check

from .flair_archive import write_flair
from .pastis_archive import write_pastis
from .treesat_archive import write_treesat

SPOT = "DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019/SPOT6_RVB_1M00_2019_10000.tif"
IMG = "flair_aerial_train/D004_2021/Z1_NN/img/IMG_000001.tif"
MSK = "flair_labels_train/D004_2021/Z1_NN/msk/MSK_000001.tif"


def rewrite(path: Path, mask: np.ndarray | None = None, pixels: Callable | None = None, **changes: Any) -> np.ndarray:
    """The same file with another profile, other pixels or an internal mask; returns the pixels."""
    with rasterio.open(path) as image:
        profile, values = image.profile, image.read()
    values = values if pixels is None else pixels(values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **(profile | changes)) as image:
        image.write(values)
        if mask is not None:
            image.write_mask(mask)
    return values


def moved(path: Path, east: float, north: float) -> Affine:
    with rasterio.open(path) as image:
        return Affine.translation(east, north) @ image.transform


def turned_round(path: Path) -> Affine:
    """South up."""
    with rasterio.open(path) as image:
        a, _, c, _, e, f = tuple(image.transform)[:6]
        return Affine(a, 0, c, 0, -e, f + e * image.height)


def scaled(path: Path, factor: float) -> Affine:
    with rasterio.open(path) as image:
        return image.transform @ Affine.scale(factor)


def slanted(path: Path) -> Affine:
    with rasterio.open(path) as image:
        return image.transform @ Affine.rotation(10)


# By archive: one of several files of a tile, and what reads the tile.


def treesat(folder: Path, name: str) -> tuple[Path, Callable[[], Any]]:
    (first, *_) = write_treesat(folder, 4)
    file = {"aerial": "aerial", "s1-mono": "s1/60m", "s2-mono": "s2/60m"}[name]
    return folder / file / f"{first}.tif", lambda: TreeSatDataset(folder, [name])[0]


def pastis(folder: Path) -> tuple[Path, Callable[[], Any]]:
    write_pastis(folder, 5)
    return folder / SPOT, lambda: PastisDataset(folder, ["spot"])[0]


def flair(folder: Path, file: str) -> tuple[Path, Callable[[], Any]]:
    write_flair(folder, train=["D004_2021", "D014_2020"], images=1)
    return folder / file, lambda: FlairDataset(folder, ["aerial"], labels="map")[0]


ARCHIVES = {
    "aerial": lambda folder: treesat(folder, "aerial"),
    "s1-mono": lambda folder: treesat(folder, "s1-mono"),
    "s2-mono": lambda folder: treesat(folder, "s2-mono"),
    "spot": pastis,
    "image": lambda folder: flair(folder, IMG),
    "mask": lambda folder: flair(folder, MSK),
}


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: {"transform": turned_round(path)}, "rows do not run from north to south"),
        (lambda path: {"transform": slanted(path)}, "rows do not run from north to south"),
        (lambda path: {"transform": scaled(path, 2)}, r"pixels of .* m wanted"),
        (lambda path: {"crs": "EPSG:32631"}, "lies elsewhere than .*EPSG:32631"),
    ],
    ids=["south up", "rotated", "other pixels", "other CRS"],
)
def test_another_grid_is_refused_with_the_file(tmp_path: Path, archive: str, change: Callable, told: str) -> None:
    path, read = ARCHIVES[archive](tmp_path)
    read()
    rewrite(path, **change(path))
    with pytest.raises(ValueError, match=rf"{path.name}: .*{told}"):
        read()


@pytest.mark.parametrize(("archive", "metres"), [("s1-mono", 60), ("s2-mono", 60), ("spot", 100), ("mask", 1)])
def test_another_place_is_refused_with_both_middles(tmp_path: Path, archive: str, metres: float) -> None:
    path, read = ARCHIVES[archive](tmp_path)
    with rasterio.open(path) as image:
        x = image.transform.c + image.width / 2 * image.transform.a
    rewrite(path, transform=moved(path, metres, 0))
    elsewhere = rf"{path.name}: lies elsewhere than .*: its middle is {x + metres:.1f}, .*, that of the other \d+"
    with pytest.raises(ValueError, match=elsewhere):
        read()


def test_ten_metre_pixels_may_be_snapped_to_their_own_grid(tmp_path: Path) -> None:
    path, read = ARCHIVES["s2-mono"](tmp_path)
    rewrite(path, transform=moved(path, -7, 6))
    assert read().values["s2-mono"].shape == (10, 6, 6)


def test_the_same_place_in_another_zone_is_the_same_place(tmp_path: Path) -> None:
    """SPOT may be in UTM where the outlines are in Lambert 93."""
    path, read = ARCHIVES["spot"](tmp_path)
    with rasterio.open(path) as image:
        middle = image.transform.c + 640, image.transform.f - 640
    x, y = (float(v[0]) for v in project("EPSG:2154", "EPSG:32631", *([v] for v in middle)))
    rewrite(path, crs="EPSG:32631", transform=Affine(1, 0, x - 640, 0, -1, y + 640))
    assert read().values["spot"].shape == (3, 1280, 1280)


def test_a_crs_without_its_number_is_still_the_crs(tmp_path: Path) -> None:
    path, read = ARCHIVES["aerial"](tmp_path)
    spelled = "+proj=utm +zone=32 +ellps=GRS80 +towgs84=0,0,0,0,0,0,0 +units=m +no_defs"
    rewrite(path, crs=rasterio.CRS.from_proj4(spelled))
    assert read().geo.crs == "EPSG:25832"


# What is missing in them.


@pytest.mark.parametrize(
    ("archive", "name", "fill"), [("aerial", "aerial", 0), ("spot", "spot", 0), ("image", "aerial", 0)]
)
@pytest.mark.parametrize("how", ["nodata", "mask"])
def test_missing_pixels_of_images_take_the_mean_of_the_band(
    tmp_path: Path, archive: str, name: str, fill: int, how: str
) -> None:
    path, read = ARCHIVES[archive](tmp_path)
    whole = read().values[name]
    height, width = whole.shape[-2:]
    with rasterio.open(path) as image:
        top, left = (image.height - height) // 2, (image.width - width) // 2
    hole = np.s_[:, top : top + 100, left : left + 100]

    def spoil(values: np.ndarray) -> np.ndarray:
        values = np.maximum(values, 1)
        values[hole] = fill if how == "nodata" else 255
        return values

    if how == "nodata":
        rewrite(path, pixels=spoil, nodata=fill)
    else:
        mask = np.full((image.height, image.width), 255, np.uint8)
        mask[hole[1:]] = 0
        rewrite(path, pixels=spoil, mask=mask)
    tile = read()
    known = torch.ones((height, width), dtype=torch.bool)
    known[:100, :100] = False
    assert torch.equal(tile.observed[name][0], known)
    for filled, stored in zip(tile.values[name], whole, strict=True):
        assert filled[0, 0] == pytest.approx(float(stored.clamp(min=1)[known].double().mean()), rel=1e-4)
        assert torch.equal(filled[known], stored[known].clamp(min=1))


def test_the_fourth_band_of_an_aerial_image_is_no_alpha_band(tmp_path: Path) -> None:
    path, read = ARCHIVES["aerial"](tmp_path)

    def dark(values: np.ndarray) -> np.ndarray:
        values[3] = 0  # red; GDAL would call every pixel transparent
        return values

    stored = rewrite(path, pixels=dark)
    tile = read()
    assert torch.equal(tile.values["aerial"], torch.from_numpy(stored[:, 2:302, 2:302].astype(np.float32)))
    assert "aerial" not in tile.observed


def test_missing_pixels_of_one_date_are_missing(tmp_path: Path) -> None:
    path, read = ARCHIVES["s2-mono"](tmp_path)

    def spoil(values: np.ndarray) -> np.ndarray:
        values[:, :2] = 0
        return values

    stored = rewrite(path, pixels=spoil, nodata=0)
    values = read().values["s2-mono"]
    assert values[0, 0, 0] == pytest.approx(float(stored[0, 2:].mean()), rel=1e-5)  # B02 is the first of both
    rewrite(path, pixels=lambda values: np.zeros_like(values))
    assert "s2-mono" not in read().values


def test_infinite_backscatter_of_one_date_is_missing(tmp_path: Path) -> None:
    path, read = ARCHIVES["s1-mono"](tmp_path)

    def spoil(values: np.ndarray) -> np.ndarray:
        values[:2, 0] = -np.inf
        values[:2, 1, 0] = np.nan
        return values

    stored = rewrite(path, pixels=spoil)
    values = read().values["s1-mono"]
    assert values.isfinite().all()
    assert values[0, 0, 0] == pytest.approx(
        float(np.nanmean(np.where(np.isfinite(stored[0]), stored[0], np.nan))), rel=1e-5
    )


def test_packed_pixels_are_refused(tmp_path: Path) -> None:
    path, read = ARCHIVES["s2-mono"](tmp_path)
    with rasterio.open(path, "r+") as image:
        image.scales = (1e-4,) * image.count
    with pytest.raises(ValueError, match=rf"{path.name}: band 1 has scale 0\.0001 and offset 0\.0.*-unscale"):
        read()


def test_masked_pixels_of_a_mask_have_no_label(tmp_path: Path) -> None:
    path, read = ARCHIVES["mask"](tmp_path)
    whole = read().label

    def spoil(values: np.ndarray) -> np.ndarray:
        values[:, 6:26] = 99
        return values

    rewrite(path, pixels=spoil, nodata=99)
    label = read().label
    assert (label[:20] == 255).all()
    assert torch.equal(label[20:], whole[20:])
    rewrite(path, pixels=lambda values: values.astype(np.float32) + 0.5, dtype="float32", nodata=None)
    with pytest.raises(ValueError, match=rf"{path.name}: values .*, classes 1 to 19 wanted"):
        read()


def test_targets_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    write_pastis(tmp_path, 5)
    path = tmp_path / "ANNOTATIONS/TARGET_10000.npy"
    target = np.load(path).astype(np.float32)
    data = PastisDataset(tmp_path, ["s2"], labels="map")
    np.save(path, target)
    assert data[0].label.tolist() == target[0].tolist()
    target[0, 0, 0] = np.nan
    np.save(path, target)
    with pytest.raises(ValueError, match=r"TARGET_10000\.npy: classes .*, 0 to 19 wanted"):
        data[0]


# More of one thing than there should be.


def test_a_tile_on_two_lists_is_refused(tmp_path: Path) -> None:
    names = write_treesat(tmp_path, 4)
    with open(tmp_path / "test_filenames.lst", "a") as file:
        file.write(f"{names[0]}.tif\n")
    with pytest.raises(ValueError, match=rf"test_filenames\.lst: {names[0]} is on the list of train too"):
        TreeSatDataset(tmp_path)


def test_several_files_of_a_series_are_noted(tmp_path: Path) -> None:
    names = write_treesat(tmp_path, 4)
    source = tmp_path / f"sentinel-ts/{names[1]}_2020.h5"
    (tmp_path / f"sentinel-ts/{names[1]}_2018.h5").write_bytes(source.read_bytes())
    warnings = check(TreeSatDataset(tmp_path, ["s2"])).warnings
    assert (
        f"1 tiles have several files of series; the latest is read, e.g. {source.name} and not {names[1]}_2018.h5"
        in warnings
    )


def test_a_key_with_two_values_is_refused(tmp_path: Path) -> None:
    write_flair(tmp_path, train=["D004_2021", "D014_2020"], images=1)
    path = tmp_path / "flair-2_centroids_sp_to_patch.json"
    table = json.loads(path.read_text())
    again = json.dumps({"IMG_000001.tif": [1, 1]})[1:]
    path.write_text(json.dumps(table)[:-1] + ", " + again)
    with pytest.raises(ValueError, match=r"centroids_sp_to_patch\.json: 'IMG_000001\.tif' is given twice"):
        FlairDataset(tmp_path)


def test_packed_series_are_refused(tmp_path: Path) -> None:
    names = write_treesat(tmp_path, 4, single=False)
    with h5py.File(tmp_path / f"sentinel-ts/{names[0]}_2020.h5", "r+") as file:
        file["sen-2-data"].attrs["scale_factor"] = 1e-4
    with pytest.raises(
        ValueError, match=r"_2020\.h5: sen-2-data: its attribute scale_factor = 0\.0001 was not applied"
    ):
        TreeSatDataset(tmp_path, ["s2"])[0]


def test_many_files_are_read_with_few_open_at_a_time(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    write_flair(tmp_path / "flair", train=[f"D{k:03d}_2021" for k in range(10)], areas=4, images=1)
    write_treesat(tmp_path / "trees", 60)
    write_pastis(tmp_path / "pastis", 5)
    opened = [
        FlairDataset(tmp_path / "flair", labels="map"),  # 82 series and masks of cloud
        TreeSatDataset(tmp_path / "trees", ["aerial", "s2", "s1-asc", "s1-mono", "s2-mono"]),
        PastisDataset(tmp_path / "pastis", labels="map"),
    ]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 60
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 50, before[1]))
    try:
        for data in opened:
            for tile in range(len(data)):
                assert data[tile].values
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
