import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch

from fusion.data import Geo
from fusion.embed import NODATA, embed_map, fingerprint, read_embeddings, unit

from .conftest import PATCH, RESOLUTION, Places, Positions, tile_at


def ground_truth(embeddings) -> np.ndarray:
    """(rows, columns, 2) x and y of the patch centres that the file's own transform claims, in kilometres."""
    _, rows, columns = embeddings.values.shape
    c, r = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    x, y = embeddings.transform @ (c, r)
    return np.stack([x, y], axis=-1) / 1000


@pytest.fixture
def quilt() -> Places:
    """A 2 x 3 block of tiles in shuffled order."""
    corners = [(3, 6), (0, 0), (3, 0), (0, 6), (3, 3), (0, 3)]
    return Places([tile_at(*corner) for corner in corners])


def test_every_patch_lands_where_it_is_on_the_ground(quilt, model, tmp_path):
    [written] = embed_map(model, quilt, tmp_path / "map.tif", batch_size=4)
    found = read_embeddings(written.path)
    assert found.values.shape == (4, 6, 9) == (written.shape[2], *written.shape[:2])
    np.testing.assert_allclose(found.values[:2].transpose(1, 2, 0), ground_truth(found), rtol=1e-5)
    assert found.transform.e == -PATCH * RESOLUTION, "north up"
    assert (found.crs, found.bands) == ("EPSG:32632", ("E00", "E01", "E02", "E03"))
    assert found.tags["FUSION_MODEL"] == fingerprint(model)
    assert found.tags["FUSION_DECODE"] == "value = v"
    assert written.error.mean_cosine == pytest.approx(1)


def test_int8_keeps_directions_and_says_how_to_decode(quilt, model, tmp_path):
    [exact] = embed_map(model, quilt, tmp_path / "exact.tif")
    [written] = embed_map(model, quilt, tmp_path / "map.tif", dtype="int8")
    with rasterio.open(written.path) as file:
        assert (file.dtypes[0], file.nodata) == ("int8", NODATA)
        assert file.tags()["FUSION_DECODE"] == "value = sign(v) * (v / 127.5)^2"
    wanted, stored = (unit(read_embeddings(m.path).values, axis=0) for m in (exact, written))
    cosine = (wanted * stored).sum(axis=0)
    assert cosine.min() > 0.999
    assert written.error.mean_cosine == pytest.approx(cosine.mean(), abs=1e-6)
    assert written.error.max_error == pytest.approx(np.abs(wanted - stored).max(), abs=1e-6)
    assert 0 < written.error.max_error < 0.02


def test_rows_that_run_north_are_turned_over(model, tmp_path):
    side = 3 * PATCH * RESOLUTION
    south_up = [Geo((RESOLUTION, 0, 500, 0, RESOLUTION, 300 + k * side), "EPSG:32632") for k in range(2)]
    [written] = embed_map(model, Places(south_up), tmp_path / "map.tif")
    found = read_embeddings(written.path)
    assert found.transform.e < 0
    np.testing.assert_allclose(found.values[:2].transpose(1, 2, 0), ground_truth(found), rtol=1e-5)


def test_holes_and_unobserved_tiles_are_no_data(model, tmp_path):
    places = [tile_at(0, 0), tile_at(0, 3), tile_at(3, 3)]
    [written] = embed_map(model, Places(places, absent=frozenset({1})), tmp_path / "map.tif", dtype="int8")
    missing = np.isnan(read_embeddings(written.path).values).all(axis=0)
    assert missing[:3, 3:].all(), "the tile without an observation"
    assert missing[3:, :3].all(), "the place without a tile"
    assert not missing[:3, :3].any()
    assert not missing[3:, 3:].any()


def test_overlapping_tiles_are_blended(tmp_path):
    class TileNumber(torch.nn.Module):
        def forward(self, batch):
            number = torch.tensor([float(n.removeprefix("tile")) for n in batch.names])
            return type("E", (), {"patches": number[:, None, None].expand(-1, 16, 1)})

    places = [tile_at(0, 0), tile_at(0, 2)]
    [written] = embed_map(TileNumber(), Places(places, grid=(4, 4)), tmp_path / "map.tif")
    rows = read_embeddings(written.path).values[0]
    # Columns 2 and 3 lie in both tiles, with weights 2:1 and 1:2.
    np.testing.assert_allclose(rows, np.tile([0, 0, 1 / 3, 2 / 3, 1, 1], (4, 1)), atol=1e-6)


def test_seams_compare_borders_with_insides(quilt, model, tmp_path):
    [written] = embed_map(model, quilt, tmp_path / "map.tif")
    assert written.seams.pairs == 9 + 2 * 6  # one horizontal border of 9 patches, two vertical of 6
    assert written.seams.within > 0.99
    assert written.seams.across > 0.99


@pytest.mark.parametrize(
    ("crs", "pixel", "metres"),
    [("EPSG:32632", 10.0, 20), ("EPSG:32632", 1.0, 20), ("EPSG:2263", 10, 20), ("EPSG:4326", 1e-4, None)],
)
def test_patches_have_their_size_in_every_crs(crs, pixel, metres, model, tmp_path):
    """The transform of a place may be finer than the modalities used: a patch stays what it is on the ground."""
    place = Geo((pixel, 0, 7.0, 0, -pixel, 50.0), crs)
    [written] = embed_map(model, Places([place]), tmp_path / "map.tif")
    foot = 0.304800609601219
    wanted = pixel * PATCH if metres is None else metres / (foot if crs == "EPSG:2263" else 1)
    assert written.patch == pytest.approx((wanted, wanted))


def test_scattered_tiles_and_other_crs_get_files_of_their_own(model, tmp_path):
    places = [tile_at(0, 0), tile_at(0, 3), tile_at(400, 400), tile_at(0, 0, crs="EPSG:32633"), tile_at(0, 0, x0=507)]
    maps = embed_map(model, Places(places), tmp_path / "map.tif")
    assert [m.path.name for m in maps] == ["tile0.tif", "tile2.tif", "tile3.tif", "tile4.tif"]
    assert [m.shape[:2] for m in maps] == [(3, 6), (3, 3), (3, 3), (3, 3)]
    for written in maps:
        found = read_embeddings(written.path)
        np.testing.assert_allclose(found.values[:2].transpose(1, 2, 0), ground_truth(found), rtol=1e-5)


def test_tiles_without_a_place_go_into_an_npz(model, tmp_path):
    [written] = embed_map(model, Places([None, None], absent=frozenset({0})), tmp_path / "map.tif", dtype="int8")
    found = read_embeddings(written.path)
    assert (written.path.name, found.names, found.values.shape) == ("map.npz", ("tile0", "tile1"), (2, 4, 3, 3))
    assert np.isnan(found.values[0]).all()
    assert not np.isnan(found.values[1]).any()
    assert "not georeferenced" in found.tags["FUSION_NOTE"]


def test_places_without_a_crs_make_a_raster_without_one(model, tmp_path):
    [written] = embed_map(model, Places([tile_at(0, 0, crs="")]), tmp_path / "map.tif")
    assert read_embeddings(written.path).crs is None
    assert "no CRS" in str(written)


def test_tiles_that_make_no_map_are_refused(model, tmp_path):
    rotated = Geo((RESOLUTION, 1.0, 0, 0, -RESOLUTION, 0), "EPSG:32632")
    with pytest.raises(ValueError, match=r"tile1: .*rotated"):
        embed_map(model, Places([tile_at(0, 0), rotated]), tmp_path / "map.tif")
    with pytest.raises(ValueError, match=r"1 of 2 tiles have no place, e\.g\. tile1"):
        embed_map(model, Places([tile_at(0, 0), None]), tmp_path / "map.tif")
    with pytest.raises(ValueError, match="none of the 1 tiles"):
        embed_map(model, Places([tile_at(0, 0)], absent=frozenset({0})), tmp_path / "map.tif")
    with pytest.raises(ValueError, match="'int16'"):
        embed_map(model, Places([tile_at(0, 0)]), tmp_path / "map.tif", dtype="int16")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_the_model_keeps_its_mode_and_its_fingerprint_follows_its_weights(quilt, model, tmp_path):
    model.train()
    before = fingerprint(model)
    embed_map(model, quilt, tmp_path / "map.tif")
    assert model.training
    assert fingerprint(model) == before == fingerprint(Positions())
    with torch.no_grad():
        model.scale += 1e-9
    assert fingerprint(model) != before


def test_a_full_disk_leaves_the_old_map(tmp_path):
    """In a process of its own, whose files may not grow beyond 8 KB."""
    path = tmp_path / "map.tif"
    path.write_bytes(b"the old map")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    script = (
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import numpy as np; from affine import Affine; from pathlib import Path\n"
        "from fusion.embed.raster import write_geotiff\n"
        "noise = np.random.default_rng(0).normal(size=(100, 100, 4)).astype(np.float32)\n"
        f"write_geotiff(Path({str(path)!r}), noise, Affine(1, 0, 0, 0, -1, 0), 'EPSG:32632', 'float32', {{}})\n"
    )
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, preexec_fn=limit, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr.splitlines()[-1]
    assert str(path) in done.stderr.splitlines()[-1]
    assert path.read_bytes() == b"the old map"
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]


def test_damaged_and_foreign_files_are_named(tmp_path):
    for name in ("map.tif", "map.npz"):
        (tmp_path / name).write_bytes(b"II*\0 not an image")
        with pytest.raises(ValueError, match=name):
            read_embeddings(tmp_path / name)
    profile = {"driver": "GTiff", "height": 2, "width": 2, "count": 1, "dtype": "int8"}
    with rasterio.open(tmp_path / "foreign.tif", "w", **profile) as file:
        file.write(np.ones((1, 2, 2), np.int8))
    with pytest.raises(ValueError, match="not written by this package"):
        read_embeddings(tmp_path / "foreign.tif")
