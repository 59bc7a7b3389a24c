"""The code of docs/arrays.md, block after block."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import torch

from .ground import CLASSES, S1, S2, encoder, optical, saved, tuned

PAGE = Path(__file__).resolve().parents[2] / "docs" / "arrays.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M)


@pytest.mark.slow
@pytest.mark.parametrize("exported", [False, pytest.param(True, marks=pytest.mark.extra)])
def test_the_page_runs_from_top_to_bottom(exported, tmp_path, monkeypatch):
    """An export takes half a minute, nearly all of it in torch."""
    monkeypatch.chdir(tmp_path)
    names = ["blue", "green", "red", "nir"]
    cube = optical(40, 48).assign_coords(band=np.array(names, dtype="U5")).rename("reflectance")
    cube.chunk({"y": 16, "x": 16}).to_dataset().to_zarr("cube.zarr", zarr_format=2)
    saved(tmp_path / "runs" / "mine", encoder(S2, S1))
    head = tuned(encoder(S2, S1), "multiclass", CLASSES, label_shape=(8, 8))
    saved(tmp_path / "runs" / "mine-finetuned", encoder(S2, S1), head)
    known: dict[str, object] = {} if exported else {"torch": torch}  # which the export imports
    for block in BLOCKS:
        others = ("dask_jobqueue", "torchgeo", "terratorch")  # SLURM, and torchvision
        if any(name in block for name in (*others, *(() if exported else ("export",)))):
            ast.parse(block)
            continue
        exec(compile(block, PAGE.name, "exec"), known)
    for name in ("same", "plain", "there", "recipe"):
        np.testing.assert_allclose(known[name].values, known["embedding"].values, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "crops.tif").is_file()
    assert (tmp_path / "embedding.zarr").is_dir()
