"""Maps of predictions: pixels where they belong, overlaps averaged, what a GIS reads in the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch

from fusion.data import ArrayTiles, Geo, collate
from fusion.embed import embed_map, predict_map
from fusion.training import Finetuning

from .ground import AERIAL, CLASSES, CRS, GRID, HEIGHT, WIDTH, cut, finetuned, scene


@pytest.fixture(scope="module")
def overlapping() -> ArrayTiles:
    return cut(scene(), (4, 6))


@pytest.fixture(scope="module")
def of_classes(overlapping) -> Finetuning:
    return finetuned(overlapping, "multiclass", CLASSES, label_shape=(HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def of_height(overlapping) -> Finetuning:
    return finetuned(
        overlapping, "regression", ("height",), label_shape=(HEIGHT, WIDTH), target_mean=[20.0], target_std=[5.0]
    )


def by_hand(module: Finetuning, tiles: ArrayTiles, shape: tuple[int, int]) -> np.ndarray:
    """(K, rows, columns): tile after tile, with weights 1, 2, ... towards the middle of a tile."""
    ramp = [np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in (HEIGHT, WIDTH)]
    total, weights = np.zeros((len(module.classes), *shape)), np.zeros(shape)
    with torch.inference_mode():
        for i, name in enumerate(tiles.names):
            out = module(collate([tiles[i]]))[0]
            said = out.numpy() if module.task == "regression" else out.softmax(0).numpy()
            top, left = (int(part[1:]) for part in name.split("_"))
            weight = np.outer(*ramp)
            total[:, top : top + HEIGHT, left : left + WIDTH] += weight * said
            weights[top : top + HEIGHT, left : left + WIDTH] += weight
    return total / weights


def as_gdal_sees(path: Path, tmp_path: Path) -> str:
    """The description of a raster by GDAL itself, as XML."""
    rasterio.shutil.copy(path, tmp_path / "seen.vrt", driver="VRT")
    return (tmp_path / "seen.vrt").read_text()


def test_overlapping_maps_of_classes_are_the_best_of_the_averaged_probabilities(overlapping, of_classes, tmp_path):
    [written] = predict_map(of_classes, overlapping, tmp_path / "map.tif", probabilities=True, batch_size=4)
    wanted = by_hand(of_classes, overlapping, (24, 36))
    assert len(np.unique(wanted.argmax(0))) > 1, "several classes, or the test says little"
    with rasterio.open(written.path) as file:
        assert (file.read(1) == wanted.argmax(0)).mean() > 0.999  # ties of two probabilities aside
        assert (file.count, file.dtypes[0], file.nodata, file.crs) == (1, "uint8", 255, CRS)
        assert tuple(file.transform)[:6] == (10.0, 0.0, 500.0, 0.0, -10.0, 900.0)
    with rasterio.open(written.probabilities) as file:
        assert (file.descriptions, file.nodata) == (CLASSES, 255)
        np.testing.assert_allclose(file.read() * np.array(file.scales)[:, None, None], wanted, atol=0.5 / 254 + 1e-5)
        assert file.tags()["FUSION_DECODE"].startswith("probability = v / 254")
    assert written.probabilities.name == "map_probabilities.tif"
    assert written.shape == (24, 36)
    assert "pixels of 10 x 10" in str(written)


def test_overlapping_maps_of_a_quantity_are_averaged_in_its_unit(overlapping, of_height, tmp_path):
    [written] = predict_map(of_height, overlapping, tmp_path / "map.tif")
    with rasterio.open(written.path) as file:
        np.testing.assert_allclose(file.read(), by_hand(of_height, overlapping, (24, 36)), rtol=1e-4, atol=1e-3)
        assert (file.dtypes[0], file.descriptions) == ("float32", ("height",))
        assert np.isnan(file.nodata)


def test_no_border_of_a_tile_is_seen_where_tiles_overlap(overlapping, of_height, tmp_path):
    """Side by side they are: the head knows nothing beyond the border of its tile."""

    def steps(tiles: ArrayTiles, name: str) -> tuple[float, float]:
        """Mean step from column to column at the borders of side-by-side tiles, and elsewhere."""
        [written] = predict_map(of_height, tiles, tmp_path / name)
        with rasterio.open(written.path) as file:
            change = np.abs(np.diff(file.read(1), axis=1)).mean(axis=0)
        border = np.isin(np.arange(1, 36), [12, 24])
        return float(change[border].mean()), float(change[~border].mean())

    border, inside = steps(cut(scene(), (HEIGHT, WIDTH)), "side-by-side.tif")
    assert border > 3 * inside
    border, inside = steps(overlapping, "overlapping.tif")
    assert border < 1.5 * inside


def test_names_and_colours_of_classes_are_where_gdal_finds_them(overlapping, of_classes, tmp_path):
    [written] = predict_map(of_classes, overlapping, tmp_path / "map.tif")
    told = as_gdal_sees(written.path, tmp_path)
    assert "<Category>water</Category>" in told
    assert "<Category>oak &amp; beech</Category>" in told
    with rasterio.open(written.path) as file:
        colours = file.colormap(1)
        assert len({colours[k] for k in range(3)}) == 3
        assert json.loads(file.tags()["FUSION_CLASSES"]) == list(CLASSES)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_a_map_of_a_quantity_in_place_of_one_of_classes_has_no_names_of_classes(
    overlapping, of_classes, of_height, tmp_path
):
    predict_map(of_classes, overlapping, tmp_path / "map.tif")
    [written] = predict_map(of_height, overlapping, tmp_path / "map.tif")
    assert "Category" not in as_gdal_sees(written.path, tmp_path)


def test_large_maps_have_overviews(overlapping, of_classes, tmp_path):
    wide = cut(scene(HEIGHT, 636), (HEIGHT, WIDTH))
    [written] = predict_map(of_classes, wide, tmp_path / "map.tif")
    with rasterio.open(written.path) as file:
        assert file.shape == (HEIGHT, 636)
        assert file.overviews(1)


def test_tiles_without_an_observation_are_no_data(of_classes, of_height, tmp_path):
    tiles = cut(scene(), (HEIGHT, WIDTH), missing=(4,))
    [classes] = predict_map(of_classes, tiles, tmp_path / "classes.tif", probabilities=True)
    [height] = predict_map(of_height, tiles, tmp_path / "height.tif")
    hole = np.zeros((24, 36), dtype=bool)
    hole[8:16, 12:24] = True
    for path in (classes.path, classes.probabilities, height.path):
        with rasterio.open(path) as file:
            assert ((file.read_masks() == 0) == hole).all(), path


def test_data_may_have_no_label_and_another_set_of_tiles(of_classes, tmp_path):
    """The pixels are those that the module was trained on; two tiles far apart are two rasters."""
    ground = scene()
    far = ArrayTiles(
        [AERIAL],
        {"aerial": np.stack([ground[:, :HEIGHT, :WIDTH]] * 2)},
        grid=GRID,
        places=[Geo((10.0, 0, x, 0, -10.0, 900), CRS) for x in (500.0, 90_500.0)],
    )
    written = predict_map(of_classes, far, tmp_path / "map.tif", probabilities=True)
    assert [w.path.relative_to(tmp_path).as_posix() for w in written] == ["map/0.tif", "map/1.tif"]
    assert [w.probabilities.name for w in written] == ["0_probabilities.tif", "1_probabilities.tif"]


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_models_of_whole_tiles_write_a_pixel_a_tile(task, tmp_path):
    tiles = cut(scene(), (HEIGHT, WIDTH))
    module = finetuned(tiles, task, CLASSES)
    [written] = predict_map(module, tiles, tmp_path / "map.tif")
    with torch.inference_mode():
        out = module(collate([tiles[i] for i in range(9)])).numpy()  # (9, 3)
    wanted = {"multiclass": out.argmax(1)[:, None], "multilabel": out > 0, "regression": out}[task]
    with rasterio.open(written.path) as file:
        np.testing.assert_allclose(file.read().reshape(-1, 9).T, wanted, rtol=1e-4, atol=1e-5)
        assert tuple(file.transform)[:6] == (120.0, 0.0, 500.0, 0.0, -80.0, 900.0)
        assert file.descriptions == (("class",) if task == "multiclass" else CLASSES)


def test_overlapping_tiles_with_a_value_each_are_averaged_on_patches(overlapping, tmp_path):
    tiles = cut(scene(HEIGHT, 20), (HEIGHT, 8))  # two, that share one of their three columns of patches
    module = finetuned(tiles, "regression", ("yield",))
    [written] = predict_map(module, tiles, tmp_path / "map.tif")
    with torch.inference_mode():
        first, second = module(collate([tiles[0], tiles[1]])).flatten().tolist()
    with rasterio.open(written.path) as file:
        wanted = [first, first, (first + second) / 2, second, second]
        np.testing.assert_allclose(file.read(1), [wanted] * 2, rtol=1e-4)
        assert file.transform.a == 40.0


def test_tiles_without_a_place_go_into_an_npz_by_name(of_classes, tmp_path):
    tiles = cut(scene(), (HEIGHT, WIDTH), placed=False, missing=(0,))
    [written] = predict_map(of_classes, tiles, tmp_path / "map.tif", probabilities=True)
    assert written.path.name == "map.npz"
    with np.load(written.path) as file:
        assert file["names"].tolist() == tiles.names
        assert file["prediction"].shape == (9, 1, HEIGHT, WIDTH)
        assert (file["prediction"][0] == 255).all()
        assert (file["prediction"][1:] < 3).all()
        share = file["probabilities"][1:] / 254
        np.testing.assert_allclose(share.sum(1), 1, atol=0.01)
        assert "not georeferenced" in json.loads(str(file["tags"]))["prediction"]["FUSION_NOTE"]


def test_the_module_stays_in_its_mode(overlapping, of_classes, tmp_path):
    of_classes.train()
    predict_map(of_classes, overlapping, tmp_path / "map.tif")
    assert of_classes.training
    of_classes.eval()


def test_what_makes_no_map_is_refused(overlapping, of_classes, of_height, tmp_path):
    with pytest.raises(TypeError, match="OmniSat has no head for labels"):
        predict_map(of_classes.model, overlapping, tmp_path / "map.tif")
    with pytest.raises(ValueError, match="height is a quantity, it has no probabilities"):
        predict_map(of_height, overlapping, tmp_path / "map.tif", probabilities=True)
    for placed in (True, False):
        absent = cut(scene(), (HEIGHT, WIDTH), missing=tuple(range(9)), placed=placed)
        with pytest.raises(ValueError, match="none of the 9 tiles"):
            predict_map(of_classes, absent, tmp_path / "map.tif")
    many = finetuned(overlapping, "multiclass", tuple(map(str, range(256))))
    with pytest.raises(ValueError, match="256 classes"):
        predict_map(many, overlapping, tmp_path / "map.tif")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_class_map_and_an_embedding_of_the_same_tiles_lie_on_each_other(of_classes, tmp_path):
    tiles = cut(scene(), (4, 8))
    [classes] = predict_map(of_classes, tiles, tmp_path / "classes.tif")
    [vectors] = embed_map(of_classes.model, tiles, tmp_path / "vectors.tif")
    with rasterio.open(classes.path) as a, rasterio.open(vectors.path) as b:
        assert a.bounds == b.bounds


def test_rows_that_run_north_are_turned_over(overlapping, of_height, tmp_path):
    ground = scene(HEIGHT, WIDTH)
    south_up = Geo((10.0, 0, 500.0, 0, 10.0, 820.0), CRS)
    tiles = ArrayTiles([AERIAL], {"aerial": ground[None]}, grid=GRID, places=[south_up])
    [written] = predict_map(of_height, tiles, tmp_path / "map.tif")
    with rasterio.open(written.path) as file, torch.inference_mode():
        assert tuple(file.transform)[:6] == (10.0, 0.0, 500.0, 0.0, -10.0, 900.0)
        np.testing.assert_allclose(file.read(1)[::-1], of_height(collate([tiles[0]]))[0, 0], rtol=1e-4, atol=1e-3)


def test_a_full_disk_leaves_the_old_map(tmp_path):
    """In a process of its own, whose files may not grow beyond 8 KB."""
    path = tmp_path / "map.tif"
    path.write_bytes(b"the old map")
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import numpy as np, rasterio, rasterio.shutil, matplotlib\n"
        "from affine import Affine; from pathlib import Path\n"
        "from fusion.embed.cog import Sheet, write_cog\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "noise = np.random.default_rng(0).normal(size=(100, 100, 4)).astype(np.float32)\n"
        "sheet = Sheet(lambda v: np.moveaxis(v, -1, 0), tuple('abcd'), 'float32', np.nan)\n"
        f"write_cog(Path({str(path)!r}), noise, sheet, Affine(1, 0, 0, 0, -1, 0), 'EPSG:32632')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."}
    )
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr.splitlines()[-1]
    assert str(path) in done.stderr.splitlines()[-1]
    assert path.read_bytes() == b"the old map"
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]


def test_bfloat16_says_nearly_the_same_and_auto_of_a_small_map_is_float32(of_classes, tmp_path):
    tiles, maps = cut(scene(), (HEIGHT, WIDTH)), {}
    for precision in ("float32", "auto", "bfloat16"):
        (written,) = embed_map(of_classes.model, tiles, tmp_path / f"{precision}.tif", precision=precision)
        with rasterio.open(written.path) as file:
            maps[precision] = file.read().reshape(file.count, -1)  # (D, pixels)
    np.testing.assert_array_equal(maps["auto"], maps["float32"])
    assert not np.array_equal(maps["bfloat16"], maps["float32"])
    norms = [np.linalg.norm(maps[name], axis=0) for name in ("bfloat16", "float32")]
    cosine = (maps["bfloat16"] * maps["float32"]).sum(0) / (norms[0] * norms[1])
    assert cosine.mean() > 0.999
    with pytest.raises(ValueError, match="precision is auto, float32 or bfloat16, not 'half'"):
        embed_map(of_classes.model, tiles, tmp_path / "half.tif", precision="half")
