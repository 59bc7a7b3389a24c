"""One readable file, written whole or not at all, that says what does not fit."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_system import S2, VHR, TinyConfig, TinyFinetuning, TinyModel, TinyTraining
from torch import nn

from fusion import __version__
from fusion.training import files, load_finetuned, load_model, read_header, save_model
from fusion.training.checkpoints import differences
from fusion.training.seals import sealed_tensors


@pytest.fixture
def model() -> TinyModel:
    fitted = S2.with_statistics((1500, 1600, 2000), (300, 300, 500))
    return TinyModel(TinyConfig(modalities=(fitted, VHR)))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_saved_model_comes_back_with_bands_units_and_statistics(tmp_path, model):
    path = save_model(tmp_path / "a.safetensors", model, metrics={"val/loss": 0.25})
    loaded = load_model(path, system="tiny", config=model.config)
    assert same(loaded, model)
    assert not loaded.training
    assert loaded.config == model.config
    assert loaded.config.modalities[0].mean == (1500, 1600, 2000)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_any_safetensors_reader_sees_what_the_file_is(tmp_path, model):
    with safe_open(save_model(tmp_path / "a.safetensors", model, metrics={"f1": 0.5}), "pt") as file:
        metadata = file.metadata()
    assert metadata["system"] == "tiny"
    assert metadata["eo-fusion"] == __version__
    assert metadata["torch"] == torch.__version__
    assert json.loads(metadata["metrics"]) == {"f1": 0.5}
    band = json.loads(metadata["config"])["modalities"][0]
    assert (band["bands"], band["unit"], band["std"]) == (list(S2.bands), S2.unit, [300, 300, 500])


def test_tied_weights_and_views_are_saved(tmp_path, model):
    model.encoders["s2"].bias = model.encoders["vhr"].bias
    model.norm.weight = nn.Parameter(torch.arange(80.0)[:8])
    assert same(load_model(save_model(tmp_path / "a.safetensors", model)), model)


def test_a_head_travels_with_its_classes(tmp_path, model):
    module = TinyFinetuning(model, "multiclass", ("oak", "beech"))
    path = save_model(tmp_path / "a.safetensors", model, finetuned=module)
    again = load_finetuned(path)
    assert same(again, module)
    assert (again.task, again.classes, again.training) == ("multiclass", ("oak", "beech"), False)
    assert read_header(path).finetuned["classes"] == ["oak", "beech"]
    assert same(load_model(path), model)
    with pytest.raises(ValueError, match="without a head"):
        load_finetuned(save_model(tmp_path / "b.safetensors", model))


def test_a_run_folder_stands_for_its_best_model(tmp_path, model):
    save_model(tmp_path / "best.safetensors", model)
    assert same(load_model(tmp_path), model)


def test_another_configuration_is_named_field_by_field(tmp_path, model):
    path = save_model(tmp_path / "a.safetensors", model)
    wanted = TinyConfig(modalities=(replace(S2, bands=("B03", "B08", "B04")), VHR), dim=16)
    with pytest.raises(ValueError, match="another configuration") as caught:
        load_model(path, config=wanted, system="other")
    message = str(caught.value)
    assert "system: 'tiny' in the checkpoint, 'other' wanted" in message
    assert "dim: 8 in the checkpoint, 16 wanted" in message
    assert "modalities.s2.bands: ['B03', 'B04', 'B08'] in the checkpoint, ['B03', 'B08', 'B04'] wanted" in message
    assert "vhr" not in message


def test_differences_name_missing_fields_and_order():
    a, b = S2.to_dict(), VHR.to_dict()
    assert differences({"m": [a, b]}, {"m": [b, a]}) == [
        "m: order ['s2', 'vhr'] in the checkpoint, ['vhr', 's2'] wanted"
    ]
    assert differences({"m": [a]}, {"m": [a, b]}) == ["m.vhr: absent in the checkpoint, vhr wanted"]
    assert differences({"depth": 6}, {}) == ["depth: 6 in the checkpoint, absent in what is wanted"]
    assert differences({"m": [a, b]}, {"m": [a, b]}) == []
    assert differences({"mean": [0.1 + 0.2, 1e4]}, {"mean": [0.3, 1e4 + 1e-4]}) == []
    assert differences({"mean": [0.3, 1e4]}, {"mean": [0.3, 1e3]}) == [
        "mean: [0.3, 10000.0] in the checkpoint, [0.3, 1000.0] wanted"
    ]


def test_a_missing_checkpoint_names_its_neighbours(tmp_path, model):
    save_model(tmp_path / "last.safetensors", model)
    with pytest.raises(FileNotFoundError, match=r"best.safetensors; checkpoints in .*: last.safetensors"):
        load_model(tmp_path / "best.safetensors")


def test_a_truncated_checkpoint_is_recognised(tmp_path, model):
    path = save_model(tmp_path / "a.safetensors", model)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a.safetensors \(\d+ bytes\) is not a complete safetensors file"):
        load_model(path)


def test_a_foreign_file_is_recognised(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="not written by eo-fusion: its metadata has format"):
        read_header(tmp_path / "a.safetensors")


def rewrite(path: Path, model: nn.Module, **changes: str) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    path.write_bytes(sealed_tensors(dict(model.state_dict()), metadata | changes))


def test_a_newer_format_an_unknown_system_and_an_unknown_field_are_named(tmp_path, model):
    path = save_model(tmp_path / "a.safetensors", model)
    rewrite(path, model, format="7", **{"eo-fusion": "9.0"})
    with pytest.raises(ValueError, match=r"format 7, written by eo-fusion 9.0; this is .*upgrade"):
        load_model(path)
    rewrite(path, model, format="1", system="galactic")
    with pytest.raises(ValueError, match=r"system 'galactic', which eo-fusion .* does not know"):
        load_model(path)
    config = model.config.to_dict() | {"rotary": True}
    rewrite(path, model, system="tiny", config=json.dumps(config))
    with pytest.raises(ValueError, match=r"written by eo-fusion 9.0 does not fit tiny.*rotary"):
        load_model(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "NaN", "[" * 100_000])
@pytest.mark.parametrize("key", ["config", "metrics", "finetuned"])
def test_metadata_that_are_no_settings_name_the_file(tmp_path, model, key, text):
    path = save_model(tmp_path / "a.safetensors", model)
    rewrite(path, model, **{key: text})
    with pytest.raises(ValueError, match=rf"a.safetensors is damaged: its metadata has the {key} "):
        read_header(path)


@pytest.mark.parametrize("wrong", [{"dim": 1e300}, {"dim": -1}, {"dim": 10**12}, {"modalities": 3}])
def test_settings_that_make_no_model_name_the_file(tmp_path, model, wrong):
    path = save_model(tmp_path / "a.safetensors", model)
    rewrite(path, model, config=json.dumps(model.config.to_dict() | wrong))
    with pytest.raises(ValueError, match=r"a.safetensors.* does not fit"):
        load_model(path)


def test_settings_that_make_no_head_name_the_file(tmp_path, model):
    path = save_model(tmp_path / "a.safetensors", model)
    rewrite(path, model, finetuned=json.dumps({"task": 3, "heads": {}}))
    with pytest.raises(ValueError, match=r"a.safetensors: what was fine-tuned by .* cannot be rebuilt"):
        load_finetuned(path)


def test_tensors_that_do_not_fit_are_named(tmp_path, model):
    path = save_model(tmp_path / "a.safetensors", model)
    rewrite(path, model, config=json.dumps(model.config.to_dict() | {"dim": 4}))
    with pytest.raises(ValueError, match=r"encoders.s2.weight: \(8, 3\) in the checkpoint, \(4, 3\) wanted"):
        load_model(path)


def test_a_lightning_module_is_refused(tmp_path):
    with pytest.raises(TypeError, match="give the model itself"):
        save_model(tmp_path / "a.safetensors", TinyTraining())


def test_no_space_is_seen_before_writing(tmp_path, model, monkeypatch):
    path = save_model(tmp_path / "a.safetensors", model)
    before = path.read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(RuntimeError, match=r"a.safetensors: the disk is full \(100 B free, \d.* KiB needed\)"):
        save_model(path, TinyModel(model.config))
    assert path.read_bytes() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fills_while_writing_leaves_the_previous_checkpoint(tmp_path, model, monkeypatch, step):
    path = save_model(tmp_path / "a.safetensors", model)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(
        RuntimeError, match=r"the disk is full .* needed\); the file that was there before is untouched"
    ):
        save_model(path, TinyModel(model.config))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def write_in_another_process(preparation: str, path: Path) -> subprocess.CompletedProcess:
    """The step that puts a checkpoint on disk, in a process that may be killed or limited."""
    code = (
        "import os, resource, signal, sys\n"
        "from fusion.training.files import write_atomically\n"
        f"{preparation}\n"
        "write_atomically(sys.argv[1], bytes(100_000))\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_real_write_that_cannot_finish_leaves_the_previous_checkpoint(tmp_path, model):
    path = save_model(tmp_path / "a.safetensors", model)
    before = path.read_bytes()
    limited = write_in_another_process(
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))", path
    )
    assert "the file size limit is reached" in limited.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_writing_leaves_the_previous_checkpoint(tmp_path, model):
    path = save_model(tmp_path / "a.safetensors", model)
    before = path.read_bytes()
    killed = write_in_another_process("os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)", path)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    save_model(path, model)  # what the kill left behind does not pile up
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match=r"cannot save .*file.a.safetensors"):
        save_model(tmp_path / "file" / "a.safetensors", model)
    assert os.listdir(tmp_path) == ["file"]
