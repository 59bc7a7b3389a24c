"""What data looks like, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fusion.data import (
    ArrayTiles,
    FolderDataset,
    Landscape,
    LandscapeTiles,
    Modality,
    Tile,
    TileDataset,
    TreeSatDataset,
    collate,
    fit_statistics,
)
from fusion.data.check import check, check_labels, check_modalities, check_values
from fusion.data.units import looks_like

RNG = np.random.default_rng(0)
REFLECTANCE = RNG.gamma(4, 600, 5000).clip(1)


@pytest.fixture(scope="module")
def tiles():
    return LandscapeTiles(Landscape(96, seed=1, field_metres=90, fine=4), block=3)


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        (REFLECTANCE, "reflectance x 10000"),
        (REFLECTANCE / 10000, "0..1"),
        (RNG.gamma(2, 0.05, 5000), "0..1"),
        (RNG.normal(-12, 4, 5000), "dB"),
        (RNG.normal(-1200, 400, 5000), "dB x 100"),
        (RNG.integers(0, 256, 5000), "8 bit"),
        (RNG.normal(285, 8, 5000), "kelvin"),
        (RNG.normal(0, 1e6, 5000) + 1e7, "unknown"),
        (np.zeros(0), "nothing observed"),
    ],
)
def test_what_values_look_like(values, seen):
    assert looks_like(values) == seen


def scaled(tile, name, change):
    values = tile.values | {name: change(tile.values[name])}
    return dataclasses.replace(tile, values=values)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("s2", lambda v: v / 10000, r"'s2'.*look like 0..1.*multiply by 10000"),
        ("s2", lambda v: (v / 20).round().clamp(max=255), "look like 8 bit.*take the reflectance product"),
        ("s1", lambda v: 10 ** (v / 10), r"look like 0..1.*convert with 10 log10"),
        ("s1", lambda v: v * 100, r"look like dB x 100.*scale: 0.01"),
        ("aerial", lambda v: v / 255, "'aerial'.*look like 0..1"),
        ("aerial", lambda v: v * 20, "said to be '8 bit'"),
    ],
)
def test_another_unit_is_refused_with_the_fix(tiles, name, change, message):
    modality = tiles.modality(name)
    check_values(tiles[3], modality)
    with pytest.raises(ValueError, match=message):
        check_values(scaled(tiles[3], name, change), modality)


@pytest.mark.parametrize("factor", [10, 0.1])
@pytest.mark.parametrize("name", ["s2", "aerial"])
def test_ten_times_off_the_statistics_is_refused_whatever_the_unit(tiles, name, factor):
    fitted = next(m for m in fit_statistics(tiles) if m.name == name)
    unnamed = dataclasses.replace(fitted, unit="")
    batch = collate([tiles[i] for i in range(8)])
    check_values(batch, unnamed)
    batch.values[name] = batch.values[name] * factor
    with pytest.raises(ValueError, match=r"the model was trained on .*times (larger|smaller)"):
        check_values(batch, unnamed)


def test_another_place_is_no_error():
    """Water is dark in the infrared, snow bright in the visible, and a mountain is high."""
    bands = ("B02", "B08", "B11")
    s2 = Modality("s2", "image", bands, 10.0, 2, "reflectance x 10000", (600, 3000, 2000), (300, 1200, 900))
    height = Modality("dem", "image", ("height",), 10.0, 2, "m", (40.0,), (3.0,))

    def tile(*levels):
        return torch.tensor(levels)[:, None, None] * torch.linspace(0.9, 1.1, 16).view(4, 4)

    check_values(Tile("water", {"s2": tile(350.0, 60.0, 30.0)}), s2)
    check_values(Tile("snow", {"s2": tile(9000.0, 7500.0, 900.0)}), s2)
    check_values(Tile("alps", {"dem": tile(2400.0)}), height)


def test_every_honest_tile_passes_its_own_statistics(tiles):
    fitted = fit_statistics(tiles.split("train"))
    check_values(tiles, fitted)
    for i in range(len(tiles)):
        check_values(tiles[i], fitted)


@pytest.mark.parametrize("name", ["biomassters_mini", "treesatai_ts_mini"])
def test_real_tiles_pass_their_own_statistics(name, data_dir):
    folder = data_dir(name)
    data = FolderDataset("biomassters", folder) if name == "biomassters_mini" else TreeSatDataset(folder)
    fitted = fit_statistics(data, tiles=64)
    check_values(data, fitted)
    for i in range(0, len(data), 16):
        check_values(data[i], fitted)


def test_wrong_number_and_order_of_bands(tiles):
    s2 = tiles.modality("s2")
    with pytest.raises(ValueError, match=r"9 bands in data of shape .*, 10 wanted: B02, B03"):
        check_values(scaled(tiles[0], "s2", lambda v: v[:, :9]), s2)
    turned = dataclasses.replace(s2, bands=s2.bands[::-1])
    with pytest.raises(ValueError, match=r"the model wants B12, B11.*in this order; say use: \[B12"):
        check_values(tiles, [turned])
    more = dataclasses.replace(s2, bands=(*s2.bands[:9], "B09"))
    with pytest.raises(ValueError, match="B09 missing"):
        check_modalities([s2], [more])
    with pytest.raises(ValueError, match="unit is 'reflectance x 10000' in the data and 'reflectance' in the model"):
        check_modalities([s2], [dataclasses.replace(s2, unit="reflectance")])
    with pytest.raises(ValueError, match="none in common"):
        check_modalities([s2], [dataclasses.replace(s2, name="sentinel2")])


def test_a_tile_without_modalities_to_compare_with(tiles):
    with pytest.raises(ValueError, match="needs modalities"):
        check_values(tiles[0])


def test_the_report_shows_what_is_there(tiles):
    report = check(tiles)
    assert report.ok
    text = str(report)
    for part in ("aerial", "NIR G B R", "2.5 m", "dB", "EPSG:32632", "144 tiles, 144 read", "wheat", "train"):
        assert part in text
    by_name = {found.modality.name: found for found in report.modalities}
    assert by_name["s2"].looks == "reflectance x 10000"
    assert by_name["s2"].dates[0] >= 5
    assert by_name["s1"].low < -15


class Broken(TileDataset):
    """Some tiles cannot be read, some are empty, one modality is never observed."""

    S1 = Modality("s1", "series", ("VV",), 10.0, 1, "dB")
    S3 = Modality("s3", "image", ("a",), 10.0, 1)

    def __init__(self, n=6, **fields):
        super().__init__([f"t{i}" for i in range(n)], (self.S1, self.S3), (1, 1), **fields)

    def _read(self, row, rng):
        if row < 2:
            raise ValueError(f"t{row}.h5: cannot be read, the file is damaged or incomplete")
        tile = Tile(self._names[row], {"s3": torch.full((1, 1, 1), float("nan"))})
        if row > 2:
            tile.values["s1"], tile.days["s1"] = torch.full((2, 1, 1, 1), -10.0), torch.tensor([1, 2])
        return tile

    def notes(self):
        return ["s1: 4 of 61 dates have no data"]


def test_the_report_goes_on_after_errors_and_names_every_file():
    report = check(Broken(task="multilabel", classes=("a", "b"), labels=torch.tensor([[1.0, 0.0]] * 6)))
    assert not report.ok
    assert [p.split(":")[0] for p in report.problems[:2]] == ["t0.h5", "t1.h5"]
    assert any("'s3': nothing observed in 6 tiles" in p for p in report.problems)
    text = str(report)
    assert "ERROR t0.h5: cannot be read" in text
    assert "! s1: 4 of 61 dates have no data" in text
    assert "! s1: missing in 1 of 6 tiles" in text
    assert "no example of b" in text
    assert "1 tiles without any observation, e.g. t2" in text
    assert "one tile only" in str(check(Broken().subset([4])))


def labelled(task, labels, classes=("a", "b", "c")):
    return Broken(len(labels), task=task, classes=classes, labels=labels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (labelled("multiclass", torch.tensor([0, 0, 2])), r"no label of b in 3 tiles.*with_classes\(\['a', 'c'\]\)"),
        (labelled("multilabel", torch.tensor([[1.0, 0, 0], [1, 1, 0]])), "no label of c in 2 tiles"),
        (labelled("multiclass", torch.tensor([0, 0]), ("a",)), "all 2 tiles are 'a'"),
        (labelled("regression", torch.ones(4, 1), ("biomass",)), "target biomass is the same in all 4 tiles"),
        (Broken(), "has no labels"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        check_labels(data)


def test_labels_that_can_be_learned_pass(tiles):
    check_labels(tiles.with_classes(["wheat", "maize"]))
    check_labels(labelled("regression", torch.arange(3.0)[:, None], ("biomass",)))


def test_dates_without_a_near_one_of_another_sensor_are_listed():
    s1 = Modality("s1", "series", ("VV",), 10.0, 2, "dB")
    s2 = Modality("s2", "series", ("B04",), 10.0, 2, "reflectance")
    weather = Modality("weather", "series", ("t",), 20.0, 1, "K")
    values = {"s1": RNG.normal(-12, 3, (4, 2, 1, 2, 2)), "s2": RNG.uniform(0, 0.5, (4, 5, 1, 2, 2))}
    values["weather"] = RNG.normal(285, 5, (4, 1, 1, 1, 1))
    days = {"s1": np.array([20, 60]), "s2": np.array([0, 12, 27, 40, 75]), "weather": np.array([300])}
    report = check(ArrayTiles([s1, s2, weather], values, days))
    told = [line for line in report.warnings if "within" in line]
    # Gaps of s2's dates to 20 and 60: 20, 8, 7, 20, 15; weather is one value a tile and no sensor.
    assert told == [
        "s1: 16 of 20 dates of s2 have none of s1 within 7 days (nearest 7, median 15, largest 20 days); the context "
        "system leaves such pairs out, or takes them with --training.longest_gap"
    ]
    near = check(ArrayTiles([s1, s2, weather], values, days | {"s1": np.array([6, 33]), "s2": np.arange(5) + 30}))
    assert not any("within" in line for line in near.warnings)
