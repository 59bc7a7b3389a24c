"""Maps of data of which a part cannot be read: that part is no data and named, all else is as without the damage."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
import yaml
from affine import Affine

from fusion.cli import main
from fusion.context import ContextFusion, FusionConfig, SensorConfig
from fusion.data import ArrayTiles, FolderDataset, Modality, open_cubes
from fusion.data.cubes import observed_statistics
from fusion.data.files import DamagedFile
from fusion.embed import embed_cube, embed_map, open_embeddings, predict_map
from fusion.embed.blend import _Batches
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import Finetuning, save_model

from .ground import cut, scene

SIDE, BLOCK = 96, 32  # pixels of 10 m: of the ground, and of a block of a file
BANDS, UNIT, DAYS = ("B04", "B08"), "reflectance x 10000", ["2021-04-01", "2021-06-01", "2021-08-01"]
S2 = Modality("s2", "series", BANDS, 10.0, 1, UNIT, (1700.0,) * 2, (900.0,) * 2)
SOURCE = {"bands": list(BANDS), "resolution": 10, "unit": UNIT}
FORMATS = {
    "GeoTIFF": SOURCE | {"files": "s2_{date}.tif"},
    "Zarr": SOURCE | {"files": "cube.zarr", "variable": "s2", "dates": DAYS},
    "HDF5": SOURCE | {"files": "cube.h5", "variable": "s2", "dates": DAYS},
}


def write(folder: Path, kind: str) -> Path:
    """A season in one format; its description."""
    rng = np.random.default_rng(0)
    values = rng.integers(200, 4000, (len(DAYS), len(BANDS), SIDE, SIDE)).astype(np.uint16)
    if kind == "GeoTIFF":
        profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 2, "dtype": "uint16", "compress": "lzw"}
        profile |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "crs": "EPSG:32631"}
        for day, image in zip(DAYS, values, strict=True):
            with rasterio.open(
                folder / f"s2_{day}.tif", "w", transform=Affine(10, 0, 5e5, 0, -10, 5.6e6), **profile
            ) as f:
                f.write(image)
    else:
        y, x = 5.6e6 - 10 * (np.arange(SIDE) + 0.5), 5e5 + 10 * (np.arange(SIDE) + 0.5)
        cube = xr.DataArray(values, {"y": y, "x": x}, ("time", "band", "y", "x"), "s2", {"crs": "EPSG:32631"})
        chunks = (len(DAYS), len(BANDS), BLOCK, BLOCK)
        if kind == "Zarr":
            cube.to_dataset().to_zarr(folder / "cube.zarr", encoding={"s2": {"chunks": chunks}}, zarr_format=2)
        else:
            encoding = {"s2": {"chunksizes": chunks, "zlib": True, "fletcher32": True}}
            cube.to_dataset().to_netcdf(folder / "cube.h5", engine="h5netcdf", encoding=encoding)
    description = {"files": "{scene}.tif", "tile": 80, "patch": 10, "modalities": {"s2": FORMATS[kind]}}
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(description))
    return path


def damage(folder: Path, kind: str) -> None:
    """Overwrites the block in the middle, of GeoTIFFs that of the second date."""
    if kind == "Zarr":
        chunk = folder / "cube.zarr" / "s2" / "0.0.1.1"
        chunk.write_bytes(chunk.read_bytes()[:100])
        return
    if kind == "HDF5":
        import h5py

        with h5py.File(folder / "cube.h5") as file:
            offset = file["s2"].id.get_chunk_info_by_coord((0, 0, BLOCK, BLOCK)).byte_offset
        path = folder / "cube.h5"
    else:
        path = folder / f"s2_{DAYS[1]}.tif"
        with rasterio.open(path) as file:
            offset = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[offset : offset + 200] = bytes(200)
    path.write_bytes(bytes(content))


@pytest.fixture(scope="module")
def model() -> OmniSat:
    torch.manual_seed(0)
    return OmniSat(OmniSatConfig.preset("tiny", [S2], (8, 8), dim=16, mlp_dim=32, heads=2, series_heads=2)).eval()


def tiles(description: Path) -> FolderDataset:
    return FolderDataset(description, description.parent, labels=False).covering()


def lost(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(rows, columns) where the map is no data; elsewhere, but for the neighbours of these, it is what it was."""
    gone = np.isnan(after).all(axis=0)
    assert gone.any()
    assert not np.isnan(before).any()
    # A patch that lay in several tiles, of which one is lost, is the average of the others.
    same = np.isclose(before, after, atol=1e-5).all(axis=0)
    rows, columns = np.nonzero(~same)
    assert rows.min() >= BLOCK - 8
    assert rows.max() < 2 * BLOCK + 8
    assert columns.min() >= BLOCK - 8
    assert columns.max() < 2 * BLOCK + 8
    return gone


@pytest.mark.parametrize("memory", [0, 1 << 30], ids=["windows", "in memory"])
@pytest.mark.parametrize("kind", FORMATS)
def test_ground_that_cannot_be_read_is_no_data_and_named(kind, memory, model, tmp_path):
    description = write(tmp_path, kind)
    embed_map(model, tiles(description), tmp_path / "before.tif")
    damage(tmp_path, kind)
    dataset = FolderDataset(description, tmp_path, labels=False, memory=memory).covering()
    (written,) = embed_map(model, dataset, tmp_path / "after.tif")
    before, after = (rasterio.open(tmp_path / f"{name}.tif").read() for name in ("before", "after"))
    gone = lost(before, after)
    assert gone[BLOCK + 4 : 2 * BLOCK - 4, BLOCK + 4 : 2 * BLOCK - 4].all()
    assert written.damaged
    assert all("cannot be read, the file is damaged" in reason for reason in written.damaged.values())
    told = str(written)
    assert f"{len(written.damaged)} tiles are no data, for their files cannot be read" in told
    assert FORMATS[kind]["files"].replace("{date}", DAYS[1]) in told


def test_tiles_on_both_sides_of_what_is_damaged_are_not_read_together_again(monkeypatch):
    """A reader may read neighbours as one window, and then the damaged tile between them, too."""
    ground = cut(scene(24, 60), (8, 12))  # 3 x 5 tiles
    single, together = ArrayTiles.__getitem__, ArrayTiles.gather

    def one(self, number):
        if number == 7:
            raise DamagedFile("ground.tif: cannot be read, the file is damaged")
        return single(self, number)

    def several(self, numbers):
        if min(numbers) <= 7 <= max(numbers):
            raise DamagedFile("ground.tif: cannot be read, the file is damaged")
        return together(self, numbers)

    monkeypatch.setattr(ArrayTiles, "__getitem__", one)
    monkeypatch.setattr(ArrayTiles, "gather", several)
    found, batch, damaged = _Batches(ground).__getitems__(range(15))
    assert found == [number != 7 for number in range(15)]
    assert list(damaged) == [ground.name(7)]
    assert batch is not None
    assert batch.names == tuple(name for name in ground.names if name != ground.name(7))


def test_damage_that_was_met_before_an_interruption_is_named_after_it(model, tmp_path, monkeypatch):
    from fusion.embed.working import WorkingRaster

    description = write(tmp_path, "Zarr")
    damage(tmp_path, "Zarr")
    (whole,) = embed_map(model, tiles(description), tmp_path / "whole.tif", batch_size=4)
    noted = WorkingRaster._note

    def note(self, entry):
        noted(self, entry)
        if entry.get("strip") == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WorkingRaster, "_note", note)
        with pytest.raises(KeyboardInterrupt):
            embed_map(model, tiles(description), tmp_path / "map.tif", batch_size=4)
    (written,) = embed_map(model, tiles(description), tmp_path / "map.tif", batch_size=4)
    assert written.damaged == whole.damaged
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_where_nothing_can_be_read_the_reason_is_told(model, tmp_path):
    description = write(tmp_path, "Zarr")
    damage(tmp_path, "Zarr")
    dataset = tiles(description)
    inside = [k for k, (_, *corner) in enumerate(dataset.ground()) if corner == [360, 360]]
    with pytest.raises(ValueError, match=r"has an observation: there is no map\n.*\n.*cube\.zarr: cannot be read"):
        embed_map(model, dataset.subset(inside), tmp_path / "map.tif")


def test_the_commands_write_the_rest_and_exit_with_1(model, tmp_path, capsys):
    torch.manual_seed(1)
    head = Finetuning(model, "multiclass", ("maize", "wheat"), label_shape=(8, 8)).eval()
    save_model(tmp_path / "run" / "best.safetensors", model, finetuned=head)
    description = write(tmp_path, "Zarr")
    dataset = tiles(description)
    predict_map(head, dataset, tmp_path / "before.tif")
    damage(tmp_path, "Zarr")
    for command in ("embed", "predict"):
        out = tmp_path / f"{command}.tif"
        given = ["--data", str(tmp_path), "--reader.cube", str(description), "--out", str(out)]
        assert main([command, str(tmp_path / "run"), *given]) == 1
        assert re.search(r"tiles are no data, for their files cannot be read:\n.*cube\.zarr", capsys.readouterr().out)
        assert out.is_file()
        assert not out.with_name(f"{out.name}.partial").exists()
    before, after = (rasterio.open(tmp_path / f"{name}.tif").read(1) for name in ("before", "predict"))
    gone = after == 255
    assert gone[BLOCK + 4 : 2 * BLOCK - 4, BLOCK + 4 : 2 * BLOCK - 4].all()
    assert (after[:24] == before[:24]).all()


def test_blocks_of_a_cube_that_cannot_be_read_are_no_data_and_listed_again(tmp_path):
    torch.manual_seed(0)
    description = write(tmp_path, "Zarr")
    (cube,) = open_cubes(str(tmp_path), cube=str(description), memory=0)
    small = {"frames": 3, "reduced": 2, "widths": (8, 8, 8, 4), "depth": 1, "heads": 2}
    sensor = SensorConfig(observed_statistics([cube], cube.sensors["s2"].modality), bottleneck=4, **small)
    fusion = ContextFusion(FusionConfig((sensor,), embedding=4, dim=8, heads=2, mlp_dim=8)).eval()
    embed_cube(fusion, cube, tmp_path / "before.zarr", block=48, rasters=False)
    damage(tmp_path, "Zarr")
    damaged = [embed_cube(fusion, cube, tmp_path / "after.zarr", block=48, rasters=False) for _ in range(2)]
    assert damaged[0].damaged == damaged[1].damaged
    assert len(damaged[0].damaged) == 4  # each has a corner in the damaged chunk
    for bottom, right in ((16, 96), (96, 16)):  # margins of windows reach 2 pixels beyond a block
        first, second = (open_embeddings(tmp_path / f"{n}.zarr").embedding.values for n in ("before", "after"))
        assert first.shape == second.shape
        assert np.isnan(second[..., :bottom, :right]).all() or np.allclose(
            first[..., :bottom, :right], second[..., :bottom, :right], equal_nan=True
        )
    assert "4 blocks are no data" in str(damaged[1])
