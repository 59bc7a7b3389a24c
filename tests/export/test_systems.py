"""Every kind of head, tokenizer and system, and graphs that are compiled ahead of time."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import fusion
from fusion.data import ArrayTiles, TileBatch
from fusion.evaluation.saved import make_probe
from fusion.export import export_model
from fusion.training import Ensemble, load_model

from ..arrays.ground import AERIAL, CLASSES, GRID, S2, tuned
from ..token_fusion.small_places import GRID as SMALL_GRID
from ..token_fusion.small_places import MODALITIES
from .outside import answers
from .tiles import batch, given, omnisat, token_fusion

SAVED = Path(__file__).resolve().parents[1] / "training" / "saved"
CLOSE = {"rtol": 1e-4, "atol": 2e-6}


def agree(program, wanted, modalities=(S2, AERIAL), grid=GRID) -> None:
    for lengths in ((3, 5), (1, 1), (5, 9)):
        tensors = given(modalities, grid, *lengths)
        with torch.no_grad():
            torch.testing.assert_close(program(*tensors), wanted(batch(tensors)), **CLOSE)


@pytest.mark.extra
@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("multiclass", {"label_shape": (8, 8)}),
        ("multiclass", {"label_shape": (4, 4), "head": "patch"}),
        ("multilabel", {"head": "attention"}),
        ("multilabel", {"features": "seasons"}),
        ("regression", {"head": "mlp", "features": "tokens", "target_mean": [20.0] * 3, "target_std": [5.0] * 3}),
    ],
    ids=["decoder", "patch", "attention", "seasons", "quantities"],
)
def test_heads(task, settings, tmp_path):
    encoder = omnisat()
    head = tuned(encoder, task, CLASSES, **settings)
    written = export_model(tmp_path / "head.pt2", encoder, head)

    def wanted(tiles: TileBatch) -> torch.Tensor:
        out = head(tiles)
        return out if task == "regression" else out.softmax(1) if task == "multiclass" else out.sigmoid()

    assert written.about["output"]["kind"] == ("value" if task == "regression" else "probability")
    agree(torch.export.load(written.path).module(), wanted)


def labelled(task: str) -> ArrayTiles:
    values, days, _ = given((S2,), GRID, 24, 4)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 24) if task == "multiclass" else rng.normal(20, 3, (24, 1)).astype(np.float32)
    names = CLASSES if task == "multiclass" else ("height",)
    days = {"s2": np.sort(days["s2"].numpy(), axis=1)}
    values = {"s2": values["s2"].nan_to_num(1700.0).numpy()}
    return ArrayTiles((S2,), values, days=days, grid=GRID, task=task, classes=names, labels=labels)


@pytest.mark.extra
@pytest.mark.parametrize(
    ("kind", "task"), [("linear", "multiclass"), ("forest", "multiclass"), ("forest", "regression")]
)
def test_saved_probes(kind, task, tmp_path):
    encoder = omnisat(S2)
    probe, _ = make_probe(kind, encoder, labelled(task))
    written = export_model(tmp_path / "probe.pt2", encoder, probe)
    said = torch.export.load(written.path).module()
    agree(said, lambda tiles: probe(tiles) if task == "regression" else probe(tiles).softmax(1), (S2,))


@pytest.mark.extra
def test_ensembles_and_larger_patches(tmp_path):
    members = [tuned(omnisat(S2), "multiclass", CLASSES) for _ in range(2)]
    ensemble = Ensemble(members)
    written = export_model(tmp_path / "both.pt2", members[0].model, ensemble)
    agree(torch.export.load(written.path).module(), lambda tiles: ensemble(tiles).softmax(1), (S2,))
    encoder = members[0].model
    written = export_model(tmp_path / "coarse.pt2", encoder, ensemble, output="embedding", patch_scale=2)
    assert written.about["output"] | {"grid": [2, 2], "shape": ["B", 4, 16]} == written.about["output"]
    agree(torch.export.load(written.path).module(), lambda tiles: encoder(tiles, patch_scale=2).patches, (S2,))


_CALENDAR = {"start": 0, "step": 30, "length": 6}


@pytest.mark.extra
@pytest.mark.parametrize(
    ("weather", "photo"),
    [
        ({"kind": "mean-scale", "bins": 64}, {"kind": "fsq", "hidden": 16, "steps": 20}),
        ({"kind": "sax"}, {"kind": "textons", "codes": 16}),
        ({"kind": "patch-vq", "patch": 2, "steps": 5}, {"kind": "bins"}),
        ({"kind": "patch-fsq", "patch": 2, "steps": 5}, {"kind": "scalar"}),
        ({"kind": "quantile", "bins": 200}, {"kind": "bins"}),  # more bins than values: some are merged
        ({"kind": "mu-law"}, {"kind": "scalar"}),
    ],
    ids=lambda settings: settings["kind"],
)
def test_tokenizers(weather, photo, tmp_path):
    model = token_fusion(weather=weather | _CALENDAR, photo=photo)
    written = export_model(tmp_path / "tokens.pt2", model)
    agree(torch.export.load(written.path).module(), lambda tiles: model(tiles).patches, MODALITIES, SMALL_GRID)


@pytest.mark.extra
def test_windows_of_a_context_aware_model(tmp_path):
    """NaN where a pixel was not observed, frames that do not exist not valid, as training samples have it."""
    encoder = load_model(SAVED / "context.safetensors")
    written = fusion.load(SAVED / "context.safetensors").export(tmp_path / "windows.pt2")
    assert "one pixel on one date of s2" in written.about["windows"]
    program, rng = torch.export.load(written.path).module(), torch.Generator().manual_seed(0)
    for tiles in (3, 1, 6):
        values, days, valid = {}, {}, {}
        for sensor in encoder.config.sensors:
            m = sensor.modality
            shape = (tiles, sensor.frames, m.channels, sensor.window, sensor.window)
            mean, std = (torch.tensor(s)[:, None, None] for s in (m.mean, m.std))
            values[m.name] = torch.randn(shape, generator=rng) * std + mean
            values[m.name][torch.rand(shape, generator=rng) > 0.8] = math.nan
            days[m.name] = (torch.arange(sensor.frames) * 12).repeat(tiles, 1)
            valid[m.name] = torch.rand(tiles, sensor.frames, generator=rng) > 0.2
        if tiles > 1:
            valid["s1"][0] = False
        observed = {name: one.isfinite() for name, one in values.items()}
        zeros = {name: one.nan_to_num(0.0) for name, one in values.items()}
        with torch.no_grad():
            wanted = encoder(TileBatch(zeros, days, valid, observed=observed)).patches
            torch.testing.assert_close(program(values, days, valid), wanted, **CLOSE)


@pytest.mark.extra
def test_a_compiled_program_says_the_same_and_tells_what_it_takes(tmp_path):
    """AOTInductor's; minutes of a C++ compiler."""
    encoder = omnisat()
    written = export_model(tmp_path / "compiled.pt2", encoder, aot=True)
    batches = [given((S2, AERIAL), GRID, *lengths) for lengths in ((3, 5), (1, 1), (6, 8))]
    for tensors, said in zip(batches, answers(written.path, batches, tmp_path, compiled=True), strict=True):
        with torch.no_grad():
            torch.testing.assert_close(said, encoder(batch(tensors)).patches, **CLOSE)
    program = torch._inductor.aoti_load_package(str(written.path))
    about = json.loads(program.get_metadata()["fusion.json"])
    assert about == written.about
    assert about["program"] == "compiled by AOTInductor"
