"""What lies beside a map of predictions: entropy, the style for QGIS, a picture; and that all rasters are COGs."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from matplotlib.image import imread
from rio_cogeo import cog_validate

from fusion.data import ArrayTiles, collate
from fusion.embed import PredictedMap, predict_map
from fusion.embed.cog import Sheet, write_cog
from fusion.embed.preview import overview, write_preview, write_styles
from fusion.embed.sheets import sheets_of
from fusion.training import Finetuning
from fusion.training.conformal import ConformalInterval

from .ground import CLASSES, HEIGHT, WIDTH, cut, finetuned, scene

COLUMNS = 636


@pytest.fixture(scope="module")
def wide() -> ArrayTiles:
    """A raster of two blocks, with an overview; its first tile has no observation."""
    return cut(scene(HEIGHT, COLUMNS), (HEIGHT, WIDTH), missing=(0,))


@pytest.fixture(scope="module")
def of_classes(wide) -> Finetuning:
    return finetuned(wide, "multiclass", CLASSES, label_shape=(HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def classes(wide, of_classes, tmp_path_factory) -> PredictedMap:
    out = tmp_path_factory.mktemp("classes") / "map.tif"
    return predict_map(of_classes, wide, out, probabilities=True, entropy=True)[0]


@pytest.fixture(scope="module")
def heights(wide, tmp_path_factory) -> PredictedMap:
    settings = {"label_shape": (HEIGHT, WIDTH), "target_mean": [20.0], "target_std": [5.0]}
    module = finetuned(wide, "regression", ("height",), **settings)
    return predict_map(module, wide, tmp_path_factory.mktemp("heights") / "map.tif")[0]


def renderer(raster: Path) -> ElementTree.Element:
    root = ElementTree.parse(raster.with_suffix(".qml")).getroot()
    assert root.tag == "qgis"
    (found,) = root.findall("pipe/rasterrenderer")
    assert found.attrib["band"] == "1"
    return found


def test_quantities_with_an_interval_have_three_bands_each(tmp_path):
    tiles = cut(scene(), (HEIGHT, WIDTH), missing=(4,))
    plain = finetuned(tiles, "regression", ("height", "biomass"))
    with torch.inference_mode():
        said = plain(collate([tiles[i] for i in range(9) if i != 4])).numpy()  # (8, 2)
    middle = float(np.median(said[:, 0]))
    saved = [
        ConformalInterval(0.9, (middle,), (1.0, 3.0), (100, 100)).to_dict(),
        ConformalInterval(0.9, (), (0.5,), (30,)).to_dict(),
    ]
    module = finetuned(tiles, "regression", ("height", "biomass"), intervals=saved)
    [written] = predict_map(module, tiles, tmp_path / "map.tif")
    with rasterio.open(written.path) as file:
        bands, names = file.read().reshape(6, 9), file.descriptions
        assert json.loads(file.tags()["FUSION_INTERVAL"]) == saved
    assert names == ("height", "height_lower", "height_upper", "biomass", "biomass_lower", "biomass_upper")
    assert np.isnan(bands[:, 4]).all()
    known = np.delete(bands, 4, axis=1)
    np.testing.assert_allclose(known[[0, 3]].T, said, rtol=1e-4, atol=1e-5)
    half = np.where(known[0] >= middle, 3.0, 1.0)
    np.testing.assert_allclose(known[1:3], [known[0] - half, known[0] + half], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(known[4:], [known[3] - 0.5, known[3] + 0.5], rtol=1e-4, atol=1e-5)
    assert imread(written.preview).ndim == 3


def test_what_has_the_face_of_a_predictor_needs_be_no_module(wide, of_classes, classes, tmp_path):
    class Saved:
        """A model that only answers."""

        task, classes, dense, hparams = "multiclass", CLASSES, True, {"label_shape": (HEIGHT, WIDTH)}
        model, fingerprint = of_classes.model, "probe-1"

        def __call__(self, batch):
            return of_classes(batch)

    [written] = predict_map(Saved(), wide, tmp_path / "map.tif")
    with rasterio.open(written.path) as file, rasterio.open(classes.path) as other:
        assert np.array_equal(file.read(), other.read())
        assert file.tags()["FUSION_MODEL"].endswith("-probe-1")


def test_every_raster_is_a_valid_cog_with_overviews(classes, heights):
    for path in (classes.path, classes.probabilities, classes.entropy, heights.path):
        valid, errors, warnings = cog_validate(path, strict=True)
        assert valid, (path, errors, warnings)
        with rasterio.open(path) as file:
            assert file.overviews(1) == [2]


def test_the_entropy_of_probabilities_is_a_part_of_the_largest():
    rows = np.array([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [np.nan] * 4], dtype=np.float32)[None]
    of = sheets_of("multiclass", ("a", "b", "c", "d"), {}, entropy=True)["entropy"]
    assert of.store(rows).tolist() == [[[0, 254, 127, 255]]]
    each = sheets_of("multilabel", ("a", "b", "c", "d"), {}, entropy=True)["entropy"]
    rows = np.array([[1, 0, 0, 1], [0.5] * 4, [0.5, 0.5, 0, 1], [np.nan] * 4], dtype=np.float32)[None]
    assert each.store(rows).tolist() == [[[0, 254, 127, 255]]]


def test_a_map_of_entropy_is_that_of_the_map_of_probabilities(classes):
    with rasterio.open(classes.entropy) as file, rasterio.open(classes.probabilities) as other:
        entropy, p = file.read(1, masked=True) * file.scales[0], other.read(masked=True) / 254
        assert (entropy.mask == p.mask[0]).all()
        assert entropy.mask[:, :WIDTH].all()
    p = p.filled(0)[:, ~entropy.mask]
    wanted = -(p * np.log(np.maximum(p, 1e-9))).sum(0) / np.log(3)
    assert np.ptp(wanted) > 0.1, "it varies, or the test says little"
    np.testing.assert_allclose(entropy.compressed(), wanted, atol=0.03)  # of probabilities in steps of 1 / 254
    assert classes.entropy.name == "map_entropy.tif"


def test_the_entropy_of_a_quantity_is_refused(wide, of_classes, tmp_path):
    module = finetuned(wide, "regression", ("height",), label_shape=(HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="height is a quantity, it has no probabilities and no entropy"):
        predict_map(module, wide, tmp_path / "map.tif", entropy=True)


def test_tiles_without_a_place_have_entropy_in_their_npz(of_classes, tmp_path):
    tiles = cut(scene(), (HEIGHT, WIDTH), placed=False)
    [written] = predict_map(of_classes, tiles, tmp_path / "map.tif", entropy=True)
    with np.load(written.path) as file:
        assert file["entropy"].shape == (9, 1, HEIGHT, WIDTH)


def test_qgis_finds_the_names_and_colours_of_classes(classes):
    style = renderer(classes.path)
    assert style.attrib["type"] == "paletted"
    entries = style.findall("colorPalette/paletteEntry")
    assert [(entry.attrib["value"], entry.attrib["label"]) for entry in entries] == [
        ("0", "water"),
        ("1", "oak & beech"),
        ("2", "maize"),
    ]
    with rasterio.open(classes.path) as file:
        table = file.colormap(1)
    assert [entry.attrib["color"] for entry in entries] == ["#{:02x}{:02x}{:02x}".format(*table[k]) for k in range(3)]
    assert {entry.attrib["alpha"] for entry in entries} == {"255"}


def test_qgis_stretches_a_quantity_from_its_second_to_its_98th_percentile(heights):
    style = renderer(heights.path)
    assert style.attrib["type"] == "singlebandpseudocolor"
    (shader,) = style.findall("rastershader/colorrampshader")
    assert shader.attrib["colorRampType"] == "INTERPOLATED"
    values = [float(item.attrib["value"]) for item in shader.findall("item")]
    with rasterio.open(heights.path) as file:
        low, high = np.nanpercentile(file.read(1), [2, 98])
    np.testing.assert_allclose(values, np.linspace(low, high, 5), rtol=1e-4)
    assert float(style.attrib["classificationMin"]) == pytest.approx(low, rel=1e-4)
    assert float(style.attrib["classificationMax"]) == pytest.approx(high, rel=1e-4)
    assert all(item.attrib["color"].startswith("#") and item.attrib["label"] for item in shader)


def test_qgis_draws_shares_from_0_to_1(classes):
    for path in (classes.probabilities, classes.entropy):  # QGIS multiplies by the scale of a band
        values = [float(item.attrib["value"]) for item in renderer(path).iter("item")]
        assert (values[0], values[-1]) == (0, 1)


def test_qgis_finds_absent_and_present_where_several_classes_may_be(tmp_path):
    tiles = cut(scene(), (HEIGHT, WIDTH))
    [written] = predict_map(finetuned(tiles, "multilabel", CLASSES), tiles, tmp_path / "map.tif")
    labels = [entry.attrib["label"] for entry in renderer(written.path).iter("paletteEntry")]
    assert labels == ["water: absent", "water: present"]
    assert imread(written.preview).ndim == 3


def test_a_picture_shows_the_classes_that_are_there_in_their_colours(classes):
    picture = (imread(classes.preview)[..., :3] * 255).round().astype(int)
    pixels = {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    with rasterio.open(classes.path) as file:
        table, there = file.colormap(1), set(np.unique(file.read(1)).tolist()) - {255}
    assert there, "one class at least"
    for k in range(3):
        assert (table[k][:3] in pixels) == (k in there), CLASSES[k]
    assert classes.preview.name == "map.png"


def test_styles_and_pictures_read_overviews_and_not_the_whole_raster(tmp_path, monkeypatch):
    values = np.broadcast_to(np.linspace(0, 1, 4000, dtype=np.float32), (40, 4000))[..., None]
    sheet = Sheet(lambda v: np.moveaxis(v, -1, 0), ("height",), "float32", np.nan)
    path = tmp_path / "map.tif"
    write_cog(path, values, sheet, Affine(2, 0, 0, 0, -2, 0), "EPSG:32632")
    assert overview(path).shape == (1, 10, 1000)
    opened = []
    read = rasterio.open
    monkeypatch.setattr(rasterio, "open", lambda *given, **how: opened.append(how) or read(*given, **how))
    write_styles(path, sheet)
    write_preview(path, sheet)
    assert [how for how in opened if how] == [{"overview_level": 1}] * 2
    ends = [float(renderer(path).attrib[f"classification{end}"]) for end in ("Min", "Max")]
    assert ends == pytest.approx([0.02, 0.98], abs=0.001)
    assert imread(io.BytesIO(path.with_suffix(".png").read_bytes())).shape[2] == 4


def test_a_quantity_without_any_value_has_a_style_and_a_picture(tmp_path):
    sheet = Sheet(lambda v: np.moveaxis(v, -1, 0), ("height",), "float32", np.nan)
    for name, value in (("empty", np.nan), ("flat", 7.0)):
        path = tmp_path / f"{name}.tif"
        write_cog(path, np.full((20, 20, 1), value, np.float32), sheet, Affine(2, 0, 0, 0, -2, 0), "EPSG:32632")
        write_styles(path, sheet)
        assert write_preview(path, sheet).is_file()
    assert [item.attrib["value"] for item in renderer(path).iter("item")] == ["7"]


@pytest.mark.filterwarnings("error")
def test_many_classes_with_long_names_have_room_beside_a_flat_map(tmp_path):
    names = tuple(f"a class with a rather long name, number {k}" for k in range(60))
    [of_many] = sheets_of("multiclass", names, {}).values()
    values = np.eye(60, dtype=np.float32)[None].repeat(4, 0)  # every class once, in 4 rows
    path = tmp_path / "map.tif"
    write_cog(path, values, of_many, Affine(2, 0, 0, 0, -2, 0), "EPSG:32632")
    assert imread(write_preview(path, of_many)).shape[0] > 120 * 0.18 * 40
