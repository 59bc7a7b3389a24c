"""What a map of embeddings says of its model, its data and its numbers."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import rasterio
import torch
import zarr
from torch import nn

from fusion.data import ArrayTiles, Geo, Modality
from fusion.embed import embed_map, fingerprint
from fusion.embed.formats.about import About, licence_beside

from .ground import stop_at

OPTICAL = Modality("s2", "series", ("B02", "B08"), 10.0, 2)
RADAR = Modality("s1", "image", ("VV",), 20.0, 1)
FIELDS = {"type", "dimensions", "model", "source_data", "data_type"}  # required by the convention


class Means(nn.Module):
    """Embeds a patch as the mean of each band over its dates."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        pixels = batch.values["s2"].mean(dim=1)  # (B, C, H, W)
        patches = nn.functional.avg_pool2d(pixels, 2).flatten(2).mT * self.weight
        return type("Encoding", (), {"patches": patches})


def tiles(count: int = 4) -> ArrayTiles:
    """Tiles of 4 x 4 pixels in a column, each with two dates of its own, later ones in the north."""
    rng = np.random.default_rng(0)
    values = {"s2": rng.uniform(1, 2, size=(count, 2, 2, 4, 4)).astype(np.float32)}
    values["s1"] = rng.uniform(1, 2, size=(count, 1, 2, 2)).astype(np.float32)
    days = {"s2": np.array([[250 - 3 * k, 252 - 3 * k] for k in range(count)])}
    places = [Geo((20.0, 0, 500, 0, -20.0, 9000 - 40.0 * k), "EPSG:32632") for k in range(count)]
    return ArrayTiles([OPTICAL, RADAR], values, days, grid=(2, 2), places=places, origin="2021-01-01")


def tags_of(path) -> dict[str, str]:
    with rasterio.open(path) as file:
        return file.tags()


def test_a_geotiff_says_what_made_it(tmp_path):
    model = Means()
    [written] = embed_map(model, tiles(), tmp_path / "map.tif", dtype="int8", licence="cc-by-4.0")
    tags = tags_of(written.path)
    assert {f"GEOEMB_{name.upper()}" for name in FIELDS} <= set(tags)
    assert (tags["GEOEMB_TYPE"], tags["GEOEMB_DIMENSIONS"], tags["GEOEMB_DATA_TYPE"]) == ("chip", "2", "int8")
    assert tags["GEOEMB_MODEL"] == f"urn:eo-fusion:model:Means:{fingerprint(model)}"
    assert json.loads(tags["GEOEMB_SOURCE_DATA"]) == ["urn:eo-fusion:modality:s2", "urn:eo-fusion:modality:s1"]
    assert json.loads(tags["GEOEMB_CHIP_LAYOUT"])["chip_size"] == [2, 2]
    assert json.loads(tags["GEOEMB_QUANTIZATION"])["original_dtype"] == "float32"
    assert (tags["FUSION_FIRST_DATE"], tags["FUSION_LAST_DATE"]) == ("2021-08-30", "2021-09-10")
    assert tags["FUSION_LICENCE"] == "cc-by-4.0"
    assert tags["FUSION_MODALITIES"] == "s2 (B02 B08), s1 (VV)"


def test_a_zarr_says_the_same_by_the_convention(tmp_path):
    [raster] = embed_map(Means(), tiles(), tmp_path / "map.tif")
    [written] = embed_map(Means(), tiles(), tmp_path / "map.zarr")
    tags, known = tags_of(raster.path), dict(zarr.open_group(written.path, mode="r").attrs)
    uuids = {convention["uuid"] for convention in known["zarr_conventions"]}
    assert "61c12cc5-0e28-4056-999a-480cf3fb7e4c" in uuids
    assert len(known["zarr_conventions"]) == 3
    assert {f"geoemb:{name}" for name in FIELDS | {"chip_layout"}} <= set(known)
    assert "geoemb:quantization" not in known, "float32"
    assert "FUSION_LICENCE" not in known, "unknown"
    for name, value in known.items():
        if name.startswith("geoemb:"):
            tag = tags[name.replace("geoemb:", "GEOEMB_").upper()]
            assert tag == (value if isinstance(value, str) else json.dumps(value))
    # as the convention's schema has it
    assert isinstance(known["geoemb:dimensions"], int)
    assert known["geoemb:gsd"] > 0
    assert all(re.fullmatch(r"[a-z]+:\S+", uri) for uri in [known["geoemb:model"], *known["geoemb:source_data"]])
    assert set(known["geoemb:chip_layout"]) <= {"layout_type", "chip_size", "stride", "grid_id", "grid_definition"}


def test_a_map_of_single_pixels_is_of_pixels():
    tags = {"FUSION_SYSTEM": "A b", "FUSION_MODEL": "0f", "FUSION_VERSION": "1"}
    fields = About(tags, [RADAR]).fields(3, "float32")
    assert (fields["type"], fields["gsd"]) == ("pixel", 20.0)
    assert "chip_layout" not in fields
    assert fields["model"] == "urn:eo-fusion:model:A%20b:0f"
    assert About(tags, [RADAR], 2).fields(3, "float32")["chip_layout"]["chip_size"] == [2, 2]


def test_dates_of_a_map_that_was_stopped_are_those_of_all_of_it(tmp_path, monkeypatch):
    data = tiles(80)  # 160 rows of patches, 3 strips
    [whole] = embed_map(Means(), data, tmp_path / "whole.tif", batch_size=4)

    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            embed_map(Means(), data, tmp_path / "map.tif", batch_size=4)
    embed_map(Means(), data, tmp_path / "map.tif", batch_size=4)
    assert tags_of(whole.path)["FUSION_FIRST_DATE"] == "2021-01-14"
    assert tags_of(tmp_path / "map.tif") == tags_of(whole.path)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlibrary_name: eo-fusion\nlicense: cc-by-4.0\n---\n# Fields\n", "cc-by-4.0"),
        ("---\nlicense: other\n---\n", None),
        ("---\ntags:\n---\nlicense: mit\n", None),
        ("# Notes\nlicense: mit\n", None),
        (None, None),
    ],
)
def test_the_licence_is_that_of_the_models_card(card, licence, tmp_path):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_beside(tmp_path) == licence
    assert licence_beside(tmp_path / "best.safetensors") == licence
