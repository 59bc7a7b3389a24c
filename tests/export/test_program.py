"""Exported models say what the models say, in a process that does not have this package."""

from __future__ import annotations

import contextlib
import io
import json
import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import fusion
from fusion.cli import main
from fusion.data.series import fill_gaps
from fusion.training import save_model

from ..arrays.ground import CLASSES, GRID, tuned
from ..token_fusion.small_places import GRID as SMALL_GRID
from ..token_fusion.small_places import MODALITIES
from .outside import answers
from .tiles import batch, given, omnisat, token_fusion

LENGTHS = ((3, 5), (1, 1), (6, 8))  # tiles and dates


class Case(NamedTuple):
    model: torch.nn.Module
    file: Path
    printed: str


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Case:
    """OmniSat of a series and an image, by the command."""
    folder, model = tmp_path_factory.mktemp("run"), omnisat()
    save_model(folder / "best.safetensors", model)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["export", str(folder)]) == 0
    return Case(model, folder / "embedding.pt2", out.getvalue())


@pytest.mark.extra
def test_embeddings_are_the_models_for_any_number_of_tiles_and_dates(exported, tmp_path):
    batches = [given(exported.model.config.modalities, GRID, *lengths) for lengths in LENGTHS]
    found = answers(exported.file, batches, tmp_path)
    for tensors, said in zip(batches, found, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(said, exported.model(batch(tensors)).patches, rtol=1e-4, atol=2e-6)


def test_pixels_that_were_not_observed_are_filled_as_readers_fill_them(exported):
    program = torch.export.load(exported.file).module()
    values, days, valid = given(exported.model.config.modalities, GRID, 1, 4)
    values["s2"][0, 0, :, :2] = math.nan  # a quarter of a date
    values["s2"][0, 2, 1, :5] = math.nan  # more than half of a band
    with torch.no_grad():
        said = program(values, days, valid)
    filled, there = fill_gaps(values["s2"][0].numpy())
    assert there.tolist() == [True, True, False, True]
    as_read = {**values, "s2": torch.from_numpy(filled)[None]}
    with torch.no_grad():
        wanted = exported.model(batch((as_read, days, {**valid, "s2": valid["s2"] & torch.from_numpy(there)})))
    torch.testing.assert_close(said, wanted.patches, rtol=1e-4, atol=2e-6)


def test_the_file_says_what_goes_in_and_what_comes_out(exported):
    extra = {"fusion.json": ""}
    torch.export.load(exported.file, extra_files=extra)
    about = json.loads(extra["fusion.json"])
    series, image = about["inputs"]
    assert series == {
        "name": "s2",
        "kind": "series",
        "shape": ["B", "L", 4, 8, 8],
        "bands": ["B02", "B03", "B04", "B08"],
        "unit": "reflectance x 10000",
        "resolution": 10.0,
        "patch_size": 2,
    }
    assert image["shape"] == ["B", 2, 32, 32]
    assert about["output"]["shape"] == ["B", 16, 16]
    assert "1 January" in about["days"]
    for told in ("s2         (B, L, 4, 8, 8)  B02 B03 B04 B08; 10 m", "-> embedding (B, 16, 16)", "1 January"):
        assert told in exported.printed


def test_the_graph_has_operators_of_torch_alone_and_no_path_of_the_machine(exported):
    with zipfile.ZipFile(exported.file) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("models/model.json")]
        text = archive.read(name).decode()
    assert "torch.ops.fusion" not in text
    assert str(Path(fusion.__file__).parent) not in text


@pytest.mark.extra
def test_a_fine_tuned_model_gives_probabilities(tmp_path):
    """Of token fusion, so that both are looked at in one trace."""
    encoder = token_fusion()
    head = tuned(encoder, "multiclass", CLASSES)
    save_model(tmp_path / "best.safetensors", encoder, finetuned=head)
    model = fusion.load(tmp_path, device="cpu")
    written = model.export(tmp_path / "said.pt2")
    assert written.about["output"]["classes"] == list(CLASSES)
    batches = [given(MODALITIES, SMALL_GRID, *lengths) for lengths in LENGTHS]
    for tensors, said in zip(batches, answers(written.path, batches, tmp_path), strict=True):
        with torch.no_grad():
            wanted = head(batch(tensors)).softmax(1)
            # Nothing of the trace is left in the model: it was a copy that was traced.
            assert torch.equal(model._placed.head(batch(tensors)).softmax(1), wanted)
        assert float(wanted.max()) > 0.5
        torch.testing.assert_close(said, wanted, rtol=1e-4, atol=2e-6)


def test_what_cannot_be_exported_is_said(tmp_path):
    save_model(tmp_path / "best.safetensors", omnisat())
    model = fusion.load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"end in \.pt2; .*encoder\.onnx does not"):
        model.export(tmp_path / "encoder.onnx")
    with pytest.raises(ValueError, match="the model has no s3; it has s2, aerial"):
        model.export(tmp_path / "a.pt2", modalities=["s3"])
    with pytest.raises(ValueError, match="without a head predicts nothing"):
        model.export(tmp_path / "a.pt2", output="prediction")
    with pytest.raises(ValueError, match="patch_scale 3 does not divide a tile of 4 x 4"):
        model.export(tmp_path / "a.pt2", patch_scale=3)
    assert not list(tmp_path.glob("*.pt2"))
