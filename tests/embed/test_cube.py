"""Dense embedding of cubes: no seams, resumable bit for bit, shared by processes, opened by xarray and a GIS."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion.context import ContextFusion, FusionConfig, SensorConfig
from fusion.context.samples import ContextSamples
from fusion.data import Geo, Modality, collate
from fusion.data.cubes import Cube, SensorCube, observed_statistics
from fusion.embed import open_embeddings
from fusion.embed.cube import embed_cube
from fusion.embed.dense import BlockEncoder
from fusion.embed.raster import read_embeddings
from fusion.embed.store import EmbeddingStore, stack_geotiffs

S2 = Modality("s2", "series", ("B04", "B08"), 10.0, 5, "reflectance x 10000")
S1 = Modality("s1", "series", ("VV", "VH"), 10.0, 5, "dB")


def make_cube(size=(19, 23)) -> Cube:
    rng = np.random.default_rng(0)
    days = np.sort(rng.choice(np.arange(200), 9, replace=False)) + 18_000
    ground = rng.normal(0, 1, size)
    optical = 2000 + 500 * np.sin(days / 30)[:, None, None, None] + 300 * ground + rng.normal(0, 50, (9, 2, *size))
    clear = rng.random((9, *size)) > 0.3
    clear[4] = False
    radar_days = np.arange(18_000, 18_200, 12)
    radar = -15 + ground + rng.normal(0, 1, (len(radar_days), 2, *size))
    geo = Geo((10.0, 0.0, 500_000.0, 0.0, -10.0, 5_600_000.0), "EPSG:32631")
    sensors = {
        "s2": SensorCube(S2, days, optical.astype(np.float32), clear),
        "s1": SensorCube(S1, radar_days, radar.astype(np.float32)),
    }
    return Cube("field", sensors, geo)


def make_model(cube: Cube) -> ContextFusion:
    torch.manual_seed(0)
    small = {"frames": 5, "reduced": 3, "widths": (8, 8, 8, 4), "depth": 1, "heads": 2}
    sensors = (
        SensorConfig(observed_statistics([cube], S2), bottleneck=4, **small),
        SensorConfig(observed_statistics([cube], S1), bottleneck=2, spacing=20, **small),
    )
    return ContextFusion(FusionConfig(sensors, embedding=6, dim=16, heads=2, mlp_dim=16)).eval()


@pytest.fixture(scope="module")
def cube() -> Cube:
    return make_cube()


@pytest.fixture(scope="module")
def model(cube) -> ContextFusion:
    return make_model(cube)


@pytest.fixture(scope="module")
def whole(cube, model) -> np.ndarray:
    return BlockEncoder(model, cube)(slice(0, 19), slice(0, 23))


@pytest.fixture(scope="module")
def stored(cube, model, tmp_path_factory):
    return embed_cube(model, cube, tmp_path_factory.mktemp("embedded") / "field.zarr", block=8)


def tree(folder: Path) -> dict[str, str]:
    """Every file below and beside a store with the hash of its bytes."""
    files = [p for p in [*folder.rglob("*"), *folder.with_suffix("").rglob("*")] if p.is_file()]
    return {str(p.relative_to(folder.parent)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_says_of_a_pixel_what_the_model_says_of_its_sample(cube, model, whole):
    samples = ContextSamples([cube], model.config.sensors, stride=3)
    with torch.no_grad():
        batch = collate([samples[i] for i in range(len(samples))], [m.name for m in samples.modalities])
        wanted = model(batch).embedding.numpy()
    _, t, r, c = samples._middles.T
    np.testing.assert_allclose(whole[t, :, r, c], wanted, atol=1e-6)


def test_is_no_data_exactly_where_the_reference_saw_nothing(cube, whole):
    seen = cube.sensors["s2"].clear
    assert np.array_equal(np.isfinite(whole).all(axis=1), seen)
    assert np.array_equal(np.isnan(whole).all(axis=1), ~seen)


@pytest.mark.parametrize("side", [4, 7, 16])
def test_a_block_boundary_changes_nothing_beyond_rounding(cube, model, whole, tmp_path, side):
    result = embed_cube(model, cube, tmp_path / "e.zarr", block=side, least_observed=-1, rasters=False)
    found = open_embeddings(result.path).embedding.values
    np.testing.assert_allclose(found, whole, atol=2e-6)


def test_codes_of_each_sensor_come_with_the_fused_ones(cube, model, whole):
    codes = BlockEncoder(model, cube).codes(slice(0, 19), slice(0, 23))
    assert {n: c.shape[1] for n, c in codes.items()} == {"fused": 6, "s2": 4, "s1": 2}
    np.testing.assert_array_equal(codes["fused"], whole)


def test_some_dates_alone_are_the_same(cube, model, whole):
    some = BlockEncoder(model, cube, dates=[2, 5])(slice(3, 9), slice(0, 23))
    np.testing.assert_allclose(some, whole[[2, 5], :, 3:9], atol=2e-6)


def test_some_pixels_alone_are_the_same(cube, model, whole):
    pixels = np.random.default_rng(0).random(cube.shape) > 0.7
    some = BlockEncoder(model, cube, pixels=pixels)(slice(0, 19), slice(0, 23))
    assert np.isnan(some[:, :, ~pixels]).all()
    np.testing.assert_allclose(some[:, :, pixels], whole[:, :, pixels], atol=2e-6)


def test_xarray_finds_dates_places_and_names(cube, stored):
    data = open_embeddings(stored.path)
    assert data.embedding.dims == ("time", "feature", "y", "x")
    seen = np.delete(cube.sensors["s2"].dates, 4)
    np.testing.assert_array_equal(data.time.values.astype("datetime64[D]"), seen)
    assert stored.skipped == (str(cube.sensors["s2"].dates[4]),)
    assert data.feature.values.tolist() == [f"E{k:02d}" for k in range(6)]
    assert data.x.values[0] == 500_005
    assert data.y.values[1] == 5_600_000 - 15
    assert "UTM zone 31N" in data.spatial_ref.attrs["crs_wkt"]
    assert data.attrs["identity"]["model"]
    pixel = data.embedding.sel(x=500_031, y=5_599_938, method="nearest")
    assert pixel.shape == (8, 6)


def test_a_gis_finds_a_north_up_raster_for_every_date(stored):
    assert [p.stem for p in stored.rasters] == list(stored.dates)
    raster = read_embeddings(stored.rasters[3])
    data = open_embeddings(stored.path)
    np.testing.assert_array_equal(raster.values, data.embedding.values[3])
    assert raster.crs == "EPSG:32631"
    assert raster.transform.e == -10
    assert raster.tags["FUSION_DATE"] == stored.dates[3]


def test_int8_states_its_error(cube, model, whole, tmp_path):
    result = embed_cube(model, cube, tmp_path / "e.zarr", dtype="int8", block=16, least_observed=-1)
    data = open_embeddings(result.path)
    direction = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    error = np.nanmax(
        np.abs(data.embedding.values / np.linalg.norm(data.embedding.values, axis=1, keepdims=True) - direction)
    )
    assert error == pytest.approx(result.error.max_error, rel=1e-3)
    assert error < 0.01
    assert 0.999 < result.error.mean_cosine < 1
    assert open_embeddings(result.path, decoded=False).embedding.dtype == np.int8
    assert "mean cosine" in str(result)


def test_a_finished_store_is_left_alone(cube, model, stored):
    before = tree(stored.path)
    again = embed_cube(model, cube, stored.path, block=8)
    assert again.blocks == 0
    assert "was complete" in str(again)
    assert tree(stored.path) == before


def _embed(path: str, delay: float, threads: int) -> None:
    """In a process of its own; ``delay`` seconds a block, so that there is time to be killed."""
    torch.set_num_threads(threads)  # as here: the last bits of a sum depend on them
    cube = make_cube()
    call = BlockEncoder.__call__

    def slow(self, rows, columns):
        time.sleep(delay)
        return call(self, rows, columns)

    BlockEncoder.__call__ = slow
    embed_cube(make_model(cube), cube, path, block=8)


def start(path: Path, delay: float) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(
        target=_embed, args=(str(path), delay, torch.get_num_threads())
    )
    process.start()
    return process


@pytest.mark.extra  # maps of tiles are killed in test_predict_resume.py
def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path, stored):
    """Killed while blocks are made, while one is written, and while rasters are written."""
    path = tmp_path / "field.zarr"
    wanted, kills = tree(stored.path), 0
    for chunks in (1, 4, 9):  # of 9
        process = start(path, 0.15)
        while process.is_alive() and len(list(path.glob("embedding/0.0.*"))) < chunks:
            time.sleep(0.01)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    final = start(path, 0)
    final.join()
    assert final.exitcode == 0
    assert kills >= 2
    assert tree(path) == wanted


@pytest.mark.slow
def test_processes_share_one_output_and_survive_each_other(tmp_path, stored):
    path = tmp_path / "field.zarr"
    first, second = start(path, 0.3), start(path, 0.3)
    while not list(path.glob("embedding/0.0.*")):
        assert first.is_alive() or second.is_alive()
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    second.join()  # however long that takes on a busy machine
    assert second.exitcode == 0
    assert tree(path) == tree(stored.path)


def test_an_unfinished_store_does_not_open(cube, model, tmp_path, stored):
    path = tmp_path / "e.zarr"
    store = EmbeddingStore.create(path, [1, 2], 3, (10, 10), None, block=8)
    store.write(0, 0, np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(ValueError, match="not complete"):
        open_embeddings(path)
    with pytest.raises(ValueError, match="3 of 4 blocks are missing"):
        store.finish()
    with pytest.raises(ValueError, match="no store"):
        open_embeddings(tmp_path / "nothing.zarr")


def test_another_models_store_is_not_continued(cube, model, tmp_path):
    embed_cube(model, cube, tmp_path / "e.zarr", block=16, rasters=False)
    with pytest.raises(ValueError, match="dtype is 'float32' there and 'int8' here"):
        embed_cube(model, cube, tmp_path / "e.zarr", block=16, dtype="int8", rasters=False)
    other = make_model(cube)
    other.norm.weight.data += 1
    with pytest.raises(ValueError, match="holds embeddings of something else: model"):
        embed_cube(other, cube, tmp_path / "e.zarr", block=16, rasters=False)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("block", 0), ("block", 8.5), ("block", True), ("longest_gap", -1), ("least_observed", float("nan"))],
)
def test_refuses_settings_that_mean_nothing(setting, value, cube, model, tmp_path):
    with pytest.raises(ValueError, match=f"embed_cube: {setting} is {value}; .* wanted"):
        embed_cube(model, cube, tmp_path / "e.zarr", **{setting: value})
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_left_of_rasters_is_removed(cube, model, tmp_path):
    left = tmp_path / "field" / f".{cube.sensors['s2'].dates[0]}.tif.writing-x"
    left.mkdir(parents=True)
    (left / "section-1-000000.tif").touch()
    embed_cube(model, cube, tmp_path / "field.zarr", block=16, least_observed=-1)
    assert not list((tmp_path / "field").glob(".*"))


def test_refuses_cubes_that_are_not_the_models(cube, model, tmp_path):
    with pytest.raises(ValueError, match="lacks the sensor 's2'"):
        embed_cube(model, Cube("radar", {"s1": cube.sensors["s1"]}), tmp_path / "e.zarr")
    wrong = SensorCube(
        Modality("s2", "series", ("B08", "B04"), 10.0, 5, S2.unit),
        *(getattr(cube.sensors["s2"], field) for field in ("dates", "values", "clear")),
    )
    with pytest.raises(ValueError, match=r"bands \('B08', 'B04'\), but the model was trained with \('B04', 'B08'\)"):
        embed_cube(model, Cube("mixed", {"s2": wrong}), tmp_path / "e.zarr")
    south = Cube("south", cube.sensors, Geo((10.0, 0.0, 0.0, 0.0, 10.0, 0.0), "EPSG:32631"))
    with pytest.raises(ValueError, match="from north to south"):
        embed_cube(model, south, tmp_path / "e.zarr")
    dark = SensorCube(S2, cube.sensors["s2"].dates, cube.sensors["s2"].values, np.zeros_like(cube.sensors["s2"].clear))
    with pytest.raises(ValueError, match=r"on none of 9 dates \(at best 0.0%\)"):
        embed_cube(model, Cube("dark", {"s2": dark}), tmp_path / "e.zarr")
    assert not (tmp_path / "e.zarr").exists()


def test_a_missing_sensor_has_no_token(cube, model, whole):
    alone = Cube("optical", {"s2": cube.sensors["s2"]})
    found = BlockEncoder(model, alone)(slice(0, 5), slice(0, 5))
    assert np.array_equal(np.isnan(found), np.isnan(whole[:, :, :5, :5]))
    assert np.nanmax(np.abs(found - whole[:, :, :5, :5])) > 1e-3


def test_memory_and_time_grow_with_the_block_not_the_cube(cube, model, monkeypatch):
    """Only a block and half a window around it is ever read."""
    read = []
    original = SensorCube.read

    def watch(self, rows, columns, margin=0):
        read.append(((rows.stop - rows.start) + 2 * margin, (columns.stop - columns.start) + 2 * margin))
        return original(self, rows, columns, margin)

    monkeypatch.setattr(SensorCube, "read", watch)
    BlockEncoder(model, cube)(slice(8, 12), slice(4, 8))
    assert read == [(8, 8), (8, 8)]


def test_rasters_of_any_system_become_one_store(stored, tmp_path):
    rasters = dict(zip(stored.dates, stored.rasters, strict=True))
    stack_geotiffs(rasters, tmp_path / "stack.zarr", block=16)
    wanted, found = open_embeddings(stored.path), open_embeddings(tmp_path / "stack.zarr")
    np.testing.assert_array_equal(found.embedding.values, wanted.embedding.values)
    np.testing.assert_array_equal(found.x.values, wanted.x.values)
    np.testing.assert_array_equal(found.time.values, wanted.time.values)


def describe(cube: Cube, model: ContextFusion, folder: Path) -> list[str]:
    """A file of the cube's optical series, its description and the model; the command that embeds it."""
    from fusion.training import save_model

    days = cube.sensors["s2"].dates.astype(str)
    values = np.where(cube.sensors["s2"].clear[:, None], cube.sensors["s2"].values, 0)
    np.savez(
        folder / "field.npz",
        s2=values,
        dates=days,
        epsg=np.array(32631),
        x=500_005 + 10.0 * np.arange(23),
        y=5_599_995 - 10.0 * np.arange(19),
    )
    (folder / "cube.yaml").write_text(
        "files: '{scene}.npz'\ntile: 50\npatch: 10\n"
        "modalities:\n  s2: {variable: s2, bands: [B04, B08], resolution: 10, unit: reflectance x 10000, nodata: 0,"
        " dates: dates}\ngeoreference: {epsg: epsg, x: x, y: y}\n"
    )
    save_model(folder / "best.safetensors", model)
    return ["embed", str(folder), "--data", str(folder / "cube.yaml"), "--block", "8"]


def test_the_command_embeds_described_cubes(cube, model, tmp_path, capsys):
    from fusion.cli import main

    assert main(describe(cube, model, tmp_path)) == 0
    assert "pixels/s" in capsys.readouterr().out
    alone = Cube("field", {"s2": cube.sensors["s2"]})
    wanted = BlockEncoder(model, alone)(slice(0, 19), slice(0, 23))
    found = open_embeddings(tmp_path / "embeddings" / "field.zarr").embedding.values
    np.testing.assert_allclose(found, wanted[[t for t in range(9) if t != 4]], atol=2e-6)
    assert len(list((tmp_path / "embeddings" / "field").glob("*.tif"))) == 8


@pytest.mark.extra
def test_torchrun_writes_what_one_process_writes(cube, model, tmp_path):
    command = describe(cube, model, tmp_path)
    launchers = {"one": [], "two": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}
    said, threads = {}, os.environ | {"OMP_NUM_THREADS": "1"}  # as torchrun has it: other threads have other bits
    for name, launcher in launchers.items():
        arguments = [sys.executable, *launcher, "-m", "fusion", *command, "--out", str(tmp_path / name)]
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False, env=threads)
        assert ended.returncode == 0, ended.stderr
        said[name] = ended.stdout
    assert tree(tmp_path / "one" / "field.zarr") == tree(tmp_path / "two" / "field.zarr")
    blocks = [line for line in said["two"].splitlines() if line.startswith("block ")]
    assert len(blocks) == len(set(blocks)) == 9  # each block was made once, by one of the two


def test_a_block_that_was_never_observed_is_done_and_no_data(cube, model, tmp_path):
    sensors = dict(cube.sensors)
    values = sensors["s2"].values.copy()
    values[..., :8, :8] = np.nan
    sensors["s2"] = SensorCube(S2, sensors["s2"].dates, values, sensors["s2"].clear)
    written = embed_cube(model, Cube("field", sensors, cube.geo), tmp_path / "field.zarr", block=8, rasters=False)
    assert written.blocks == written.all_blocks
    assert np.isnan(open_embeddings(written.path).embedding.values[..., :8, :8]).all()
