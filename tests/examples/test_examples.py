"""The scripts of examples/ run as they are, with fewer steps."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import rasterio

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_example_is_tested():
    tested = {
        "ops_in_a_training_script",
        "folder_to_map",
        "embed_an_xarray",
        "embed_with_dask",
        "tokenize_and_generate",
    }
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_ops_in_a_training_script():
    losses = load("ops_in_a_training_script").main(steps=40)
    assert losses[-1] < 0.6 * losses[0]


def test_folder_to_map(tmp_path):
    paths = load("folder_to_map").main(epochs=1)
    for path in paths:
        with rasterio.open(path) as raster:
            assert raster.crs.to_epsg() == 32631
            assert raster.res == (20.0, 20.0)
            assert raster.count == 64


def test_embed_an_xarray():
    found = load("embed_an_xarray").main()
    assert found.dims == ("feature", "y", "x")
    assert found.shape == (64, 16, 24)
    assert float(found.x[0]) == 500_010  # centre of the first patch, two pixels of 10 m wide
    assert float(found.y[0]) == 5_599_990
    assert bool(found.notnull().all())


@pytest.mark.extra  # a cluster is tested in tests/arrays/test_dask.py
def test_embed_with_dask():
    found = load("embed_with_dask").main()
    assert found.embedding.shape == (64, 64, 64)
    assert found.embedding.chunksizes["y"] == (32, 32)
    assert bool(found.embedding.notnull().all())


def test_tokenize_and_generate():
    median = load("tokenize_and_generate").main(epochs=1)
    assert median.shape == (4, 1, 12)
    assert bool(((median > -40) & (median < 50)).all())
