"""The contract that every reader and every model keep: dates that can be recovered, and what was observed."""

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, FolderDataset, LandscapeTiles, Modality, Tile, TileBatch, collate

from .described_folder import DATES, DESCRIPTION, described

S2 = Modality("s2", "series", ("B04", "B08"), 10.0, 1)


def tile(name: str, days: list[int], origin: str | None) -> Tile:
    start = None if origin is None else np.datetime64(origin, "D")
    return Tile(name, {"s2": torch.ones(len(days), 2, 1, 1)}, {"s2": torch.tensor(days)}, origin=start)


def test_dates_are_days_after_the_origin_of_each_tile():
    batch = collate([tile("a", [0, 59], "2020-01-01"), tile("b", [59], "2021-01-01"), tile("c", [3, 4], None)])
    assert batch.origin == (np.datetime64("2020-01-01"), np.datetime64("2021-01-01"), None)
    wanted = [["2020-01-01", "2020-02-29"], ["2021-03-01", "NaT"], ["NaT", "NaT"]]
    np.testing.assert_array_equal(batch.dates("s2"), np.array(wanted, dtype="datetime64[D]"))
    assert batch.dates("s2").dtype == np.dtype("datetime64[D]")
    with pytest.raises(KeyError, match="no series s1; it has s2"):
        batch.dates("s1")


def test_dates_of_a_batch_without_origin_are_unknown():
    batch = TileBatch({}, {"s2": torch.zeros(2, 3, dtype=torch.int64)}, {"s2": torch.ones(2, 3, dtype=torch.bool)})
    assert np.isnat(batch.dates("s2")).all()


def test_a_batch_carries_origin_and_observed_wherever_it_goes():
    first, second = tile("a", [0, 1], "2020-01-01"), tile("b", [5], "2021-01-01")
    first.values["dem"] = torch.zeros(1, 4, 4)
    first.observed = {"s2": torch.tensor([True, False]).reshape(2, 1, 1, 1).expand(2, 2, 1, 1)}
    first.observed["dem"] = torch.arange(16).reshape(1, 4, 4) > 3
    batch = collate([first, second])
    assert batch.observed["s2"][:, :, 0, 0, 0].tolist() == [[True, False], [True, False]]  # all of b's; then padding
    assert batch.observed["dem"].flatten(1).sum(1).tolist() == [12, 0]
    for other in (batch.to("cpu"), batch.select(["dem", "s2"])):
        assert other.origin == batch.origin
        assert torch.equal(other.observed["s2"], batch.observed["s2"])
    assert set(batch.select(["s2"]).observed) == {"s2"}
    assert not collate([second]).observed
    assert batch.valid_tiles("dem").tolist() == batch.present("dem").tolist() == [True, False]


def test_observed_must_have_the_shape_of_the_values():
    class Wrong(ArrayTiles):
        def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
            read = super()._read(row, rng)
            read.observed["s2"] = torch.ones(3, dtype=torch.bool)
            return read

    data = Wrong([S2], {"s2": np.ones((1, 3, 2))}, {"s2": np.arange(3)})
    with pytest.raises(ValueError, match=r"tile 0: 's2' has values of .* and observed of shape \(3,\)"):
        data[0]


def test_arrays_may_say_their_year():
    values, days = {"s2": np.ones((2, 3, 2))}, {"s2": np.array([0, 31, 400])}
    one = ArrayTiles([S2], values, days, origin="2021-01-01")
    assert str(collate([one[0], one[1]]).dates("s2")[1, 2]) == "2022-02-05"
    each = ArrayTiles([S2], values, days, origin=["2020-01-01", "2021-01-01"])
    assert [str(each[k].origin) for k in range(2)] == ["2020-01-01", "2021-01-01"]
    assert ArrayTiles([S2], values, days)[0].origin is None
    with pytest.raises(ValueError, match="origin 2021-03-01 is not 1 January"):
        ArrayTiles([S2], values, days, origin="2021-03-01")
    with pytest.raises(ValueError, match="one date, or one for each of 2 tiles"):
        ArrayTiles([S2], values, days, origin=["2021-01-01"] * 3)


def test_the_landscape_says_its_year():
    data = LandscapeTiles(modalities=("temperature",))
    batch = collate([data[0]])
    assert str(batch.dates("temperature")[0, 0]) == f"{data.landscape.year}-01-01"


def test_months_without_a_year_have_no_origin(folder):
    tile = FolderDataset(described(s2__dates=["Sep", "Nov", "Jan", "Aug"]), folder)[0]
    assert tile.origin is None
    assert np.isnat(collate([tile]).dates("s2")).all()


def test_dates_of_a_folder_are_those_of_its_files(folder):
    data = FolderDataset(DESCRIPTION, folder)
    batch = collate([data[0]])
    np.testing.assert_array_equal(batch.dates("s2")[0], np.array(DATES, dtype="datetime64[D]"))


@pytest.mark.parametrize("name", ["", ".", "../s2", "a/b", "a\\b", "s2\n"])
def test_a_name_that_would_lead_elsewhere_as_part_of_a_file_name_is_refused(name):
    with pytest.raises(ValueError, match="a name becomes part of file names; give letters and digits"):
        Modality(name, "series", ("B04",), 10.0, 1)


@pytest.mark.parametrize("resolution", [0.0, -10.0, float("nan"), float("inf")])
def test_a_resolution_that_is_no_length_is_refused(resolution):
    with pytest.raises(ValueError, match="must be positive"):
        Modality("s2", "series", ("B04",), resolution, 1)
