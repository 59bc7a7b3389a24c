"""Maps by a compiled model: the same numbers but for the last digits."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import rasterio
import torch
from torch._dynamo.utils import counters

import fusion
from fusion.embed import embed_map, predict_map, read_embeddings
from fusion.omnisat import OmniSat
from fusion.training import Finetuning
from tests.arrays.ground import S2, encoder, optical, saved

from .ground import CLASSES, HEIGHT, WIDTH, cut, finetuned, scene

COMPILE = torch.compile
# What is compiled, with the compiler that takes a minute in `make test-all` only.
BACKENDS = [pytest.param("eager", id="traced"), pytest.param("inductor", marks=pytest.mark.extra)]


@pytest.fixture(scope="module")
def module() -> Finetuning:
    return finetuned(cut(scene(), (4, 8)), "multiclass", CLASSES, label_shape=(HEIGHT, WIDTH))


@pytest.fixture(params=BACKENDS)
def compiling(request, monkeypatch):
    """Fails where nothing was compiled, or more than once for one batch size and another."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(COMPILE, backend=request.param))
    yield
    assert 1 <= counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


def test_embeddings(module, compiling, tmp_path):
    tiles = cut(scene(), (4, 8))
    assert isinstance(module.model, OmniSat)
    for name, compiled in (("usual", False), ("compiled", True)):
        embed_map(module.model, tiles, tmp_path / f"{name}.tif", batch_size=8, compile_model=compiled)
    usual, compiled = (read_embeddings(tmp_path / f"{name}.tif").values for name in ("usual", "compiled"))
    np.testing.assert_allclose(compiled, usual, rtol=1e-4, atol=1e-5)


def test_predictions(module, compiling, tmp_path):
    tiles = cut(scene(), (4, 8))
    for name, compiled in (("usual", False), ("compiled", True)):
        given = {"batch_size": 8, "compile_model": compiled, "probabilities": True}
        predict_map(module, tiles, tmp_path / f"{name}.tif", **given)
    usual, compiled = (rasterio.open(tmp_path / f"{name}_probabilities.tif").read() for name in ("usual", "compiled"))
    assert np.abs(compiled.astype(int) - usual).max() <= 1  # of 254


def test_arrays(compiling, tmp_path):
    run, cube = saved(tmp_path / "run", encoder(S2)), optical()
    usual, compiled = (fusion.load(run, compile_model=how).embed(cube) for how in (False, True))
    np.testing.assert_allclose(compiled.values, usual.values, rtol=1e-4, atol=1e-5)


def test_a_map_that_was_begun_without_is_not_gone_on_with(module, tmp_path, monkeypatch):
    tiles = cut(scene(), (4, 8))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.model, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            embed_map(module.model, tiles, tmp_path / "map.tif", batch_size=8)
    with pytest.raises(ValueError, match="compiled"):
        embed_map(module.model, tiles, tmp_path / "map.tif", batch_size=8, compile_model=True)
