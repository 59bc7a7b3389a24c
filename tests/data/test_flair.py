"""FLAIR #2: archives in its layout, read back value by value."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import rasterio
import torch

from fusion.data import FlairDataset, Geo, collate, fraction, open_data, partition
from fusion.data.check import check

from .flair_archive import CLOUDY, DATES, LEFT, TEST, TOP, TRAIN, write_flair

FIRST = "D004_2021/Z1_NN"
CENTROIDS = "flair-2_centroids_sp_to_patch.json"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Read only; tests that change something take ``copy``."""
    folder = tmp_path_factory.mktemp("flair") / "FLAIR"
    write_flair(folder, images=3)
    return folder


@pytest.fixture
def copy(archive, tmp_path):
    return shutil.copytree(archive, tmp_path / "FLAIR")


def pixels(folder, kind, number, part="train"):
    name = {"aerial": "img/IMG", "labels": "msk/MSK"}[kind]
    prefix = "flair" if part == "train" else "flair_2"
    (path,) = (folder / f"{prefix}_{kind}_{part}").glob(f"*/*/{name}_{number:06d}.tif")
    with rasterio.open(path) as image:
        return image.read()


def series(folder, domain=FIRST, part="train"):
    prefix = "flair" if part == "train" else "flair_2"
    (path,) = (folder / f"{prefix}_sen_{part}" / domain / "sen").glob("*_data.npy")
    return path, np.load(path), np.load(str(path).replace("_data", "_masks"))


def move(folder, number, row, column):
    table = json.loads((folder / CENTROIDS).read_text())
    table[f"IMG_{number:06d}.tif"] = [row, column]
    (folder / CENTROIDS).write_text(json.dumps(table))


def classes_of(mask):
    """Of the mask values, as the paper merges them; 255 for none."""
    return np.where(mask == 0, 255, np.minimum(mask.astype(np.int64), 13) - 1)


def test_every_value_date_and_class_is_that_of_the_files(archive):
    data, maps = FlairDataset(archive, max_cloud=1), FlairDataset(archive, labels="map", max_cloud=1)
    assert data.grid == (10, 10)
    assert [(m.name, m.kind, m.bands[-1], m.resolution, m.patch_size, m.unit) for m in data.modalities] == [
        ("aerial", "image", "height", 0.2, 50, "8 bit"),
        ("s2", "series", "B12", 10.0, 1, "reflectance x 10000"),
    ]
    centroids = json.loads((archive / CENTROIDS).read_text())
    for i, name in enumerate(data.names):
        number, domain = int(name[-6:]), name[:9]
        part = "test" if domain in TEST else "train"
        tile = data[i]
        assert np.array_equal(tile.values["aerial"], pixels(archive, "aerial", number, part)[:, 6:506, 6:506])
        row, column = centroids[f"IMG_{number:06d}.tif"]
        values = series(archive, f"{domain}/Z1_NN", part)[1]
        assert np.array_equal(tile.values["s2"], values[:, :, row - 5 : row + 5, column - 5 : column + 5])
        assert tile.values["s2"].dtype == torch.float32
        assert tile.origin == np.datetime64(f"{domain[-4:]}-01-01")
        assert (tile.origin + tile.days["s2"].numpy()).astype(str).tolist() == [domain[-4:] + d[4:] for d in DATES]
        mask = pixels(archive, "labels", number, part)[0]
        assert tile.label.nonzero().flatten().tolist() == sorted(set(classes_of(mask).flat) - {255})
        assert np.array_equal(maps[i].label, classes_of(mask)[6:506, 6:506])
        assert not tile.observed
    assert (data.classes[0], data.classes[12], maps.ignore_index, maps[0].label.dtype) == (
        "building",
        "other",
        255,
        torch.int64,
    )
    assert FlairDataset(archive, labels=None).task is None


@pytest.mark.parametrize(("value", "expected"), [(0, 255), (1, 0), (12, 11), (13, 12), (14, 12), (19, 12)])
def test_mask_values(copy, value, expected):
    path = copy / f"flair_labels_train/{FIRST}/msk/MSK_000001.tif"
    with rasterio.open(path, "r+") as image:
        image.write(np.full((1, 512, 512), value, np.uint8))
    assert FlairDataset(copy, labels="map")[0].label.unique().tolist() == [expected]
    presence = FlairDataset(copy)[0].label.nonzero().flatten().tolist()
    assert presence == ([] if expected == 255 else [expected])


def test_a_random_view_cuts_image_and_map_alike_and_leaves_sentinel_2(archive):
    data = FlairDataset(archive, labels="map")
    image, mask = pixels(archive, "aerial", 1), classes_of(pixels(archive, "labels", 1)[0])
    corners = set()
    for seed in range(20):
        tile = data[0, seed]
        found = [
            (top, left)
            for top in range(13)
            for left in range(13)
            if np.array_equal(tile.values["aerial"], image[:, top : top + 500, left : left + 500])
        ]
        assert len(found) == 1
        top, left = found[0]
        assert np.array_equal(tile.label, mask[top : top + 500, left : left + 500])
        assert torch.equal(tile.values["s2"], data[0].values["s2"])
        corners.add(found[0])
    assert len(corners) > 10
    assert torch.equal(data[0, 3].label, data[0, 3].label)
    narrowed = data.with_classes(["other", "building"])
    assert set(narrowed[0, 3].label.unique().tolist()) <= {0, 1, 255}
    assert torch.equal(narrowed[0, 3].label == 0, data[0, 3].label == 12)


@pytest.mark.parametrize(
    ("row", "column"),
    [(2, 9), (9, 3), (26, 9), (9, 34), (0, 0), (28, 36), (5, 5), (23, 31)],
    ids=["north", "west", "south", "east", "north west", "south east", "touches north west", "touches south east"],
)
def test_what_lies_beyond_the_edge_is_not_observed(copy, row, column):
    move(copy, 1, row, column)
    values = series(copy)[1]
    tile = FlairDataset(copy, ["s2"], max_cloud=1)[0]
    rows, columns = np.arange(row - 5, row + 5), np.arange(column - 5, column + 5)
    inside = ((rows >= 0) & (rows < 28))[:, None] & ((columns >= 0) & (columns < 36))
    assert tile.valid["s2"].all()
    found = tile.values["s2"].numpy()
    expected = values[:, :, rows.clip(0, 27)[:, None], columns.clip(0, 35)]
    assert np.array_equal(found[:, :, inside], expected[:, :, inside])
    if inside.all():
        assert not tile.observed
        return
    observed = tile.observed["s2"].numpy()
    assert (observed == inside).all()
    mean = expected[:, :, inside].astype(np.float64).mean(axis=2)
    assert found[:, :, ~inside] == pytest.approx(mean[:, :, None].repeat((~inside).sum(), 2), rel=1e-5)


def test_dates_under_cloud_or_snow_are_left_out_and_covered_pixels_take_the_mean(copy):
    path, values, masks = series(copy)
    masks[:] = 0
    masks[0, 1, 3:8, 4:14] = 60  # half of the window of image 1, rows 3 to 12 and columns 4 to 13
    masks[1, 0, 3:9, 4:14] = 60  # six tenths
    masks[2, 1, 3, 4] = 59
    masks[3, 0, 3, 4] = 100
    masks[4] = 100
    np.save(str(path).replace("_data", "_masks"), masks)
    origin = np.datetime64("2021-01-01")

    def dates(**options):
        tile = FlairDataset(copy, ["s2"], **options)[0]
        return (origin + tile.days["s2"].numpy()).astype(str).tolist()

    assert dates() == [DATES[k] for k in (0, 2, 3, 5)]
    assert dates(max_cloud=0.6) == [DATES[k] for k in (0, 1, 2, 3, 5)]
    assert dates(max_cloud=0.01) == [DATES[k] for k in (2, 3, 5)]
    assert dates(max_cloud=0) == [DATES[k] for k in (2, 5)]
    assert dates(max_cloud=1) == list(DATES)
    tile = FlairDataset(copy, ["s2"])[0]
    window = values[0, :, 3:13, 4:14].astype(np.float64)
    assert np.array_equal(tile.values["s2"][0, :, 5:], window[:, 5:])
    assert tile.values["s2"][0, :, 0, 0].numpy() == pytest.approx(window[:, 5:].mean(axis=(1, 2)), rel=1e-5)
    assert tile.observed["s2"][0, 0, :, 0].tolist() == [False] * 5 + [True] * 5
    assert not FlairDataset(copy, ["s2"], max_cloud=1)[0].observed


def test_a_window_under_cloud_all_the_year_is_a_missing_modality(copy):
    path, _, masks = series(copy)
    np.save(str(path).replace("_data", "_masks"), np.full_like(masks, 100))
    data = FlairDataset(copy)
    assert list(data[0].values) == ["aerial"]
    assert collate([data[0], data[3]]).valid_tiles("s2").tolist() == [False, True]


def test_the_cloudy_date_of_the_archive_is_left_out(archive):
    data = FlairDataset(archive)
    left_out = (np.datetime64(DATES[CLOUDY]) - np.datetime64("2021-01-01")).astype(int)
    assert left_out not in data[0].days["s2"].tolist()


def test_the_evaluation_view_is_fixed_and_random_views_draw_dates(archive):
    data = FlairDataset(archive, ["s2"], max_dates=2)
    assert data[0].days["s2"].equal(data[0].days["s2"])
    assert len({tuple(data[0, seed].days["s2"].tolist()) for seed in range(8)}) > 2
    assert data[0, 3].days["s2"].equal(data[0, 3].days["s2"])


def test_products_that_are_not_sorted_are_sorted_with_their_data(copy):
    path, values, masks = series(copy)
    order = [3, 0, 5, 1, 4, 2]
    np.save(path, values[order])
    np.save(str(path).replace("_data", "_masks"), masks[order])
    products = path.with_name(path.name.replace("_data.npy", "_products.txt"))
    lines = products.read_text().splitlines()
    before = FlairDataset(copy, ["s2"], max_cloud=1)[0]
    products.write_text("\n".join(lines[k] for k in order))
    after = FlairDataset(copy, ["s2"], max_cloud=1)[0]
    assert after.days["s2"].tolist() == sorted(before.days["s2"].tolist())
    assert np.array_equal(after.values["s2"], values[:, :, 3:13, 4:14])


def domains(data, split):
    return {name[:9] for name in data.split(split).names}


def test_validation_is_whole_domains_of_the_training_folders(archive, tmp_path):
    data = FlairDataset(archive)
    assert domains(data, "test") == set(TEST)
    assert domains(data, "train") | domains(data, "val") == set(TRAIN)
    assert len(domains(data, "val")) == 1
    assert not domains(data, "train") & domains(data, "val")
    assert data.notes() == [f"validation domains: {', '.join(domains(data, 'val'))}"]
    assert set(partition(data)) == {"train", "val", "test", "all"}
    chosen = {frozenset(domains(FlairDataset(archive, seed=seed), "val")) for seed in range(8)}
    assert len(chosen) > 1
    assert domains(FlairDataset(archive, seed=3), "val") == domains(FlairDataset(archive, seed=3), "val")
    write_flair(tmp_path, train=[f"D{k:03d}_2020" for k in range(10)], images=1)
    assert len(domains(FlairDataset(tmp_path), "val")) == 2


def test_one_training_domain_has_no_validation(tmp_path):
    write_flair(tmp_path, train=TRAIN[:1])
    data = FlairDataset(tmp_path)
    assert data.splits == ("train", "test")
    assert data.notes() == ["the training folders hold one domain only: there is no validation split"]


@pytest.mark.parametrize("spelling", ["flair_2_", "flair-2_", "flair_2_toy_"])
def test_every_spelling_is_read(copy, spelling):
    for kind in ("aerial", "sen", "labels"):
        (copy / f"flair_2_{kind}_test").rename(copy / f"{spelling}{kind}_test2")
        (copy / f"{spelling}{kind}_test2").rename(copy / f"{spelling}{kind}_test")
    (copy / CENTROIDS).rename(copy / f"{spelling.replace('toy_', '')}centroids_sp_to_patch.json")
    assert len(FlairDataset(copy)) == 12


def test_a_part_or_a_modality_is_enough(copy):
    shutil.rmtree(copy / "flair_2_aerial_test")
    shutil.rmtree(copy / "flair_2_sen_test")
    shutil.rmtree(copy / "flair_2_labels_test")
    assert FlairDataset(copy).splits == ("train", "val")
    shutil.rmtree(copy / "flair_sen_train")
    (copy / CENTROIDS).unlink()
    assert list(FlairDataset(copy, ["aerial"])[0].values) == ["aerial"]
    shutil.rmtree(copy / "flair_labels_train")
    assert len(FlairDataset(copy, ["aerial"], labels=None)) == 9


def test_places_are_those_of_the_images(archive):
    data = FlairDataset(archive)
    place = Geo((10.0, 0.0, LEFT + 121.2, 0.0, -10.0, TOP - 1.2), "EPSG:2154")
    assert data.places()[0] == place == data[0].geo
    assert FlairDataset(archive, ["s2"]).places()[1].transform[2] == LEFT + 241.2


def test_presence_is_read_once_for_all_views_and_not_at_the_start(copy):
    data = FlairDataset(copy, ["s2"])
    train = data.split("train")
    labels = train.labels()
    assert fraction(data, 0.5)
    for path in copy.glob("flair*labels*/*/*/msk/*.tif"):
        path.unlink()
    assert torch.equal(data.split("train").labels(), labels)


def test_an_area_is_opened_once_and_not_sent_to_other_processes(archive):
    data = FlairDataset(archive, labels="map")
    first, second = data[0], data[1]
    assert len(data._arrays._handles) == 2  # data and masks of one area
    assert first.values["s2"].shape == second.values["s2"].shape
    again = pickle.loads(pickle.dumps(data.split("train")))
    assert len(again._arrays._handles) == 0
    assert torch.equal(again[0].values["s2"], data.split("train")[0].values["s2"])
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=2, collate_fn=collate)
    batches = list(loader)
    assert torch.equal(batches[1].values["aerial"][2], data[6].values["aerial"])
    assert torch.equal(batches[1].labels[2], data[6].label)


def test_the_folder_is_recognised_and_reported(archive):
    data = open_data(archive, labels="map")
    assert isinstance(data, FlairDataset)
    report = check(data)
    assert report.ok, report
    assert "12 tiles, 12 read; crs EPSG:2154; labels: multiclass, building" in str(report)
    assert "! validation domains: D0" in str(report)
    with pytest.raises(ValueError, match=f"{archive} is a folder of FLAIR #2: give that"):
        open_data(archive.parent)
    with pytest.raises(ValueError, match=f"{archive} is a folder of FLAIR #2: give that"):
        open_data(archive / "flair_sen_train")


def test_an_area_is_a_block_of_ground(archive):
    data = FlairDataset(archive)
    blocks = data.blocks()
    assert len(set(blocks)) == len(data) / 3  # three images an area
    assert all(name.startswith(f"{block}_") for name, block in zip(data.names, blocks, strict=True))
