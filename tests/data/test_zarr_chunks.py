"""Stores of Zarr that lack chunks: what was not copied was not observed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from fusion.data import FolderDataset
from fusion.data.folder import read_cubes
from fusion.data.folder.zarr_chunks import absent_chunks

S2 = {"variable": "s2", "bands": ["B04", "B08"], "resolution": 10, "dates": ["2020-01-10", "2020-03-01", "2020-06-15"]}
DESCRIPTION = {"files": "{scene}.zarr", "tile": 80, "patch": 20, "modalities": {"s2": S2}}
VALUES = np.arange(1, 3 * 2 * 8 * 8 + 1, dtype=np.uint16).reshape(3, 2, 8, 8)


def store(folder: Path, zarr_format: int = 2, *, shards=None, fill: float | None = 0, **further: np.ndarray) -> Path:
    """A scene in chunks of a date and 4 x 4 pixels."""
    path = folder / "north.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    for name, values in {"s2": VALUES, **further}.items():
        chunks = (*[1] * (values.ndim - 2), 4, 4) if name != "s2" else (1, 2, 4, 4)
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=chunks, fill_value=fill, shards=shards
        )
        array[...] = values
    return path


def without_second_date(path: Path, zarr_format: int) -> None:
    for file in list((path / "s2").rglob("*")):
        key = file.relative_to(path / "s2").as_posix()
        if file.is_file() and key.startswith("1." if zarr_format == 2 else "c/1/"):
            file.unlink()


@pytest.mark.parametrize("memory", [0, 1 << 20])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_date_whose_chunks_are_absent_was_not_observed(tmp_path, zarr_format, memory):
    path = store(tmp_path, zarr_format)
    assert absent_chunks(zarr.open_group(path, mode="r")["s2"], path) is None
    without_second_date(path, zarr_format)
    data = FolderDataset(DESCRIPTION, tmp_path, memory=memory)
    tile = data[0]
    assert tile.valid["s2"].tolist() == [True, False, True]
    np.testing.assert_array_equal(tile.values["s2"].numpy()[[0, 2]], VALUES[[0, 2]])
    told = [
        note for note in data.notes() if note.startswith("s2: 4 of 12 chunks of 1 Zarr array(s), e.g. of north.zarr")
    ]
    assert len(told) == 1
    assert "count as not observed" in told[0]
    _, observed = read_cubes(DESCRIPTION, tmp_path, memory=memory)[0].sensors["s2"].read(slice(0, 8), slice(0, 8))
    assert observed.any(axis=(1, 2, 3)).tolist() == [True, False, True]


def test_one_chunk_costs_its_own_pixels(tmp_path):
    (store(tmp_path) / "s2" / "2.0.1.0").unlink()
    values, observed = read_cubes(DESCRIPTION, tmp_path)[0].sensors["s2"].read(slice(0, 8), slice(0, 8))
    lost = np.zeros(VALUES.shape, bool)
    lost[2, :, 4:, :4] = True
    np.testing.assert_array_equal(observed, ~lost)
    np.testing.assert_array_equal(values, np.where(lost, 0, VALUES))


def test_chunks_that_a_shard_lacks_were_not_observed(tmp_path):
    path = store(tmp_path, 3, shards=(3, 2, 8, 8))
    array = zarr.open_group(path, mode="r+")["s2"]
    array[1] = 0  # Zarr drops what is nothing but the fill value
    found = absent_chunks(array, path)
    assert found is not None
    assert (found.count, found.total) == (4, 12)
    assert FolderDataset(DESCRIPTION, tmp_path)[0].valid["s2"].tolist() == [True, False, True]


@pytest.mark.parametrize("key", [{"empty_chunks": True}, {"nodata": 0}])
def test_a_sparse_store_that_is_described_is_not_worth_a_word(tmp_path, key):
    without_second_date(store(tmp_path), 2)
    data = FolderDataset(DESCRIPTION | {"modalities": {"s2": S2 | key}}, tmp_path)
    assert not [note for note in data.notes() if "chunks" in note]
    assert data[0].valid["s2"].tolist() == [True, "empty_chunks" in key, True]


def test_a_fill_value_that_no_one_knows_was_not_observed(tmp_path):
    without_second_date(store(tmp_path, fill=None), 2)
    assert FolderDataset(DESCRIPTION, tmp_path)[0].valid["s2"].tolist() == [True, False, True]


def test_a_mask_without_chunks_holds_its_fill_value_and_says_so(tmp_path):
    path = store(tmp_path, cloud=np.zeros((3, 8, 8), np.uint8) + 9)
    for file in (path / "cloud").glob("1.*"):
        file.unlink()
    s2 = S2 | {"mask": {"variable": "cloud", "at_most": 5}}
    data = FolderDataset(DESCRIPTION | {"modalities": {"s2": s2}}, tmp_path)
    assert data[0].valid["s2"].tolist() == [True]
    assert any(note.startswith("the mask of s2: 4 of 12 chunks") for note in data.notes())


def test_labels_without_a_chunk_are_no_labels(tmp_path):
    path = store(tmp_path, crop=np.ones((8, 8), np.int16))
    (path / "crop" / "0.1").unlink()
    labels = {"variable": "crop", "resolution": 10, "reduction": "none", "classes": {"none": 0, "maize": 1}}
    data = FolderDataset(DESCRIPTION | {"labels": labels}, tmp_path)
    wanted = np.ones((8, 8))
    wanted[:4, 4:] = -1
    np.testing.assert_array_equal(data.labels()[0].numpy(), wanted)
    assert any(note.startswith("labels 'crop': 1 of 4 chunks") for note in data.notes())
