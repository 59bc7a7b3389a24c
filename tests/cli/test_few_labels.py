"""A folder of whose tiles few have labels, in a vector file: what learns without labels sees all of them."""

from __future__ import annotations

import json

import geopandas
import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin
from shapely.geometry import box

from fusion.cli import main
from fusion.data import open_data, open_unlabelled

SMALL = ["--size", "tiny", "--model.dim", "16", "--model.heads", "2", "--model.depth", "1"]
ONE_EPOCH = ["--training.epochs", "1", "--training.batch_size", "8"]
SIDE, WEST, NORTH, CRS = 64, 500_000.0, 5_600_000.0, "EPSG:32631"  # pixels of 10 m: 8 x 8 tiles of 80 m


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every third row and column of tiles has a field in it: 9 of 64."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    pixels = rng.normal(100, 20, (3, SIDE, SIDE)).astype(np.float32)
    corners = [(row, column) for row in range(0, 8, 3) for column in range(0, 8, 3)]
    fields = [
        box(WEST + 80 * column, NORTH - 80 * row - 60, WEST + 80 * column + 60, NORTH - 80 * row)
        for row, column in corners
    ]
    crops = ["maize" if k % 2 else "wheat" for k in range(len(corners))]
    for (row, column), crop in zip(corners, crops, strict=True):
        pixels[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 100 * (crop == "wheat")
    geopandas.GeoDataFrame({"crop": crops}, geometry=fields, crs=CRS).to_file(folder / "fields.gpkg")
    place = from_origin(WEST, NORTH, 10, 10)
    with rasterio.open(
        folder / "north.tif", "w", driver="GTiff", count=3, height=SIDE, width=SIDE, dtype="float32", crs=CRS,
        transform=place,
    ) as file:  # fmt: skip
        file.write(pixels)
    description = {
        "files": "{scene}.tif",
        "tile": 80,
        "patch": 20,
        "modalities": {"aerial": {"axes": ["band", "y", "x"], "bands": ["R", "G", "B"], "resolution": 10}},
        "labels": {"vector": "fields.gpkg", "field": "crop"},
    }
    (folder / "maps.yaml").write_text(yaml.safe_dump(description))
    description["labels"]["reduction"] = "majority"
    (folder / "tiles.yaml").write_text(yaml.safe_dump(description))
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    assert main(["pretrain", "--data", str(folder / "maps.yaml"), *SMALL, *ONE_EPOCH, "--out", str(out)]) == 0
    return out


def test_tiles_without_label_are_there_for_what_needs_none(folder):
    assert len(open_data(folder / "maps.yaml")) == 9
    every = open_unlabelled(folder / "maps.yaml")
    assert (len(every), every.task, every.splits) == (64, None, ())
    assert len(open_unlabelled(folder, cube=folder / "maps.yaml")) == 64
    assert len(open_unlabelled(folder / "maps.yaml", labels=True)) == 9


def test_pretraining_takes_every_tile(folder, tmp_path, capsys):
    out = ["--out", str(tmp_path / "a")]
    assert main(["pretrain", "--data", str(folder / "maps.yaml"), *SMALL, *ONE_EPOCH, *out]) == 0
    assert "64 tiles, none for validation" in capsys.readouterr().out


def test_the_map_of_embeddings_has_no_gap(run, folder, tmp_path):
    out = tmp_path / "embeddings.tif"
    assert main(["embed", str(run), "--data", str(folder / "maps.yaml"), "--out", str(out)]) == 0
    with rasterio.open(out) as file:
        assert file.shape == (32, 32)
        assert np.isfinite(file.read()).all()


def test_fine_tuning_and_probes_take_labelled_tiles_and_the_map_covers_all(run, folder, tmp_path, capsys):
    out = tmp_path / "tuned"
    brief = [*ONE_EPOCH, "--control", "false"]
    assert main(["finetune", str(run), "--data", str(folder / "maps.yaml"), *brief, "--out", str(out)]) == 0
    scores = json.loads((out / "metrics.json").read_text())["finetune"]
    assert "miou" in scores["pretrained"]
    assert "2 tiles of split 'test'" in scores["conditions"]
    file = tmp_path / "map.tif"
    run_folder = next(path.parent for path in out.rglob("*.safetensors"))
    assert main(["predict", str(run_folder), "--data", str(folder / "maps.yaml"), "--out", str(file)]) == 0
    with rasterio.open(file) as found:
        assert found.shape == (64, 64)
        assert set(np.unique(found.read(1))) <= {0, 1}  # maize and wheat, and no pixel without
    probe = ["probe", str(run), "--data", str(folder / "tiles.yaml"), "--fraction", "1", "--draws", "1"]
    assert main([*probe, "--out", str(tmp_path / "probe")]) == 0
    assert (
        "2 tiles of split 'test'"
        in json.loads((tmp_path / "probe" / "metrics.json").read_text())["probe"]["conditions"]
    )


def test_data_check_tells_how_labels_became_splits(folder, capsys):
    assert main(["data", "check", str(folder / "maps.yaml")]) == 0
    told = capsys.readouterr().out
    assert "labels: multiclass, maize 144, wheat 180; splits: train" in told
    assert "! labels: the description has no splits; blocks of 80 m are dealt (seed 0): train" in told
