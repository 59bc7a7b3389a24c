"""Models as folders and on the Hugging Face Hub, which is stood in for: no test talks to it."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest

import fusion

from .ground import CLASSES, S2, encoder, optical, saved, tuned


@pytest.fixture
def model(tmp_path):
    head = tuned(encoder(S2), "multiclass", CLASSES, label_shape=(8, 8))
    return fusion.load(saved(tmp_path / "run", encoder(S2), head))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in the place of the Hub."""
    there = tmp_path / "hub"

    def upload_folder(*, repo_id: str, folder_path: str) -> str:
        shutil.copytree(folder_path, there / repo_id)
        return f"https://huggingface.co/{repo_id}"

    def snapshot_download(repo_id: str, *, revision: str | None = None, allow_patterns: list[str]) -> str:
        if not (there / repo_id).is_dir():
            raise OSError(f"404: {repo_id}")
        return str(there / repo_id)

    api = SimpleNamespace(create_repo=lambda repo_id, private, exist_ok: None, upload_folder=upload_folder)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return there


def test_a_saved_folder_is_the_same_model_with_a_card(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "crops", licence="cc-by-4.0", training_data="Flevoland, 2021")
    cube = optical()
    np.testing.assert_array_equal(fusion.load(folder).predict(cube).probability, model.predict(cube).probability)
    card = (folder / "README.md").read_text()
    for told in (
        "license: cc-by-4.0",
        "Trained on: Flevoland, 2021.",
        "| s2 | series | B02, B03, B04, B08 | 10 m | reflectance x 10000 |",
        "It gives multiclass of water, oak & beech, maize.",
        'fusion.load("crops")',
        "model.predict(x)",
    ):
        assert told in card
    assert json.loads((folder / "config.json").read_text())["system"] == "omnisat"


def test_a_model_goes_to_the_hub_and_comes_from_it(model, hub):
    assert model.push_to_hub("org/crops", licence="mit") == "https://huggingface.co/org/crops"
    assert {path.name for path in (hub / "org" / "crops").iterdir()} == {"best.safetensors", "config.json", "README.md"}
    assert 'fusion.load("org/crops")' in (hub / "org" / "crops" / "README.md").read_text()
    there = fusion.load("org/crops@main")
    np.testing.assert_array_equal(there.embed(optical()).values, model.embed(optical()).values)


def test_what_is_not_there_is_said(model, hub, monkeypatch):
    with pytest.raises(ValueError, match="org/none: no folder here, and not to be had from the Hugging Face Hub: 404"):
        fusion.load("org/none")
    with pytest.raises(ValueError, match="is called org/name, not 'crops'"):
        model.push_to_hub("crops")
    (hub.parent / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint runs/mine"):  # a folder of runs is no organisation
        fusion.load("runs/mine")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"org/crops is neither a folder here nor, .*; pip install huggingface_hub"):
        fusion.load("org/crops")
