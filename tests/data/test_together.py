"""Tiles that are read together are those that are read one by one, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.data import FolderDataset, collate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scenes with clouds, an image with gaps, weather, and a sensor that one scene lacks."""
    root, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for k in range(2):
        s2 = rng.uniform(200, 3000, (7, 2, 24, 28)).astype(np.float32)
        s2[:, :, :8, :8] = np.nan  # never seen
        s2[2, :, 8:14] = np.nan
        aerial = rng.uniform(0, 255, (3, 48, 56)).astype(np.float32)
        aerial[:, :20, :20] = np.nan
        arrays = {"s2": s2, "aerial": aerial, "rain": rng.uniform(0, 9, (5, 1)).astype(np.float32)}
        if k == 0:
            arrays["s1"] = rng.normal(-12, 2, (3, 1, 12, 14)).astype(np.float32)
        np.savez(root / f"scene{k}.npz", **arrays)
    return root


def dates(count: int) -> list[str]:
    return [str(np.datetime64("2021-04-01") + 9 * k) for k in range(count)]


def described(**s2) -> dict:
    modalities = {
        "s2": {"variable": "s2", "bands": ["B04", "B08"], "resolution": 10, "dates": dates(7), **s2},
        "aerial": {"variable": "aerial", "bands": ["r", "g", "b"], "resolution": 5, "axes": ["band", "y", "x"]},
        "s1": {"variable": "s1", "bands": ["VV"], "resolution": 20, "dates": dates(3), "optional": True},
        "rain": {"variable": "rain", "bands": ["rain"], "axes": ["time", "band"], "dates": dates(5)},
    }
    return {"files": "{scene}.npz", "tile": 80, "patch": 40, "stride": 40, "modalities": modalities}


@pytest.mark.parametrize("settings", [{}, {"max_dates": 4}, {"max_cloud": 0.1}], ids=str)
@pytest.mark.parametrize("modalities", [None, ["s2"], ["aerial", "s1"]], ids=str)
def test_they_are_those_read_one_by_one(folder, settings, modalities):
    tiles = FolderDataset(described(**settings), folder, modalities)
    rng = np.random.default_rng(1)
    for chosen in (range(5), range(len(tiles) - 3, len(tiles)), rng.permutation(len(tiles))[:9], [0]):
        members = [tiles[int(i)] for i in chosen]
        observed, batch = tiles.gather([int(i) for i in chosen])
        assert observed == [bool(tile.values) for tile in members]
        kept = [tile for tile in members if tile.values]
        if not kept:
            assert batch is None
            continue
        wanted = collate(kept, [m.name for m in tiles.modalities])
        assert (batch.names, batch.geo, batch.origin) == (wanted.names, wanted.geo, wanted.origin)
        for part in ("values", "days", "valid", "observed"):
            found, want = getattr(batch, part), getattr(wanted, part)
            assert list(found) == list(want)
            for name in want:
                assert torch.equal(found[name], want[name]), (part, name)


def test_a_file_is_asked_for_rows_of_tiles_and_not_for_each(folder):
    tiles = FolderDataset(described(), folder, ["s2"])
    layer, asked = tiles.scenes[0].layers["s2"], []
    read = layer.pixels.values
    layer.pixels.values = lambda dates, window, *rest: asked.append(window) or read(dates, window, *rest)
    tiles.gather(range(12))  # two rows of six
    assert asked == [(0, 0, 8, 28), (4, 0, 8, 28)]
