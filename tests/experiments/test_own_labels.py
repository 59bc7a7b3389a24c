"""From own labels to a map, as a scientist types it: describe, pretrain, finetune or probe, predict; on real data."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from fusion.cli import main

from .chip_archive import CRS, write_chip
from .safe_archive import CROPS, write_parcels, write_products

TILES = ("T31UDS", "T31UES", "T31UFS")
SMALL = ["--model.dim", "32", "--model.heads", "4", "--model.depth", "1", "--model.series_heads", "4"]


def run(*arguments: str | Path) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def crops(data_dir, tmp_path_factory):
    """Sentinel-2 products of three places and their parcels, described; a model of them, tuned on the parcels; maps."""
    patches = sorted(data_dir("worldcereal_patches").glob("0000*.npz"))
    folder, out = tmp_path_factory.mktemp("fields"), tmp_path_factory.mktemp("crops")
    for patch, tile in zip(patches, TILES, strict=True):
        write_products(patch, folder, tile, dates=6)
    write_parcels(patches, folder / "parcels.gpkg")
    run("data", "describe", folder, "--out", folder / "fusion.yaml")
    training = ["--training.batch_size", "16", "--training.progress", "false"]
    run("pretrain", "--data", folder, "--out", out / "encoder", *SMALL, *training, "--training.epochs", "2")
    tuning = ["--rates.pretrained", "2e-3", *training, "--training.epochs", "6"]
    run("finetune", out / "encoder", "--data", folder, "--out", out / "tuned", *tuning)
    run("predict", out / "tuned", "--data", folder, "--out", out / "map.tif", "--probabilities", "true")
    return folder, out, dict(zip(TILES, patches, strict=True))


@pytest.mark.extra
def test_products_and_parcels_are_described_without_a_question(crops):
    described = (crops[0] / "fusion.yaml").read_text()
    assert "Please answer" not in described
    assert "vector: parcels.gpkg" in described
    assert "field: crop" in described
    assert "SCL_20m.jp2" in described


@pytest.mark.extra
def test_the_map_of_crops_lies_on_its_ground_with_names_and_colours(crops):
    _, out, patches = crops
    maps = {path.stem: path for path in (out / "map").glob("*.tif") if "_" not in path.stem}
    assert set(maps) == set(TILES)
    for tile, path in maps.items():
        with np.load(patches[tile]) as data:
            left, _, _, top = (int(x) for x in data["bounds"])
        with rasterio.open(path) as file:
            assert tuple(file.transform)[:6] == (10.0, 0.0, left, 0.0, -10.0, top)
            assert (file.crs, file.shape, file.nodata) == ("EPSG:32631", (64, 64), 255)
            names = json.loads(file.tags()["FUSION_CLASSES"])
            assert names == sorted(set(CROPS.values()))
            values = file.read(1)
            assert set(np.unique(values)) <= set(range(len(names)))  # wall to wall
            colours = file.colormap(1)
        valid, errors, _ = cog_validate(path, quiet=True)
        assert valid, errors
        with rasterio.open(path.with_name(f"{path.stem}_probabilities.tif")) as file:
            likely = file.read()
            np.testing.assert_array_equal(np.take_along_axis(likely, values[None], 0)[0], likely.max(axis=0))
        entries = ElementTree.parse(path.with_suffix(".qml")).getroot().iter("paletteEntry")
        styled = {entry.get("label"): entry.get("color").lower() for entry in entries}
        assert {n: "#{:02x}{:02x}{:02x}".format(*colours[k][:3]) for k, n in enumerate(names)} == styled
        assert path.with_suffix(".png").stat().st_size > 1000


@pytest.mark.extra
def test_the_map_of_crops_is_said_to_beat_the_strongest_control_or_not(crops):
    _, out, _ = crops
    found = json.loads((out / "tuned" / "metrics.json").read_text())["finetune"]
    ours, control = found["pretrained"]["miou"], found["raw_best"]["miou"]
    verdict = "better" if ours > control else "NOT better"
    winner = found["raw_best"]["control"]
    told = f"pretrained is {verdict} than the strongest control on raw values, {winner}: mean IoU {ours:.3f}"
    assert told in found["conditions"]
    pages = [path.read_text() for path in (out / "map").glob("*.html")]
    assert len(pages) == len(TILES)
    for page in pages:
        assert re.search(r"on ground it has not seen: \d+ % of the area right", page)
        warned = f"less than the {control:.3f} of the strongest of several simple methods on raw values" in page
        assert warned == (verdict == "NOT better")


@pytest.mark.extra  # the same way as crops, for a quantity
def test_biomass_is_mapped_with_an_interval_whose_coverage_is_stated(data_dir, tmp_path, capsys):
    for number, chip in enumerate(sorted(data_dir("biomassters_mini").glob("*.h5"))):
        write_chip(chip, tmp_path / "chips", 300_000 + 1_280 * number, side=128)
    folder, out = tmp_path / "chips", tmp_path
    run("data", "describe", folder, "--out", folder / "fusion.yaml")
    training = ["--training.batch_size", "16", "--training.progress", "false"]
    run("pretrain", "--data", folder, "--out", out / "encoder", *SMALL, *training, "--training.epochs", "2")
    tuning = ["--rates.pretrained", "2e-3", *training, "--training.epochs", "4"]
    run("finetune", out / "encoder", "--data", folder, "--out", out / "tuned", *tuning)
    told = capsys.readouterr().out
    row = json.loads((out / "tuned" / "metrics.json").read_text())["finetune"]["pretrained"]
    coverage, (low, high) = row["interval_coverage"], row["intervals"]["interval_coverage"]
    stated = f"Interval 90 % of pretrained: coverage {coverage:.2f} ({low:.2f} to {high:.2f}), mean width "
    assert stated in told
    assert 0.75 < coverage <= 1
    assert re.search(r"pretrained is (NOT )?better than the strongest control on raw values, .*: R² ", told)
    assert row["r2"] > 0.2
    run("predict", out / "tuned", "--data", folder, "--out", out / "map.tif")
    told = capsys.readouterr().out
    assert re.search(r"128 x 256 pixels, \d+ dates: 0\.0 million pixels at [\d,]+ a second: .* memory .* map ", told)
    with rasterio.open(out / "map.tif") as file:
        assert (file.crs, file.shape, file.descriptions) == (
            CRS,
            (128, 256),
            ("biomass", "biomass_lower", "biomass_upper"),
        )
        value, lower, upper = file.read()
        assert tuple(file.transform)[:6] == (10.0, 0.0, 300_000.0, 0.0, -10.0, 7_000_000.0)
    assert (lower <= value).all()
    assert (value <= upper).all()
    valid, errors, _ = cog_validate(out / "map.tif", quiet=True)
    assert valid, errors
    with rasterio.open(folder / "biomass" / "000aa810.tif") as first:
        truth = first.read(1)  # the western half
    assert np.corrcoef(truth.ravel(), value[:, :128].ravel())[0, 1] > 0.4


@pytest.mark.extra
def test_a_forest_on_frozen_embeddings_maps_the_same_crops(crops, tmp_path):
    folder, out, _ = crops
    run("probe", out / "encoder", "--data", folder, "--out", tmp_path / "probe", "--save", "forest", "--draws", "1")
    run("predict", tmp_path / "probe", "--data", folder, "--out", tmp_path / "map.tif", "--report", "false")
    with rasterio.open(tmp_path / "map" / "T31UDS.tif") as file:
        mapped = file.read(1)
    with rasterio.open(out / "map" / "T31UDS.tif") as file:
        other = file.read(1)
    assert mapped.shape == other.shape
    assert (mapped != 255).all()
