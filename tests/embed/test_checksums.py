"""No bit of embeddings can change on the disk without being noticed when they are read, or made again."""

import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from fusion.data import Geo
from fusion.data.files import DamagedFile
from fusion.embed import open_embeddings
from fusion.embed.formats.geozarr import write_geozarr
from fusion.embed.store import EmbeddingStore

DATES = np.array(["2020-01-01", "2020-02-01"], "datetime64[D]")
SIDE, DIM = 64, 4


def values() -> np.ndarray:
    """(dates, D, rows, columns) with ground that was not observed."""
    drawn = np.random.default_rng(0).standard_normal((len(DATES), DIM, SIDE, SIDE)).astype(np.float32)
    drawn[:, :, :20] = np.nan
    return drawn


def begun(path: Path, dtype: str = "float32", blocks: int = 4) -> EmbeddingStore:
    geo = Geo((10.0, 0.0, 5e5, 0.0, -10.0, 5e6), "EPSG:32632")
    store = EmbeddingStore.create(path, DATES, DIM, (SIDE, SIDE), geo, block=32, dtype=dtype)
    for block in list(store.blocks())[:blocks]:
        if not store.done(*block):
            store.write(*block, values()[:, :, *store.pixels(*block)])
    return store


def written(path: Path, kind: str, dtype: str) -> Path:
    if kind == "store":
        begun(path, dtype).finish()
    else:
        one = np.moveaxis(values()[0], 0, -1)
        write_geozarr(path, one, Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32632", dtype, {"FUSION_MODEL": "a"})
    return path


def contents(path: Path) -> dict[str, bytes | str]:
    """Values, coordinates and attributes, but for checksums."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = open_embeddings(path).load()
    found = {
        name: array.values.tobytes() + repr(sorted(array.attrs.items())).encode()
        for name, array in data.variables.items()
    }
    return found | {"": repr(sorted((k, v) for k, v in data.attrs.items() if len(str(v)) != 64))}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("kind", ["store", "map"])
def test_a_flipped_bit_of_a_zarr_is_noticed_or_changes_nothing(tmp_path, kind, dtype):
    path, draw = written(tmp_path / "a.zarr", kind, dtype), random.Random(0)
    whole, noticed = contents(path), 0
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        kept = file.read_bytes()
        for _ in range(8):
            place = draw.randrange(len(kept))
            file.write_bytes(kept[:place] + bytes([kept[place] ^ 1 << draw.randrange(8)]) + kept[place + 1 :])
            try:
                assert contents(path) == whole, (file, place)
            except ValueError as error:
                assert "a.zarr" in str(error), error  # noqa: PT017 - or nothing was changed by it
                noticed += 1
        file.write_bytes(kept)
    assert noticed > 50
    assert contents(path) == whole


@pytest.mark.parametrize("kind", ["store", "map"])
def test_values_whose_file_is_gone_are_not_no_data(tmp_path, kind):
    path = written(tmp_path / "a.zarr", kind, "float32")
    gone = next(file for file in sorted((path / "embedding").rglob("*")) if file.name[-1].isdigit() and file.is_file())
    gone.unlink()
    data = open_embeddings(path)
    with pytest.raises(DamagedFile, match=rf"{gone.name} is missing; take another copy"):
        data.embedding.load()


def test_damaged_blocks_of_a_store_that_is_not_complete_are_made_again(tmp_path):
    store = begun(tmp_path / "a.zarr", blocks=3)
    damaged = store.path / "embedding" / "0.0.0.1"
    content = bytearray(damaged.read_bytes())
    content[-20] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"a\.zarr: cannot be read, the file is damaged"):
        store.read(slice(None), slice(0, 32), slice(32, 64))
    with pytest.warns(
        UserWarning, match=r"a.zarr: 1 blocks that an earlier run has made are damaged .* again: 0.0.0.1"
    ):
        assert store.remove_damaged() == [(0, 1)]
    assert store.remove_damaged() == []
    begun(store.path).finish()
    assert contents(store.path) == contents(written(tmp_path / "b.zarr", "store", "float32"))


def test_a_store_with_other_metadata_is_not_continued(tmp_path):
    store = begun(tmp_path / "a.zarr", blocks=1)
    file = store.path / "x" / ".zattrs"
    file.write_text(file.read_text().replace("projection_x", "projection_y"))
    with pytest.raises(ValueError, match="metadata or coordinates are not those that were written"):
        begun(store.path)


def test_a_store_of_before_checksums_is_read(tmp_path):
    import zarr

    path = written(tmp_path / "a.zarr", "store", "float32")
    whole = contents(path)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    group.attrs.update({"institution": "another"})
    zarr.consolidate_metadata(path, zarr_format=2)
    with pytest.raises(ValueError, match="remove the attribute sha256 of the group"):
        open_embeddings(path)
    attributes = dict(group.attrs)
    del attributes["sha256"]
    group.attrs.put(attributes)
    zarr.consolidate_metadata(path, zarr_format=2)
    assert contents(path)["embedding"] == whole["embedding"]
