"""STAC items, collections of items and catalogs with files beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fusion.data.describe import describe

from .describing import comment, described, questions, values
from .rasters import DATES, DAYS, image, write
from .test_describe_rasters import SIDE

NAMES = {"red": "B04", "nir": "B08"}


def item(date, assets, **properties):
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"S2A_31UFS_{date}",
        "geometry": None,
        "properties": {"datetime": f"{date}T10:50:31Z", "constellation": "sentinel-2", **properties},
        "assets": assets,
        "links": [],
    }


def band_assets(stamp, where=""):
    """As Earth Search has them: an asset a band, with scale and offset."""
    found = {
        key: {
            "href": f"{where}S2_{stamp}_{name}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data", "reflectance"],
            "eo:bands": [{"name": key, "common_name": key}],
            "raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}],
        }
        for key, name in NAMES.items()
    }
    return found | {"thumbnail": {"href": f"{where}preview.jpg", "roles": ["thumbnail"]}}


def write_bands(folder):
    for k, date in enumerate(DATES):
        for number, band in enumerate(NAMES.values()):
            write(folder / f"S2_{date.replace('-', '')}_{band}.tif", image(k, 2, SIDE)[number])


def check_bands(guess, data):
    (modality,) = data.modalities
    assert (modality.name, modality.bands, modality.unit) == ("s2", ("B04", "B08"), "reflectance")
    wanted = np.stack([image(k, 2, SIDE) for k in range(3)]) * 1e-4 - 0.1
    np.testing.assert_allclose(values(data, "s2"), wanted, rtol=1e-4, atol=1e-6)
    assert data[0].days["s2"].tolist() == DAYS
    assert guess.description["modalities"]["s2"]["nodata"] == 0
    assert comment(guess, "modalities", "s2", "offset") == "from the STAC items"
    assert not questions(guess)


def test_items_with_a_file_a_band_bring_scale_and_offset(tmp_path):
    write_bands(tmp_path)
    for date in DATES:
        (tmp_path / f"{date}.json").write_text(json.dumps(item(date, band_assets(date.replace("-", ""), "./"))))
    check_bands(*described(tmp_path))


def test_a_collection_of_items_is_described_from_its_file(tmp_path):
    write_bands(tmp_path)
    features = [item(date, band_assets(date.replace("-", ""))) for date in DATES]
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    check_bands(*described(path))


def test_a_catalog_leads_to_its_items(tmp_path):
    write_bands(tmp_path / "data")
    links = []
    for date in DATES:
        (tmp_path / f"{date}.json").write_text(json.dumps(item(date, band_assets(date.replace("-", ""), "data/"))))
        links.append({"rel": "item", "href": f"./{date}.json"})
    catalog = {"type": "Catalog", "stac_version": "1.0.0", "id": "mine", "description": "", "links": links}
    (tmp_path / "catalog.json").write_text(json.dumps(catalog))
    check_bands(*described(tmp_path / "catalog.json"))


def test_one_file_an_item_takes_the_names_of_its_bands(tmp_path):
    """As STAC 1.1 has them, without names in the file."""
    for k, date in enumerate(DATES):
        write(tmp_path / f"scene_{date}.tif", image(k, 2, SIDE))
        asset = {"href": f"scene_{date}.tif", "roles": ["data"], "bands": [{"name": "B04"}, {"name": "B08"}]}
        (tmp_path / f"{date}.json").write_text(json.dumps(item(date, {"data": asset})))
    guess, data = described(tmp_path)
    assert data.modalities[0].bands == ("B04", "B08")
    assert comment(guess, "modalities", "s2", "bands") == "from the bands in the STAC items"
    np.testing.assert_array_equal(values(data, "s2"), np.stack([image(k, 2, SIDE) for k in range(3)]))
    assert not guess.questions


def test_a_date_that_no_name_has_is_a_question(tmp_path):
    write(tmp_path / "scene_2020-04-11.tif", image(0, 2, SIDE))
    asset = {"href": "scene_2020-04-11.tif", "roles": ["data"], "bands": [{"name": "B04"}, {"name": "B08"}]}
    (tmp_path / "a.json").write_text(json.dumps(item("2020-04-10", {"data": asset})))
    assert "Their items say 2020-04-10, their names 2020-04-11" in describe(tmp_path).open_questions[0]


def test_remote_assets_are_told_with_what_to_do(tmp_path):
    assets = band_assets("20200410", "https://example.org/tiles/")
    (tmp_path / "a.json").write_text(json.dumps(item("2020-04-10", assets)))
    with pytest.raises(
        ValueError,
        match=r"the 2 assets of 1 STAC items are remote, e.g. https://example.org/tiles/S2_.*; download them",
    ):
        describe(tmp_path)


def test_missing_assets_are_named(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(item("2020-04-10", band_assets("20200410"))))
    with pytest.raises(
        ValueError, match=r"1 STAC items have no raster beside them, e.g. .*S2_20200410_B04.tif is miss"
    ):
        describe(tmp_path)
