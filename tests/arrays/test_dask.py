"""Dask in, Dask out: nothing is read before it is asked for, parts leave no seam, clusters give the same bits."""

from __future__ import annotations

import pickle

import dask
import dask.array
import numpy as np
import pytest
import xarray as xr
from dask.callbacks import Callback

import fusion
from fusion.embed import choose_device

from .ground import AERIAL, CLASSES, S1, S2, encoder, optical, picture, radar, saved, tuned


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run"), encoder(S2))


@pytest.fixture(scope="module")
def cube() -> xr.DataArray:
    return optical(40, 36)


@pytest.fixture(scope="module")
def eager(run, cube) -> xr.DataArray:
    return fusion.load(run).embed(cube)


def counted(cube: xr.DataArray, chunks: dict[str, int]) -> tuple[xr.DataArray, list[tuple]]:
    """The cube in chunks, and a list to which every chunk adds where it is when it is read."""
    read: list[tuple] = []

    def chunk(block, block_info=None):
        read.append(tuple(block_info[0]["chunk-location"]))
        return block

    lazy = cube.chunk(chunks)
    return lazy.copy(data=lazy.data.map_blocks(chunk, dtype=cube.dtype, meta=np.empty((0,) * 4, cube.dtype))), read


@pytest.mark.parametrize(
    ("chunks", "block"),
    [({"time": 1, "band": 1, "y": 11, "x": 13}, 7), ({"y": 3, "x": 3}, 9), ({"time": 2}, 5), ({"y": 11}, None)],
)
def test_chunks_and_parts_of_any_size_give_the_same_numbers(run, cube, eager, chunks, block):
    lazy = fusion.load(run).embed(cube.chunk(chunks), block=block)
    assert isinstance(lazy.data, dask.array.Array)
    np.testing.assert_allclose(lazy.values, eager.values, rtol=1e-5, atol=1e-6)
    xr.testing.assert_allclose(lazy.compute(), eager)


def test_only_what_a_part_needs_is_read(run, cube):
    lazy, read = counted(optical(72, 56), {"y": 12, "x": 14})
    found = fusion.load(run).embed(lazy, block=6, check=False)
    assert read == []
    found.isel(y=slice(0, 6), x=slice(0, 6)).compute(scheduler="sync")
    assert {place[2:] for place in read} <= {(i, j) for i in range(3) for j in range(3)}  # of 6 x 4 chunks


def test_a_look_at_the_range_reads_a_few_tiles(run, cube):
    lazy, read = counted(cube, {"time": 1, "y": 8, "x": 8})
    fusion.load(run).embed(lazy, block=6)
    assert 0 < len(read) <= 3 * 4 * 4  # three tiles, four dates, on at most four chunks each
    with pytest.raises(ValueError, match="the unit is said to be"):
        fusion.load(run).embed(lazy / 10_000)


def test_memory_is_bounded_by_parts(run, cube):
    """No task holds more than a part with its surroundings."""
    sizes = []

    class Sizes(Callback):
        def _posttask(self, key, result, dsk, state, worker_id):
            if isinstance(result, np.ndarray):
                sizes.append(result.nbytes)

    found = fusion.load(run).embed(optical(160, 160).chunk({"y": 16, "x": 16}), block=8)
    with Sizes(), dask.config.set({"array.slicing.split-large-chunks": False}):
        dask.compute(found.data.to_delayed().ravel()[0], scheduler="sync")
    assert max(sizes) <= 6 * 4 * (16 + 2 * 8) ** 2 * 4


def test_sensors_of_several_resolutions_and_predictions(tmp_path):
    saved(
        tmp_path, encoder(AERIAL, S2, S1), tuned(encoder(AERIAL, S2, S1), "multiclass", CLASSES, label_shape=(32, 32))
    )
    model = fusion.load(tmp_path)
    x = {"aerial": picture(), "s2": optical(), "s1": radar()}
    lazy = {name: one.chunk({"y": 10, "x": 7}) for name, one in x.items()}
    wanted, found = model.predict(x), model.predict(lazy, block=50)
    assert isinstance(found["class"].data, dask.array.Array)
    np.testing.assert_allclose(found.probability.values, wanted.probability.values, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["class"].values, wanted["class"].values)
    mixed = model.predict(x | {"s2": lazy["s2"]}, block=50)  # one of them suffices
    np.testing.assert_allclose(mixed.probability.values, wanted.probability.values, rtol=1e-4, atol=1e-5)


def test_a_model_travels(run, cube, eager):
    there = pickle.loads(pickle.dumps(fusion.load(run)))
    np.testing.assert_array_equal(there.embed(cube).values, eager.values)


def test_workers_of_one_machine_take_a_gpu_each(monkeypatch):
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match=r"device cuda:7: torch can use .* GPUs here"):
        choose_device("cuda:7")
    with pytest.raises(ValueError, match=r"device is auto, cpu, cuda, cuda:1, \.\.\., not 'gpu'"):
        choose_device("gpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("fusion.embed.device._worker", lambda: 6)
    assert str(choose_device("auto")) == "cuda:2"
    assert str(choose_device("cuda:1")) == "cuda:1"


@pytest.mark.slow
def test_a_cluster_of_two_workers_gives_the_bits_of_one_process(run, tmp_path):
    distributed = pytest.importorskip("distributed")
    optical(80, 80).drop_vars("band").to_dataset(name="s2").to_zarr(tmp_path / "cube.zarr", zarr_format=2)
    lazy = xr.open_zarr(tmp_path / "cube.zarr", chunks={"y": 32, "x": 32})["s2"].assign_coords(
        band=list(optical().band.values)
    )
    model = fusion.load(run)
    with dask.config.set(scheduler="sync"):
        alone = model.embed(lazy, block=20).compute()
    settings = {"distributed.worker.profile.enabled": False, "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": 1}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        shared = model.embed(lazy, block=20).compute()
        assert len(client.scheduler_info()["workers"]) == 2
    np.testing.assert_array_equal(shared.values, alone.values)
