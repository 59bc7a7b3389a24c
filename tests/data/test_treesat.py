"""TreeSatAI-TS: the five real tiles, and folders in their layout with every fault a reader meets."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from fusion.data import Geo, TreeSatDataset, collate, fit_statistics

NAMES = ("Abies_alba_1_1_WEFL_NLF", "Betula_spec._1_2_WEFL_NLF", "Quercus_robur_3_3_WEFL_NLF")


@pytest.fixture
def real(data_dir):
    return data_dir("treesatai_ts_mini")


def series(dates, value, fmt, step=6):
    """Data whose value tells the date, and its product names."""
    days = [np.datetime64("2019-01-01") + step * i for i in range(dates)]
    data = np.stack([np.full((1, 6, 6), value(i), dtype=np.float32) for i in range(dates)])
    return data, [fmt.format(str(day).replace("-", "")) for day in days]


S1 = "S1A_IW_GRDH_1SDV_{0}T170841_{0}T170906_030639_0382D5_360A"
S2 = "S2A_MSIL2A_{0}T102421_N0213_R065_T32UNC_20200102T115419"


@pytest.fixture
def folder(tmp_path):
    """Three tiles; S2 date i has value 100 + i, S1 date i has 0.01 (i + 1)."""
    (tmp_path / "aerial").mkdir()
    (tmp_path / "sentinel-ts").mkdir()
    (tmp_path / "labels").mkdir()
    for t, name in enumerate(NAMES):
        pixels = np.broadcast_to(np.arange(304, dtype=np.uint16) % 256, (4, 304, 304)).astype(np.uint8)
        place = from_origin(565642.6 + 60 * t, 5770980.4, 0.2, 0.2)
        with rasterio.open(
            tmp_path / f"aerial/{name}.tif", "w", driver="GTiff", width=304, height=304, count=4, dtype="uint8",
            transform=place, crs="EPSG:25832",
        ) as image:  # fmt: skip
            image.write(pixels)
        with h5py.File(tmp_path / f"sentinel-ts/{name}_2019.h5", "w") as file:
            data, products = series(12, lambda i: 100 + i, S2)
            file["sen-2-data"], file["sen-2-products"] = data.repeat(10, axis=1), products
            file["sen-2-masks"] = np.zeros((12, 2, 6, 6), dtype=np.float32)
            for orbit in ("asc", "des"):
                data, products = series(8, lambda i: 0.01 * (i + 1), S1)
                file[f"sen-1-{orbit}-data"], file[f"sen-1-{orbit}-products"] = data.repeat(2, axis=1), products
    (tmp_path / "train_filenames.lst").write_text("\n".join(f"{n}.tif" for n in NAMES[:2]) + "\n")
    (tmp_path / "test_filenames.lst").write_text(f"{NAMES[2]}.tif\n")
    shares = {"Abies": 0.7, "Fagus": 0.07, "Tilia": 0.08}, {"Betula": 1.0}, {"Quercus": 0.9}
    table = {f"{n}.tif": [[g, s] for g, s in by.items()] for n, by in zip(NAMES, shares, strict=True)}
    (tmp_path / "labels/TreeSatBA_v9_60m_multi_labels.json").write_text(json.dumps(table))
    return tmp_path


def edit(folder, tile=0):
    return h5py.File(folder / f"sentinel-ts/{NAMES[tile]}_2019.h5", "a")


def replace(file, key, value):
    del file[key]
    file[key] = value


ALL = ("aerial", "s2", "s1-asc", "s1-des")


def test_real_tiles(real):
    data = TreeSatDataset(real, ALL, max_dates=None)
    assert data.splits == ("train", "test")
    assert (len(data.split("train")), len(data.split("test"))) == (3, 2)
    tile = data[data.names.index("Abies_alba_1_1005_WEFL_NLF")]
    assert {n: tuple(v.shape[1:]) for n, v in tile.values.items()} == {
        "aerial": (300, 300),
        "s2": (10, 6, 6),
        "s1-asc": (2, 6, 6),
        "s1-des": (2, 6, 6),
    }
    assert tile.values["s1-asc"].shape[0] == 60
    assert 40 < tile.values["s2"].shape[0] < 60
    assert tile.days["s2"].max() <= 365
    genera = {data.classes[k] for k in tile.label.nonzero().flatten()}
    assert genera == {"Abies", "Fagus"}
    birch = data[data.names.index("Betula_spec._1_15679_WEFL_NLF")]
    assert {data.classes[k] for k in birch.label.nonzero().flatten()} == {"Betula", "Picea"}  # Quercus 4 %
    assert birch.values["s1-des"].shape[0] == 235


def test_real_tiles_in_a_batch_hold_no_nan_and_sane_units(real):
    data = TreeSatDataset(real, ALL)
    batch = collate([data[i] for i in range(len(data))])
    assert all(torch.isfinite(v).all() for v in batch.values.values())
    aerial, s2, asc, des = fit_statistics(data)
    assert 100 < s2.mean[0] < 1000 < s2.mean[6] < 4000  # forest without cloud: dark in blue, bright beyond red
    assert -14 < asc.mean[0] < -7
    assert asc.mean[1] < asc.mean[0]
    assert des.mean[0] == pytest.approx(asc.mean[0], abs=2)
    assert aerial.mean[0] > aerial.mean[3]
    assert batch.values["s1-des"][batch.valid["s1-des"]].min() > -50  # one pixel is stored as -118 dB


def test_real_aerial_and_series_show_the_same_ground(real):
    """NDVI of the aerial image in 10 m cells goes with summer NDVI of Sentinel-2 only in the right orientation."""
    data = TreeSatDataset(real, ("aerial", "s2"), max_dates=None)
    upright, rotated = [], []
    for i in range(len(data)):
        tile = data[i]
        near, _, _, red = tile.values["aerial"].view(4, 6, 50, 6, 50).mean(dim=(2, 4))
        high = (near - red) / (near + red)
        summer = (tile.days["s2"] > 150) & (tile.days["s2"] < 250)
        s2 = tile.values["s2"][summer]
        low = ((s2[:, 6] - s2[:, 2]) / (s2[:, 6] + s2[:, 2])).median(dim=0).values
        upright.append(np.corrcoef(high.flatten(), low.flatten())[0, 1])
        rotated.append(np.corrcoef(high.flip(0, 1).flatten(), low.flatten())[0, 1])
    assert np.mean(upright) > max(0.15, np.mean(rotated))


def test_evaluation_view_is_central_and_fixed_random_views_differ(folder):
    data = TreeSatDataset(folder, ALL, max_dates=4)
    assert data[0].values["aerial"][0, 0, :3].tolist() == [2, 3, 4]
    offsets = {int(data[0, seed].values["aerial"][0, 0, 0]) for seed in range(12)}
    assert offsets <= {0, 1, 2, 3, 4}
    assert len(offsets) > 2
    assert data[0].days["s2"].equal(data[0].days["s2"])
    assert len({tuple(data[0, seed].days["s2"].tolist()) for seed in range(5)}) > 1
    assert data[0, 7].days["s2"].equal(data[0, 7].days["s2"])


def test_dates_stay_with_their_data(folder):
    data = TreeSatDataset(folder, ("s2", "s1-asc"), max_dates=3)
    for item in (1, (1, 5), (1, 6)):
        tile = data[item]
        assert (tile.values["s2"][:, 0, 0, 0] - 100).long().mul(6).equal(tile.days["s2"])
        linear = 10 ** (tile.values["s1-asc"][:, 0, 0, 0] / 10)
        assert ((linear * 100).round().long() - 1).mul(6).equal(tile.days["s1-asc"])


def test_only_asked_dates_are_read(folder, monkeypatch):
    asked = []
    plain = h5py.Dataset.__getitem__

    def spy(self, item, *rest):
        if self.name == "/sen-2-data":
            asked.append(np.asarray(item))
        return plain(self, item, *rest)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    TreeSatDataset(folder, ("s2",), max_dates=3)[0]
    assert [len(a) for a in asked] == [3]


def test_cloud_and_snow_leave_dates_out(folder):
    with edit(folder) as file:
        masks = np.zeros((12, 10, 6, 6), dtype=np.float32)  # ten channels, as in some real files
        masks[0, 1] = 90  # cloud
        masks[1, 0] = 90  # snow
        masks[2, 1, :1] = 90  # a sixth of the tile
        masks[3, 2:] = 90  # means nothing
        masks[4, 1, :3] = 90
        replace(file, "sen-2-masks", masks)
    assert (TreeSatDataset(folder, ("s2",))[0].days["s2"] / 6).tolist() == [2, 3, *range(5, 12)]
    assert len(TreeSatDataset(folder, ("s2",), max_cloud=0.5)[0].days["s2"]) == 10
    assert len(TreeSatDataset(folder, ("s2",), max_cloud=1)[0].days["s2"]) == 12
    with edit(folder) as file:
        replace(file, "sen-2-masks", np.full((12, 2, 6, 6), 100, dtype=np.float32))
    assert list(TreeSatDataset(folder, ("s2", "s1-asc"))[0].values) == ["s1-asc"]


def test_radar_gaps_are_filled_or_masked_with_their_dates(folder):
    with edit(folder) as file:
        data = file["sen-1-asc-data"][()]
        data[2] = np.nan
        data[3, 0] = np.nan
        data[4, :, 0, :3] = 0
        replace(file, "sen-1-asc-data", data)
    tile = TreeSatDataset(folder, ("s1-asc",))[0]
    assert tile.valid["s1-asc"].tolist() == [True, True, False, False, True, True, True, True]
    assert tile.values["s1-asc"][4].numpy() == pytest.approx(10 * np.log10(0.05), rel=1e-4)
    assert tile.days["s1-asc"].tolist() == [6 * i for i in range(8)]
    linear = TreeSatDataset(folder, ("s1-asc",), radar="linear")
    assert linear.modalities[0].unit == "linear"
    assert linear[0].values["s1-asc"][0].unique().tolist() == pytest.approx([0.01])


def test_an_all_nan_series_is_a_missing_modality(folder):
    with edit(folder) as file:
        replace(file, "sen-1-asc-data", np.full((8, 2, 6, 6), np.nan, dtype=np.float32))
    data = TreeSatDataset(folder, ("s2", "s1-asc"))
    assert list(data[0].values) == ["s2"]
    assert collate([data[0], data[1]]).valid_tiles("s1-asc").tolist() == [False, True]


def test_unsorted_products_are_sorted_with_their_data(folder):
    with edit(folder) as file:
        replace(file, "sen-2-data", file["sen-2-data"][()][::-1])
        replace(file, "sen-2-products", file["sen-2-products"][()][::-1])
    tile = TreeSatDataset(folder, ("s2",), max_dates=None)[0]
    assert tile.days["s2"].tolist() == [6 * i for i in range(12)]
    assert tile.values["s2"][:, 0, 0, 0].tolist() == [100 + i for i in range(12)]


def test_labels_take_genera_above_seven_per_cent_and_drop_empty_tiles(folder):
    data = TreeSatDataset(folder, ("s2",))
    assert {data.classes[k] for k in data.labels()[0].nonzero().flatten()} == {"Abies", "Tilia"}
    path = folder / "labels/TreeSatBA_v9_60m_multi_labels.json"
    table = json.loads(path.read_text())
    table[f"{NAMES[1]}.tif"] = [["Betula", 0.05]]
    path.write_text(json.dumps(table))
    assert TreeSatDataset(folder, ("s2",)).names == [NAMES[0], NAMES[2]]
    unlabelled = TreeSatDataset(folder, ("s2",), labels=False)
    assert len(unlabelled) == 3
    assert unlabelled.task is None


def test_places_without_reading_pixels(folder):
    data = TreeSatDataset(folder)
    assert data.places()[1] == Geo((10.0, 0.0, 565703.0, 0.0, -10.0, 5770980.0), "EPSG:25832") == data[1].geo


def test_renamed_files_without_a_year(folder):
    (folder / "sentinel").mkdir()
    for name in NAMES:
        shutil.move(folder / f"sentinel-ts/{name}_2019.h5", folder / f"sentinel/{name}.h5")
    assert len(TreeSatDataset(folder, ("s2",))[0].days["s2"]) == 12


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / f"aerial/{NAMES[1]}.tif").unlink(), f"1 files are missing.*\n.*{NAMES[1]}.tif"),
        (lambda f: (f / f"sentinel-ts/{NAMES[1]}_2019.h5").unlink(), f"{NAMES[1]}_<year>.h5"),
        (lambda f: [p.unlink() for p in f.glob("*.lst")], "no train_filenames.lst"),
        (lambda f: (f / "labels/TreeSatBA_v9_60m_multi_labels.json").unlink(), "no such file"),
        (lambda f: truncate(f / "labels/TreeSatBA_v9_60m_multi_labels.json"), "is not JSON"),
        (
            lambda f: (f / "test_filenames.lst").write_text("Tilia_1.tif"),
            r"no label for 1 of 3 tiles, e.g. Tilia_1.tif",
        ),
    ],
)
def test_a_folder_that_is_incomplete_says_what_is_missing(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        TreeSatDataset(folder)


def drop(key):
    def spoil(folder):
        with edit(folder) as file:
            del file[key]

    return spoil


def put(key, value):
    def spoil(folder):
        with edit(folder) as file:
            replace(file, key, value)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("sen-2-data"), "no 'sen-2-data' in the file; it has sen-1-asc-data"),
        (drop("sen-2-masks"), "no 'sen-2-masks'"),
        (put("sen-2-data", np.zeros((12, 9, 6, 6))), r"\(12, 9, 6, 6\), \(dates, 10, 6, 6\) wanted: bands B02"),
        (put("sen-1-asc-data", np.zeros((7, 2, 6, 6))), "7 dates in sen-1-asc-data but 8 in sen-1-asc-products"),
        (put("sen-2-masks", np.zeros((12, 1, 6, 6))), "sen-2-masks has shape"),
        (put("sen-2-products", ["S2A_nonsense"] * 12), "a name without a date"),
        (
            lambda f: truncate(f / f"sentinel-ts/{NAMES[0]}_2019.h5"),
            "cannot be read, the file is damaged or incomplete",
        ),
        (lambda f: truncate(f / f"aerial/{NAMES[0]}.tif"), r"aerial.*cannot be read, the file is damaged"),
    ],
)
def test_a_file_that_breaks_its_promise_names_itself(folder, spoil, message):
    spoil(folder)
    data = TreeSatDataset(folder, ALL)
    assert data[1].values.keys() == set(ALL)  # the others are fine
    with pytest.raises(ValueError, match=message) as error:
        data[0]
    assert NAMES[0] in str(error.value)


def test_an_image_of_another_size_is_refused(folder):
    with rasterio.open(
        folder / f"aerial/{NAMES[0]}.tif",
        "w",
        driver="GTiff",
        width=200,
        height=200,
        count=3,
        dtype="uint8",
        transform=from_origin(0, 0, 0.2, 0.2),
    ) as image:
        image.write(np.zeros((3, 200, 200), dtype=np.uint8))
    with pytest.raises(ValueError, match="3 bands of 200 x 200 pixels; 4 "):
        TreeSatDataset(folder)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"modalities": ["s3"]}, "it has aerial, s2, s1-asc, s1-des"), ({"radar": "db"}, "'dB' or 'linear'")],
)
def test_options_are_checked(folder, options, message):
    with pytest.raises(ValueError, match=message):
        TreeSatDataset(folder, **options)
