"""Series from plain files, and what is said of files that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion.data.table import read_series


def test_a_csv_is_a_series_a_row(tmp_path: Path) -> None:
    (tmp_path / "warm.csv").write_text("id,d1,d2,d3\na,1,,3\nb,4,5,NA\n")
    values, names = read_series([tmp_path / "warm.csv"])
    assert names == ("warm",)
    np.testing.assert_array_equal(values, np.array([[[1, np.nan, 3]], [[4, 5, np.nan]]], np.float32))


def test_npz_files_of_different_length_are_padded_with_nan(tmp_path: Path) -> None:
    for name, length in (("a", 4), ("b", 2)):
        weather = np.arange(2 * length, dtype=np.float32).reshape(length, 2)
        np.savez(tmp_path / f"{name}.npz", weather=weather, weather_vars=np.array([b"rain", b"sun"]))
    values, names = read_series([tmp_path / "a.npz", tmp_path / "b.npz"], "weather")
    assert names == ("rain", "sun")
    assert values.shape == (2, 2, 4)
    assert np.isnan(values[1, :, 2:]).all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("short.csv", "id,d1,d2\na,1\n", r"short\.csv, line 2: 2 fields, the header has 3"),
        ("word.csv", "id,d1\na,cold\n", r"word\.csv, line 2: .*'cold'"),
        ("empty.csv", "id,d1\n", "no series"),
        ("blank.csv", "", "no header"),
        ("series.txt", "1 2 3", "read from .csv"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_series([tmp_path / name])


def test_an_npz_without_the_array_lists_what_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weather=np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"a\.npz has weather; say which with --variable"):
        read_series([tmp_path / "a.npz"])
