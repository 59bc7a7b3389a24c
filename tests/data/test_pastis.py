"""PASTIS-HD: archives in its layout, read back value by value."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import rasterio
import rasterio.features
import rasterio.warp
import torch

from fusion.data import Geo, PastisDataset, collate, fraction, open_data, partition
from fusion.data.check import check

from .pastis_archive import DATES, FIRST, LEFT, TOP, write_pastis

SPOT = "DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019/SPOT6_RVB_1M00_2019_{}.tif"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Read only; tests that change something take ``copy``."""
    folder = tmp_path_factory.mktemp("pastis") / "PASTIS-HD"
    write_pastis(folder)
    return folder


@pytest.fixture
def copy(archive, tmp_path):
    return shutil.copytree(archive, tmp_path / "PASTIS-HD")


def stored(folder, part, name):
    return np.load(folder / f"DATA_{part}/{part}_{name}.npy")


def spot(folder, name):
    with rasterio.open(folder / SPOT.format(name)) as image:
        return image.read()


def edit(folder, change):
    """Changes the features of the metadata."""
    path = folder / "metadata.geojson"
    collection = json.loads(path.read_text())
    change(collection["features"])
    path.write_text(json.dumps(collection))


def test_every_value_date_and_class_is_that_of_the_files(archive):
    data = PastisDataset(archive, max_dates=None)
    maps = PastisDataset(archive, labels="map")
    assert data.grid == (32, 32)
    assert [(m.name, m.kind, m.bands[-1], m.resolution, m.patch_size, m.unit) for m in data.modalities] == [
        ("spot", "image", "B", 1.0, 40, "8 bit"),
        ("s2", "series", "B12", 10.0, 4, "reflectance x 10000"),
        ("s1-asc", "series", "VV-VH", 10.0, 4, "dB"),
        ("s1-des", "series", "VV-VH", 10.0, 4, "dB"),
    ]
    for i, name in enumerate(data.names):
        tile = data[i]
        assert np.array_equal(tile.values["spot"], spot(archive, name))
        for modality, part in (("s2", "S2"), ("s1-asc", "S1A"), ("s1-des", "S1D")):
            if (modality, i) == ("s1-des", 5):
                assert modality not in tile.values
                continue
            assert tile.values[modality].dtype == torch.float32
            assert np.array_equal(tile.values[modality], stored(archive, part, name))
            dates = tile.origin + tile.days[modality].numpy()
            assert dates.astype(str).tolist() == list(DATES[part])
        target = np.load(archive / f"ANNOTATIONS/TARGET_{name}.npy")[0]
        assert np.array_equal(maps[i].label, target)
        assert (tile.label.nonzero().flatten() + 1).tolist() == sorted(set(target.flat) - {0, 19})
    assert data.classes[0] == "Meadow"
    assert data.classes[17] == "Sorghum"
    assert (maps.classes[0], maps.classes[1], len(maps.classes), maps.ignore_index) == ("Background", "Meadow", 19, 19)
    assert maps[0].label.dtype == torch.int64
    assert PastisDataset(archive, labels=None).task is None


def test_days_of_all_series_count_from_the_january_before_the_first_of_them(archive):
    tile = PastisDataset(archive)[0]
    assert tile.origin == np.datetime64("2018-01-01")
    assert tile.days["s1-asc"][0] == 245  # 3 September
    alone = PastisDataset(archive, ["s2"])[0]
    assert (alone.origin, alone.days["s2"].tolist()) == (tile.origin, tile.days["s2"].tolist())


def test_dates_before_september_2018_and_after_734_days_are_dates_like_others(copy):
    def change(features):
        features[0]["properties"]["dates-S2"] = dict(
            zip(map(str, range(6)), (20191004, 20161231, 20170101, 20220301, 20180831, 20180901), strict=True)
        )

    edit(copy, change)
    tile = PastisDataset(copy, ["s2"])[0]
    assert tile.origin == np.datetime64("2016-01-01")
    dates = (tile.origin + tile.days["s2"].numpy()).astype(str).tolist()
    assert dates == ["2016-12-31", "2017-01-01", "2018-08-31", "2018-09-01", "2019-10-04", "2022-03-01"]
    assert np.array_equal(tile.values["s2"], stored(copy, "S2", FIRST)[[1, 2, 4, 5, 0, 3]])


def test_keys_of_dates_count_as_numbers(copy):
    dates = {str(i): 20190101 + i for i in range(12)}

    def change(features):
        features[0]["properties"]["dates-S2"] = {key: dates[key] for key in sorted(dates)}  # 0, 1, 10, 11, 2

    edit(copy, change)
    np.save(
        copy / f"DATA_S2/S2_{FIRST}.npy",
        np.arange(12, dtype=np.int16)[:, None, None, None] * np.ones((1, 10, 128, 128), np.int16),
    )
    tile = PastisDataset(copy, ["s2"])[0]
    assert (tile.days["s2"] - tile.days["s2"][0]).tolist() == list(range(12))
    assert tile.values["s2"][:, 0, 0, 0].tolist() == list(range(12))


def test_dates_that_are_text_of_any_kind(copy):
    def change(features):
        features[0]["properties"]["dates-S2"] = str(features[0]["properties"]["dates-S2"])  # with single quotes

    before = PastisDataset(copy, ["s2"])[0].days["s2"].tolist()
    edit(copy, change)
    assert PastisDataset(copy, ["s2"])[0].days["s2"].tolist() == before


def test_the_evaluation_view_is_fixed_and_random_views_draw_dates(archive):
    data = PastisDataset(archive, ["s2", "s1-asc"], max_dates=3)
    assert data[0].days["s2"].equal(data[0].days["s2"])
    drawn = {tuple(data[0, seed].days["s2"].tolist()) for seed in range(8)}
    assert len(drawn) > 2
    assert all(list(days) == sorted(days) and len(days) == 3 for days in drawn)
    assert data[0, 3].days["s1-asc"].equal(data[0, 3].days["s1-asc"])
    values = stored(archive, "S2", FIRST)
    days = [int((np.datetime64(d) - np.datetime64("2018-01-01")).astype(int)) for d in DATES["S2"]]
    tile = data[0, 5]
    for day, value in zip(tile.days["s2"].tolist(), tile.values["s2"], strict=True):
        assert np.array_equal(value, values[days.index(day)])


def test_only_chosen_dates_are_read(copy):
    """The others are NaN, which would be seen."""
    values = stored(copy, "S1A", FIRST)
    kept = PastisDataset(copy, ["s1-asc"], max_dates=2)[0].days["s1-asc"].tolist()
    days = PastisDataset(copy, ["s1-asc"])[0].days["s1-asc"].tolist()
    values[[i for i, day in enumerate(days) if day not in kept]] = np.nan
    np.save(copy / f"DATA_S1A/S1A_{FIRST}.npy", values)
    tile = PastisDataset(copy, ["s1-asc"], max_dates=2)[0]
    assert tile.days["s1-asc"].tolist() == kept
    assert tile.valid["s1-asc"].all()
    assert PastisDataset(copy, ["s1-asc"])[0].valid["s1-asc"].sum() == 2


def test_a_cut_patch_is_the_patch(archive):
    whole, parts = PastisDataset(archive), PastisDataset(archive, cut=4)
    assert len(parts) == 16 * len(whole)
    assert parts.grid == (8, 8)
    assert parts.names[6] == f"{FIRST}_r1_c2"
    assert parts.blocks()[[0, 15, 16]].tolist() == [str(FIRST), str(FIRST), whole.names[1]]
    tile, cut = whole[1], [parts[16 + k] for k in range(16)]
    for name, values in tile.values.items():
        rows = [torch.cat([cut[4 * r + c].values[name] for c in range(4)], dim=-1) for r in range(4)]
        assert torch.equal(torch.cat(rows, dim=-2), values)
    assert torch.equal(torch.stack([t.label for t in cut]).amax(dim=0), tile.label)
    assert any(not torch.equal(t.label, tile.label) for t in cut)
    maps, cut_maps = PastisDataset(archive, labels="map"), PastisDataset(archive, labels="map", cut=4)
    assert cut_maps.label_shape == (32, 32)
    assert torch.equal(cut_maps[16 + 6].label, maps[1].label[32:64, 64:96])
    assert set(parts.split("test").names) == {f"{FIRST + 4}_r{r}_c{c}" for r in range(4) for c in range(4)}


def test_places_are_those_of_the_metadata(archive):
    data = PastisDataset(archive, cut=2)
    assert data.places()[0] == Geo((10.0, 0.0, LEFT, 0.0, -10.0, TOP), "EPSG:2154") == data[0].geo
    assert data.places()[4 + 3] == Geo((10.0, 0.0, LEFT + 2640, 0.0, -10.0, TOP - 640), "EPSG:2154")


def turned(degrees):
    """Corners of a square of 1280 m about its upper left one."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.array([[0, 0], [1280, 0], [1280, -1280], [0, -1280], [0, 0]]) @ turn.T + [LEFT, TOP]


@pytest.mark.parametrize("degrees", [0, 4.3, -4.3])
@pytest.mark.parametrize("outline", ["corners", "steps"])
def test_patches_may_be_turned_and_drawn_in_steps(copy, degrees, outline):
    polygon = {"type": "Polygon", "coordinates": [turned(degrees).tolist()]}
    if outline == "steps":
        grid = rasterio.transform.from_origin(LEFT - 400, TOP + 400, 10, 10)
        inside = rasterio.features.rasterize([(polygon, 1)], (220, 220), transform=grid, dtype="uint8")
        (polygon,) = (shape for shape, value in rasterio.features.shapes(inside, transform=grid) if value)
        assert len(polygon["coordinates"][0]) > 50 or not degrees

    def change(features):
        features[0]["geometry"] = polygon

    edit(copy, change)
    place = PastisDataset(copy, cut=2).places()
    a, b, x, d, e, y = place[0].transform
    radians = np.radians(degrees)
    within = 0.02 if outline == "steps" else 1e-5
    assert (a, d) == pytest.approx((10 * np.cos(radians), 10 * np.sin(radians)), abs=within)
    assert (b, e) == pytest.approx((d, -a))
    assert (x, y) == pytest.approx((LEFT, TOP), abs=5 if outline == "steps" else 1e-4)
    assert place[3].transform[2] == pytest.approx(x + 64 * a + 64 * b)
    assert place[3].transform[5] == pytest.approx(y + 64 * d + 64 * e)


@pytest.mark.parametrize("outline", ["corners", "steps"])
@pytest.mark.parametrize(("zone", "tile"), [(30, "T30UXV"), (30, None), (32, "T32ULU"), (31, "T31TFJ")])
def test_a_patch_that_is_straight_in_utm_is_placed_there(copy, zone, tile, outline):
    left, top = {30: (660_000, 5_380_000), 31: (650_010, 4_830_000), 32: (330_000, 5_350_020)}[zone]
    x, y = rasterio.warp.transform(
        f"EPSG:{32600 + zone}", "EPSG:2154", [left, left + 1280, left + 1280, left], [top, top, top - 1280, top - 1280]
    )
    polygon = {"type": "Polygon", "coordinates": [[*zip(x, y, strict=True), (x[0], y[0])]]}
    if outline == "steps":
        grid = rasterio.transform.from_origin(10 * (min(x) // 10) - 100, 10 * (max(y) // 10) + 100, 10, 10)
        inside = rasterio.features.rasterize([(polygon, 1)], (180, 180), transform=grid, dtype="uint8")
        (polygon,) = (shape for shape, value in rasterio.features.shapes(inside, transform=grid) if value)

    def change(features):
        features[0]["geometry"] = {"type": "MultiPolygon", "coordinates": [polygon["coordinates"]]}
        features[0]["properties"]["TILE"] = tile

    edit(copy, change)
    place = PastisDataset(copy, cut=2).places()
    assert (place[3].crs, place[3].transform[:2]) == (f"EPSG:{32600 + zone}", (10.0, 0.0))
    assert (place[3].transform[2], place[3].transform[5]) == pytest.approx(
        (left + 640, top - 640), abs=10 if outline == "steps" else 0
    )


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        {"type": "Point", "coordinates": [0, 0]},
        {"type": "Polygon", "coordinates": [[[0, 0], [1374, 0], [1374, 1374], [0, 1374], [0, 0]]]},  # a box around it
        {"type": "Polygon", "coordinates": [[[0, 0], [2560, 0], [2560, 640], [0, 640], [0, 0]]]},
        {"type": "Polygon", "coordinates": [[[2, 47], [2.1, 47], [2.1, 47.1], [2, 47.1], [2, 47]]]},
    ],
)
def test_an_outline_that_is_no_patch_is_no_place_and_is_told(copy, geometry):
    def change(features):
        features[1]["geometry"] = geometry

    edit(copy, change)
    data = PastisDataset(copy, ["s2"])
    assert data[1].geo is None
    assert data[0].geo is not None
    assert "1 patches, e.g. 10001, have no square of 1280 m as geometry: place unknown" in data.notes()


def folds(data, split):
    return sorted({1 + (int(name.partition("_")[0]) - FIRST) % 5 for name in data.split(split).names})


@pytest.mark.parametrize(
    ("test_fold", "train", "val"),
    [(5, [1, 2, 3], [4]), (4, [1, 2, 5], [3]), (3, [1, 4, 5], [2]), (2, [3, 4, 5], [1]), (1, [2, 3, 4], [5])],
)
def test_folds_rotate(archive, test_fold, train, val):
    data = PastisDataset(archive, test_fold=test_fold)
    assert (folds(data, "train"), folds(data, "val"), folds(data, "test")) == (train, val, [test_fold])
    assert sum(len(data.split(split)) for split in data.splits) == len(data)


def test_few_trains_on_one_fold_tests_on_the_others_and_says_what_validation_is(archive):
    data = PastisDataset(archive, few=True)
    assert (folds(data, "train"), folds(data, "val"), folds(data, "test")) == ([5], [5], [1, 2, 3, 4])
    assert "validation is fold 5, on which the model trains" in data.notes()[0]
    assert folds(PastisDataset(archive, few=True, test_fold=2), "train") == [2]


def test_a_validation_on_the_training_tiles_is_used_only_where_it_is_named(archive):
    data = PastisDataset(archive, few=True)
    assert set(partition(data)) == {"train", "test", "all"}
    parts = partition(data, {"val": "val"})
    assert parts["val"].names == parts["train"].names
    with pytest.raises(ValueError, match="share 1 tiles"):
        partition(data, {"test": "train"})
    with pytest.raises(ValueError, match="share 1 tiles"):
        partition(data, {"train": "val"})


def test_labels_are_read_without_imagery_and_few_can_be_drawn(archive, copy):
    data = PastisDataset(copy, ["s2"])
    for path in (copy / "DATA_S2").iterdir():
        path.unlink()
    assert data.labels().shape == (6, 18)
    assert torch.equal(data.labels(), PastisDataset(archive).labels())
    assert len(fraction(data, 0.5)) in (3, 4)


def test_a_missing_orbit_is_a_missing_modality(archive):
    data = PastisDataset(archive)
    batch = collate([data[4], data[5]])
    assert batch.valid_tiles("s1-des").tolist() == [True, False]
    assert batch.valid_tiles("s1-asc").all()
    assert "s1-des: no file for 1 of 6 patches, e.g. 10005" in data.notes()


def test_gaps_of_backscatter_are_filled_or_masked(copy):
    values = stored(copy, "S1A", FIRST)
    values[0] = np.nan
    values[1, 0, :4] = -np.inf
    np.save(copy / f"DATA_S1A/S1A_{FIRST}.npy", values)
    tile = PastisDataset(copy, ["s1-asc"])[0]
    assert tile.valid["s1-asc"].tolist() == [False, True, True, True, True]
    rest = values[1, 0, 4:].astype(np.float64).mean()
    assert tile.values["s1-asc"][1, 0, :4].numpy() == pytest.approx(rest, rel=1e-5)


def test_tiles_go_to_other_processes(archive):
    data = PastisDataset(archive, ["s2"], labels="map", cut=2).split("train")
    data[0]
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again[3].values["s2"], data[3].values["s2"])
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=2, collate_fn=collate)
    batches = list(loader)
    assert torch.equal(batches[1].values["s2"][2], data[6].values["s2"])
    assert torch.equal(batches[1].labels[2], data[6].label)


def test_the_folder_is_recognised_and_reported(archive):
    data = open_data(archive, modalities=["s2", "s1-asc"], cut=2)
    assert isinstance(data, PastisDataset)
    report = check(data)
    assert report.ok, report
    assert "24 tiles, 24 read; crs EPSG:2154; labels: multilabel, Meadow" in str(report)
    with pytest.raises(ValueError, match="reader of PASTIS-HD: unknown setting folds; it has modalities, labels"):
        open_data(archive, folds=3)
    with pytest.raises(ValueError, match=f"{archive} is a folder of PASTIS-HD: give that"):
        open_data(archive.parent)
    with pytest.raises(ValueError, match=f"{archive} is a folder of PASTIS-HD: give that"):
        open_data(archive / "DATA_S2")
