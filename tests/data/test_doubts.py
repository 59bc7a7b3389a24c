"""Doubtful data are said by the check, with how many, an example and the fix; sound data pass without a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from fusion.data import (
    ArrayTiles,
    FolderDataset,
    Landscape,
    LandscapeTiles,
    Modality,
    TreeSatDataset,
    fit_statistics,
)
from fusion.data.check import check

from .treesat_archive import write_treesat

BANDS = ("B02", "B04", "B08")
RNG = np.random.default_rng(0)
TODAY = np.datetime64("today", "D")
DOUBTS = ("twice", "dates", "the date", "undeclared", "exactly", "the same value", "offset", "infinite", "consecutive")
TRUE = ("no data", "within 7 days")  # of these data


def doubts(values: np.ndarray, dates: Sequence[str], unit: str = "reflectance x 10000", **more: object) -> list[str]:
    """What the check says of tiles (N, L, C, H, W) at these dates."""
    side = values.shape[-1]
    modality = Modality("s2", "series", more.pop("bands", BANDS), 10.0, side, unit)  # type: ignore[arg-type]
    days = np.array(dates, dtype="datetime64[D]")
    origin = days.min().astype("datetime64[Y]")
    tiles = ArrayTiles([modality], {"s2": values}, {"s2": (days - origin.astype("datetime64[D]")).astype(int)},
                       origin=str(origin.astype("datetime64[D]")))  # fmt: skip
    return [told for told in check(tiles).warnings if any(word in told for word in DOUBTS)]


def land(count: int = 6, dates: int = 6, low: float = 200, high: float = 4000, side: int = 8) -> np.ndarray:
    """Reflectance x 10000 with a dark end near ``low``."""
    return RNG.integers(low, high, (count, dates, len(BANDS), side, side)).astype(np.float32)


def months(first: str, count: int) -> list[str]:
    return [str(month) + "-15" for month in np.datetime64(first, "M") + np.arange(count)]


# Sound data.


@pytest.mark.parametrize("unit", ["reflectance x 10000", "reflectance"])
def test_sound_reflectance_gives_no_warning(unit: str) -> None:
    scale = 1 if unit == "reflectance x 10000" else 1e-4
    assert doubts(land() * scale, months("2021-10", 6), unit) == []


def test_the_landscape_gives_no_warning() -> None:
    assert check(LandscapeTiles(Landscape(96, seed=1, field_metres=90, fine=4), block=3)).warnings == []


SOUND = ("aerial", "s2", "s1-asc", "s2-median", "s1-asc-median")
OPENED: dict[str, Callable] = {
    "biomassters_mini": lambda folder: FolderDataset("biomassters", folder),
    "worldcereal_patches": lambda folder: FolderDataset("worldcereal-monthly", folder),
    "treesatai_ts_mini": lambda folder: TreeSatDataset(folder, SOUND),
}


@pytest.mark.parametrize("name", OPENED)
def test_real_harmonised_data_give_no_false_alarm(data_dir: Callable, name: str) -> None:
    warnings = check(OPENED[name](data_dir(name)), tiles=60).warnings
    assert [
        told for told in warnings if any(word in told for word in DOUBTS) and not any(word in told for word in TRUE)
    ] == []


def test_real_series_of_optics_radar_and_weather_give_no_false_alarm(data_dir: Callable) -> None:
    warnings = check(FolderDataset("worldcereal", data_dir("worldcereal_patches")), tiles=60).warnings
    (told,) = [
        told for told in warnings if any(word in told for word in DOUBTS) and not any(word in told for word in TRUE)
    ]
    # True: three dates of this patch occur twice in its file.
    assert told.startswith("s2-20m: the same date twice in")
    assert "28085BF08E7E" in told


def test_a_duplicate_in_real_data_is_found(data_dir: Callable) -> None:
    told = check(TreeSatDataset(data_dir("treesatai_ts_mini"), ["s1-des"])).warnings
    assert any(
        "s1-des: the same date twice in 1 of 5 tiles" in w and "2019-01-04, with the same pixels" in w for w in told
    )


def test_snow_haze_and_bright_land_are_no_offset() -> None:
    dates = months("2021-10", 8)  # four before the change, four after
    snow = land(dates=8)
    snow[:, 4:, :2] += 5000  # bright in the visible alone
    assert doubts(snow, dates) == []
    hazy = land(dates=8)
    hazy[:, 5:] += 1000  # but one clear date after the change
    assert doubts(hazy, dates) == []
    assert doubts(land(low=2500), months("2021-10", 6)) == []  # sand


# Processing baselines.


def test_an_offset_of_1000_from_the_change_on_is_told_with_both_levels_and_the_fix() -> None:
    values = land(dates=8, low=300)
    values[:, 4:] += 1000
    (told,) = doubts(values, months("2021-10", 8))
    assert "dates from 2022-02-15 on are about" in told
    assert "than those until 2022-01-15" in told
    assert "baseline 04.00 adds 1000 to every value since 2022-01-25" in told
    assert "offset: {2022-01-25: -1000}" in told
    step, new, old = (float(told.split(a)[1].split(b)[0]) for a, b in
                      (("about ", " higher"), ("dark end ", " and"), (" and ", ")")))  # fmt: skip
    assert step == pytest.approx(1000, abs=60)
    assert (old, new) == (pytest.approx(335, abs=60), pytest.approx(1335, abs=60))


def test_clouds_among_the_dates_do_not_hide_the_offset() -> None:
    values = land(dates=8, low=100)
    values[:, 4:] += 1000
    values[:, [1, 6]] += 4000
    assert any("2022-01-25: -1000" in told for told in doubts(values, months("2021-10", 8)))


def test_the_offset_is_told_in_the_unit_of_the_data() -> None:
    values = land(dates=8, low=300)
    values[:, 4:] += 1000
    (told,) = doubts(values / 10000, months("2021-10", 8), "reflectance")
    assert "offset: {2022-01-25: -0.1}" in told


def test_an_offset_in_every_date_is_told() -> None:
    (told,) = doubts(land() + 1000, months("2023-03", 6))
    assert "as if every value were 1000 too high" in told
    assert "say offset: -1000" in told
    (told,) = doubts((land() + 1000) / 10000, months("2023-03", 6), "reflectance")
    assert "say offset: -0.1" in told


def test_an_offset_that_was_subtracted_without_need_is_told() -> None:
    (told,) = doubts(land() - 1000, months("2023-03", 6))
    assert "reflectance is far below 0" in told
    assert "leave offset away" in told


def test_radar_and_pictures_have_no_such_offset() -> None:
    assert doubts(RNG.normal(-12, 2, (4, 8, 3, 8, 8)), months("2021-10", 8), "dB") == []
    assert doubts(RNG.integers(20, 255, (4, 8, 3, 8, 8)), months("2021-10", 8), "8 bit") == []


# Dates.


def test_a_date_that_occurs_twice_is_told_with_what_the_pixels_say() -> None:
    dates = ["2020-04-10", "2020-04-10", "2020-05-10", "2020-06-20"]
    values = land(dates=4)
    assert "twice in 6 of 6 tiles, e.g. 0 on 2020-04-10, with different pixels" in doubts(values, dates)[0]
    values[2:, 1] = values[2:, 0]
    told = doubts(values, dates)
    assert "twice in 4 of 6 tiles, e.g. 2 on 2020-04-10, with the same pixels: a duplicate; drop one" in told[0]
    assert "twice in 2 of 6 tiles, e.g. 0 on 2020-04-10, with different pixels" in told[1]


def test_an_acquisition_in_two_halves_is_told_as_such() -> None:
    values = land(dates=4)
    values[:, 0, :, :4] = np.nan
    values[:, 1, :, 4:] = np.nan
    (told,) = doubts(values, ["2020-04-10", "2020-04-10", "2020-05-10", "2020-06-20"])
    assert "on 2020-04-10, each with a part of the pixels: one acquisition that was cut in two; merge them" in told
    values[:, 0, :, :6] = np.nan  # too little is left of this one
    (told,) = doubts(values, ["2020-04-10", "2020-04-10", "2020-05-10", "2020-06-20"])
    assert "of which only one is used" in told


def test_the_filling_of_dates_that_are_not_there_is_no_date() -> None:
    modality = Modality("weather", "series", ("mean", "low"), 10.0, 1, "K")
    days = np.ma.array([[0, 30, 60], [0, 30, 60]], mask=[[0, 0, 1], [0, 1, 1]])
    tiles = ArrayTiles([modality], {"weather": RNG.normal(280, 5, (2, 3, 2))}, {"weather": days}, origin="2020-01-01")
    assert check(tiles).warnings == []


@pytest.mark.parametrize(
    ("dates", "unit", "told"),
    [
        (["1970-01-01", "2020-05-10"], "reflectance x 10000", "the date 1970-01-01 in 6 of 6 tiles"),
        (["1969-05-10", "1969-06-10"], "dB", "dates before there were such data in 6 of 6 tiles, e.g. 0 on 1969-05-10"),
        (["1840-05-10", "1840-06-10"], "K", "dates before there were such data"),
        ([str(TODAY), str(TODAY + 2)], "K", f"dates in the future in 6 of 6 tiles, e.g. 0 on {TODAY + 2}"),
        (
            ["2020-05-10", "2202-05-10"],
            "reflectance x 10000",
            "dates in the future in 6 of 6 tiles, e.g. 0 on 2202-05-10",
        ),
        (["1961-05-10", "1961-06-10"], "K", None),
        ([str(TODAY - 1), str(TODAY + 1)], "K", None),
    ],
)
def test_dates_out_of_time_are_told(dates: list[str], unit: str, told: str | None) -> None:
    values = land(dates=2) if unit.startswith("refl") else RNG.normal(280 if unit == "K" else -12, 3, (6, 2, 3, 8, 8))
    assert [told in w for w in doubts(values, dates, unit)] == ([] if told is None else [True])


def test_dates_out_of_order_and_numbers_of_files_are_told() -> None:
    (told,) = doubts(land(dates=3), ["2020-05-10", "2020-04-10", "2020-06-10"])
    assert "s2: dates are not in order in 6 of 6 tiles, e.g. 0; sort values and dates by date together" in told
    (told,) = doubts(land(dates=5), [f"2020-01-0{k}" for k in range(1, 6)])
    assert "the dates of every tile are consecutive days, as if files had been numbered" in told
    daily = RNG.normal(280, 3, (6, 5, 3, 8, 8))
    assert doubts(daily, [f"2020-01-0{k}" for k in range(1, 6)], "K", bands=("mean", "low", "high")) == []


# Values.


@pytest.mark.parametrize(
    "mark", [-9999.0, -999.0, -32768.0, 65535.0, 9.969209968386869e36, 1e20, -3.4028234663852886e38]
)
def test_undeclared_nodata_is_told_with_its_share(mark: float) -> None:
    values = land()
    values[:, :, 1, :1] = mark  # an eighth of the pixels of one band
    (told,) = doubts(values, months("2020-01", 6))
    assert "s2: 12.5 % of the values of B04 are exactly" in told
    assert f"say nodata: {np.float32(mark):.9g}" in told


def test_any_value_that_is_always_the_same_and_far_from_the_rest_is_told() -> None:
    values = RNG.normal(10, 5, (6, 6, 3, 8, 8))
    values[:, :, :, :1] = -500
    (told,) = doubts(values, months("2020-01", 6), "C", bands=("mean", "low", "high"))
    assert "12.5 % of the values of mean, low, high are exactly -500" in told


def test_pixels_of_zero_in_every_band_are_told_and_single_zeros_are_not() -> None:
    values = land()
    values[:, :, 0, :2] = 0  # water in one band
    assert doubts(values, months("2020-01", 6)) == []
    values[:, :, :, :2] = 0
    (told,) = doubts(values, months("2020-01", 6))
    assert "25.0 % of the pixels are exactly 0 in every band" in told
    rain = np.where(RNG.random((6, 6, 3, 8, 8)) < 0.6, 0, RNG.gamma(2, 4, (6, 6, 3, 8, 8)))
    assert doubts(rain, months("2020-01", 6), "mm", bands=("a", "b", "c")) == []


def test_classes_and_flags_are_no_nodata() -> None:
    values = RNG.choice([1.0, 2, 3, 90], (6, 6, 3, 8, 8))
    values[:, :, 1] = RNG.random((6, 6, 8, 8)) < 0.1
    assert doubts(values, months("2020-01", 6), "class", bands=("cover", "snow", "soil")) == []


def test_constant_and_equal_bands_are_told() -> None:
    values = land()
    values[:, :, 0] = 500
    values[:, :, 2] = values[:, :, 1]
    told = doubts(values, months("2020-01", 6)) + [
        w for w in check(tiles_of(values)).warnings if "bands with the same values" in w
    ]
    assert "s2: the same value everywhere in B02 (500): nothing can be learned from it" in told
    assert "s2: bands with the same values everywhere (B04 = B08): one was read twice; check bands" in told


def tiles_of(values: np.ndarray) -> ArrayTiles:
    modality = Modality("s2", "series", BANDS, 10.0, values.shape[-1], "reflectance x 10000")
    return ArrayTiles([modality], {"s2": values}, {"s2": np.arange(values.shape[1]) * 30})


def labels(values: np.ndarray, task: str, classes: tuple[str, ...]) -> list[str]:
    image = Modality("relief", "image", ("height",), 10.0, 1)
    relief = (
        RNG.normal(100, 20, (len(values), 1, *values.shape[1:])) if values.ndim == 3 else np.zeros((len(values), 1))
    )
    grid = values.shape[1:] if values.ndim == 3 else (1, 1)
    tiles = ArrayTiles([image], {"relief": relief}, grid=grid, task=task, classes=classes, labels=values)
    return [told for told in check(tiles).warnings if "label" in told]


def test_undeclared_nodata_among_labels_is_told() -> None:
    biomass = RNG.gamma(2, 40, (20, 8, 8)).astype(np.float32)
    assert labels(biomass, "regression", ("biomass",)) == []
    biomass[:, 0] = -9999
    (told,) = labels(biomass, "regression", ("biomass",))
    assert told.startswith("labels: 12.5 % of the values of biomass are exactly -9999")
    yields = RNG.gamma(2, 40, (50, 2)).astype(np.float32)
    yields[3, 1] = -9999
    (told,) = labels(yields, "regression", ("wheat", "maize"))
    assert told.startswith("labels: 2.0 % of the values of maize are exactly -9999")


def test_tiles_without_label_are_counted() -> None:
    yields = RNG.gamma(2, 40, (50, 1)).astype(np.float32)
    yields[[3, 9]] = np.nan
    assert "2 of 50 tiles have no label (NaN or infinite): leave them out" in labels(yields, "regression", ("t",))[0]
    assert "1 of 3 tiles have no label" in labels(np.array([0, -1, 1]), "multiclass", ("a", "b"))[0]
    maps = np.full((2, 4, 4), np.nan, np.float32)
    assert labels(maps, "regression", ("t",)) == ["no label at all: every value is NaN or infinite"]


def test_infinite_values_of_files_are_missing_and_counted(tmp_path: Path) -> None:
    names = write_treesat(tmp_path, 4, single=False)
    with h5py.File(tmp_path / f"sentinel-ts/{names[2]}_2020.h5", "r+") as file:
        file["sen-2-data"][1, 3, 0, :2] = [np.inf, -np.inf]
        file["sen-2-data"][4] = np.inf
    data = TreeSatDataset(tmp_path, ["s2"])
    sound, spoilt = data[1].values["s2"], data[2].values["s2"]
    assert spoilt.isfinite().all()
    assert data[2].valid["s2"].tolist() == [True, True, True, True, False]
    rest = spoilt[1, 3].flatten()
    assert rest[0] == rest[1] == pytest.approx(float(rest[2:].mean()), rel=1e-5)
    assert sound.shape == spoilt.shape
    report = check(data)
    told = [w for w in report.warnings if "infinite" in w]
    assert told[0].startswith(f"s2: {2 + 360} infinite values in 1 of 4 tiles, e.g. {names[2]}; they count as missing")
    assert fit_statistics(data)[0].mean[0] < 1e4
