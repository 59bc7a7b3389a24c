"""GeoTIFFs of embeddings are cloud-optimised, and their overviews are means of vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rio_cogeo import cog_validate

from fusion.embed import NODATA, decode, embed_map, open_embeddings, read_embeddings, unit
from fusion.embed.formats import assembled, sections
from fusion.embed.raster import write_geotiff

from .conftest import Places, tile_at

TRANSFORM = Affine(20, 0, 500, 0, -20, 9000)


def ground(rows: int, columns: int, dim: int) -> np.ndarray:
    """Vectors of several lengths with holes, one of which fills whole pixels of every overview."""
    values = np.random.default_rng(0).normal(size=(rows, columns, dim)).astype(np.float32)
    values[::7, ::3] = np.nan
    values[: rows // 3, : columns // 3] = np.nan
    return values


def means(values: np.ndarray, factor: int) -> np.ndarray:
    """(rows, columns, D) means over squares, as plainly as can be."""
    rows, columns, dim = values.shape
    found = np.full((-(-rows // factor), -(-columns // factor), dim), np.nan)
    for i in range(found.shape[0]):
        for j in range(found.shape[1]):
            square = values[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].reshape(-1, dim)
            square = square[~np.isnan(square).any(axis=1)]
            if len(square):
                found[i, j] = square.mean(axis=0)
    return found


def written(path: Path, values: np.ndarray, dtype: str) -> None:
    write_geotiff(path, values, TRANSFORM, "EPSG:32632", dtype, {"FUSION_MODEL": "0f"})


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("size", [(6, 9), (300, 620), (1100, 90)])
def test_every_file_is_a_valid_cog(dtype, size, tmp_path):
    values = ground(*size, 3)
    written(tmp_path / "a.tif", values, dtype)
    valid, errors, warnings = cog_validate(tmp_path / "a.tif", strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.interleaving.name == "pixel"
        assert file.descriptions == ("E00", "E01", "E02")
        assert file.tags()["FUSION_MODEL"] == "0f"
        assert (file.nodata == NODATA) if dtype == "int8" else np.isnan(file.nodata)
        assert file.transform == TRANSFORM
        assert bool(file.overviews(1)) == (max(size) > 256)
    found = np.moveaxis(read_embeddings(tmp_path / "a.tif").values, 0, -1)
    if dtype == "float32":
        np.testing.assert_array_equal(found, values)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"], "nothing else is left"


def test_overviews_of_codes_are_means_of_vectors_of_length_1(tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "chunk_side", lambda dim, itemsize: 32)
    written(tmp_path / "a.tif", ground(130, 200, 5), "int8")
    assert cog_validate(tmp_path / "a.tif", strict=True)[0]
    base = np.moveaxis(read_embeddings(tmp_path / "a.tif").values, 0, -1)
    with rasterio.open(tmp_path / "a.tif") as file:
        factors = file.overviews(1)
        assert file.block_shapes[0] == (32, 32)
    assert factors == [2, 4, 8]
    for level, factor in enumerate(factors):
        with rasterio.open(tmp_path / "a.tif", overview_level=level) as file:
            stored = np.moveaxis(decode(file.read()), 0, -1)
        wanted = unit(means(base, factor))
        np.testing.assert_array_equal(np.isnan(stored), np.isnan(wanted))
        np.testing.assert_allclose(stored, wanted, atol=0.009)
        known = ~np.isnan(wanted).any(axis=-1)
        assert (unit(stored) * wanted).sum(-1)[known].min() > 0.9999
        codes = np.moveaxis(np.where(np.isnan(base), np.nan, np.sign(base) * np.sqrt(np.abs(base))), -1, -1)
        wrong = unit(np.sign(m := means(codes, factor)) * m**2)  # a mean of the codes themselves
        assert (wrong * wanted).sum(-1)[known].min() < 0.99


def test_overviews_of_float32_are_means(tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "chunk_side", lambda dim, itemsize: 16)  # less than a pixel of the last
    values = ground(300, 170, 3)
    written(tmp_path / "a.tif", values, "float32")
    for level, factor in enumerate((2, 4, 8, 16, 32)):
        with rasterio.open(tmp_path / "a.tif", overview_level=level) as file:
            stored = np.moveaxis(file.read(), 0, -1)
        np.testing.assert_allclose(stored, means(values, factor), rtol=1e-5, atol=1e-6)


def test_files_above_4_gib_are_bigtiffs(tmp_path, monkeypatch):
    values = ground(300, 170, 40)
    written(tmp_path / "a.tif", values, "float32")
    monkeypatch.setattr(assembled, "_CLASSIC", 1000)
    written(tmp_path / "b.tif", values, "float32")
    for name, magic in (("a.tif", b"II*\0"), ("b.tif", b"II+\0")):
        assert (tmp_path / name).read_bytes()[:4] == magic
        assert cog_validate(tmp_path / name, strict=True) == (True, [], [])
        with rasterio.open(tmp_path / name) as file:
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert (file.crs.to_epsg(), file.transform, file.descriptions[-1]) == (32632, TRANSFORM, "E39")
            np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1), values)


def test_a_block_that_is_not_on_the_disk_as_it_was_written_is_noticed(tmp_path, monkeypatch):
    def flipped(file, part):
        with open(file.name, "r+b") as again:
            again.seek(-20, 2)
            byte = again.read(1)[0]
            again.seek(-20, 2)
            again.write(bytes([byte ^ 1]))
        compare(file, part)

    compare = assembled._compare
    monkeypatch.setattr(assembled, "_compare", flipped)
    with pytest.raises(RuntimeError, match=r"a\.tif failed: what is on disk differs"):
        written(tmp_path / "a.tif", ground(20, 20, 3), "float32")
    assert not list(tmp_path.iterdir())


def test_a_vector_of_many_dimensions_does_not_cost_a_block_of_hundreds_of_megabytes(tmp_path):
    written(tmp_path / "a.tif", np.ones((40, 40, 768), dtype=np.float32), "float32")
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.block_shapes[0] == (32, 32)
    assert cog_validate(tmp_path / "a.tif")[0]


def test_files_from_before_are_read(model, tmp_path):
    """Plain GeoTIFFs, in strips, without the tags of conventions."""
    values = ground(20, 30, 4)
    profile = {"driver": "GTiff", "height": 20, "width": 30, "count": 4, "dtype": "float32", "nodata": np.nan}
    profile |= {"transform": TRANSFORM, "crs": "EPSG:32632", "compress": "deflate", "predictor": 3}
    with rasterio.open(tmp_path / "a.tif", "w", interleave="pixel", **profile) as file:
        file.write(np.moveaxis(values, -1, 0))
        file.descriptions = ("E00", "E01", "E02", "E03")
        file.update_tags(FUSION_DECODE="value = v")
    np.testing.assert_array_equal(read_embeddings(tmp_path / "a.tif").values, np.moveaxis(values, -1, 0))
    np.testing.assert_array_equal(open_embeddings(tmp_path / "a.tif").embedding, np.moveaxis(values, -1, 0))


def test_a_map_is_one(model, tmp_path):
    [found] = embed_map(model, Places([tile_at(0, 3 * k) for k in range(100)]), tmp_path / "map.tif", dtype="int8")
    assert cog_validate(found.path, strict=True)[0]
