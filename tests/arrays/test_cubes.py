"""Pixels and dates of a context-aware model: those of its cubes, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import fusion
from fusion.context import ContextFusion, FusionConfig, SensorConfig
from fusion.data import Modality
from fusion.data.cubes import Cube, SensorCube, smooth_backscatter
from fusion.embed.dense import BlockEncoder
from fusion.embed.periods import PeriodFeatures
from fusion.training import Probed, save_model

from .ground import BANDS, optical, radar

S2 = Modality("s2", "series", BANDS, 10.0, 1, "reflectance x 10000", (1700.0,) * 4, (900.0,) * 4)
S1 = Modality("s1", "series", ("VV", "VH"), 10.0, 1, "dB", (-12.0,) * 2, (3.0,) * 2)


def make_model() -> ContextFusion:
    torch.manual_seed(0)
    small = {"frames": 5, "reduced": 3, "widths": (8, 8, 8, 4), "depth": 1, "heads": 2}
    sensors = (SensorConfig(S2, bottleneck=4, **small), SensorConfig(S1, bottleneck=2, spacing=20, **small))
    return ContextFusion(FusionConfig(sensors, embedding=6, dim=16, heads=2, mlp_dim=16)).eval()


@pytest.fixture(scope="module")
def arrays() -> dict[str, xr.DataArray]:
    return {"s2": optical(19, 23, 7), "s1": radar(19, 23, 9, 10)}


@pytest.fixture(scope="module")
def cube(arrays) -> Cube:
    s2, s1 = arrays["s2"], arrays["s1"]
    return Cube(
        "c",
        {
            "s2": SensorCube(S2, s2.time.values.astype("M8[D]"), s2.values),
            "s1": SensorCube(S1, s1.time.values.astype("M8[D]"), smooth_backscatter(s1.values)),
        },
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    save_model(folder / "best.safetensors", make_model())
    return folder


@pytest.fixture(scope="module")
def whole(cube) -> np.ndarray:
    return BlockEncoder(make_model(), cube)(slice(0, 19), slice(0, 23))  # (T, E, H, W)


@pytest.mark.parametrize("block", [None, 7, 100])
def test_every_date_is_embedded_and_blocks_leave_no_seam(run, arrays, whole, block):
    found = fusion.load(run).embed(arrays, block=block)
    assert found.dims == ("time", "feature", "y", "x")
    np.testing.assert_allclose(found.values, whole, rtol=1e-5, atol=1e-6)
    xr.testing.assert_equal(found.y.drop_vars("spatial_ref"), arrays["s2"].y)
    np.testing.assert_array_equal(found.time, arrays["s2"].time)
    assert np.isnan(found.values[1, :, :8, :8]).all()  # the cloud


def test_blocks_of_dask_are_those_of_memory(run, arrays, whole):
    lazy = fusion.load(run).embed({name: a.chunk({"time": 2, "y": 10, "x": 9}) for name, a in arrays.items()}, block=8)
    assert lazy.chunks is not None
    assert lazy.chunksizes["y"] == (8, 8, 3)
    np.testing.assert_allclose(lazy.values, whole, rtol=1e-5, atol=1e-6)


def test_two_acquisitions_of_a_day_are_one(run, arrays, whole):
    s2 = arrays["s2"]
    halves = [
        s2.where(s2.x < s2.x[12]),
        s2.where(s2.x >= s2.x[12]).assign_coords(time=s2.time + np.timedelta64(3, "h")),
    ]
    with pytest.warns(UserWarning, match=r"s2: 7 dates are there several times, e.g. 2021-04-01: .*"):
        found = fusion.load(run).embed(arrays | {"s2": xr.concat(halves, "time")})
    np.testing.assert_allclose(found.values, whole, rtol=1e-5, atol=1e-6)


def test_coarser_pixels_of_a_second_sensor_are_repeated(tmp_path):
    sensors = (S2, Modality("s1", "series", S1.bands, 20.0, 1, "dB", S1.mean, S1.std))
    torch.manual_seed(0)
    small = {"frames": 5, "reduced": 3, "widths": (8, 8, 8, 4), "depth": 1, "heads": 2, "bottleneck": 4}
    config = FusionConfig(tuple(SensorConfig(m, **small) for m in sensors), embedding=6, dim=16, heads=2, mlp_dim=16)
    save_model(tmp_path / "best.safetensors", ContextFusion(config))
    model, s2, s1 = fusion.load(tmp_path), optical(20, 24), radar(10, 12, 5)
    found = model.embed({"s2": s2, "s1": s1})
    for block in (5, 7):
        np.testing.assert_allclose(model.embed({"s2": s2, "s1": s1}, block=block).values, found.values, atol=1e-5)


def test_a_probe_of_periods_predicts_pixels(cube, arrays, tmp_path):
    model = make_model()
    sizes = {"inputs": 12, "outputs": 3}
    probe = Probed(
        model, task="multiclass", classes=("a", "b", "c"), estimator="linear", sizes=sizes, features="periods",
        periods=2, longest_gap=7,
    )  # fmt: skip
    with torch.no_grad():
        for name, tensor in probe.estimator.state_dict().items():
            tensor.copy_(torch.linspace(-1, 1, tensor.numel()).reshape(tensor.shape) + 2 * ("scale" in name))
    save_model(tmp_path / "best.safetensors", model, finetuned=probe)
    found = fusion.load(tmp_path).predict(arrays)
    features = PeriodFeatures(model, cube, periods=2, longest_gap=7)(slice(0, 19), slice(0, 23))
    with torch.inference_mode():
        wanted = probe.estimator(torch.from_numpy(features).flatten(1).T).softmax(1).T.reshape(3, 19, 23).numpy()
    np.testing.assert_allclose(found.probability.values, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["class"].values, wanted.argmax(0))


def test_the_reference_is_needed_and_options_of_tiles_are_not_known(run, arrays):
    model = fusion.load(run)
    with pytest.raises(ValueError, match="no array of 's2', the reference, whose dates are embedded; s1 given"):
        model.embed({"s1": arrays["s1"]})
    with pytest.raises(ValueError, match="embeds single pixels, not tiles; leave patch_scale and overlap out"):
        model.embed(arrays, patch_scale=2)
    with pytest.raises(ValueError, match="runs on the CPU in float32 as it is; leave device='cuda'"):
        fusion.load(run, device="cuda")


def test_the_first_stage_alone_is_no_model_of_arrays(tmp_path):
    save_model(tmp_path / "best.safetensors", make_model().sensor("s2"))
    with pytest.raises(ValueError, match="is the autoencoder of one sensor; load the model of both stages"):
        fusion.load(tmp_path)
