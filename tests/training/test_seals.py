"""No byte of what training writes can change without being noticed."""

import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_system import Meadows, TinyConfig, TinyModel, TinyTraining

from fusion.training import fit, load_model, read_header, save_model
from fusion.training.seals import check_archive, check_tensors, sealed_archive, sealed_tensors


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    fit(TinyTraining(), Meadows(8), Meadows(4), folder, epochs=1, batch_size=4, progress=False, memory="ignore")
    return folder


def flipped(content: bytes, seed: int) -> bytes:
    draw = random.Random(seed)
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def test_a_flipped_bit_of_a_model_is_noticed(tmp_path, run):
    content = (run / "best.safetensors").read_bytes()
    for seed in range(200):
        (tmp_path / "a.safetensors").write_bytes(flipped(content, seed))
        with pytest.raises(ValueError, match=r"a\.safetensors"):
            load_model(tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=r"a\.safetensors"):
            read_header(tmp_path / "a.safetensors")


def test_every_bit_of_the_header_of_a_model_counts(tmp_path, run):
    content, path = (run / "best.safetensors").read_bytes(), tmp_path / "a.safetensors"
    header = 8 + int.from_bytes(content[:8], "little")
    for place in range(8 * header):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.safetensors"):
            read_header(path)


def test_a_flipped_bit_of_a_state_is_noticed(tmp_path, run):
    content = (run / "last.ckpt").read_bytes()
    for seed in range(200):
        (tmp_path / "last.ckpt").write_bytes(flipped(content, seed))
        with pytest.raises(ValueError, match=r"last.ckpt cannot be read .*resume=False starts over"):
            fit(TinyTraining(), Meadows(8), Meadows(4), tmp_path, epochs=2, batch_size=4, progress=False)


def test_equal_models_are_equal_files(tmp_path):
    model = TinyModel(TinyConfig())
    metrics = {f"val/mean of Zürich {k}": k / 3 for k in range(5)}
    assert len({save_model(tmp_path / f"{k}.safetensors", model, metrics=metrics).read_bytes() for k in range(20)}) == 1
    assert read_header(tmp_path / "0.safetensors").metrics == metrics


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        "text",
        {},
        {"fusion": 3},
        {"fusion": {}},
        {"fusion": {"identity": {}, "epochs": "1", "finished": False}},
    ],
)
def test_a_state_of_something_else_names_itself(tmp_path, content):
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(
        ValueError, match=r"last.ckpt cannot be read .*holds no state of a run.*resume=False starts over"
    ):
        fit(TinyTraining(), Meadows(8), Meadows(4), tmp_path, epochs=2, batch_size=4, progress=False)


def test_every_byte_of_a_checksum_counts(tmp_path):
    content = sealed_tensors({"a": torch.arange(3)}, {"system": "tiny"})
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    check_tensors(path)
    assert torch.equal(load_file(path)["a"], torch.arange(3))
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["system"] == "tiny"
    for place in range(8, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match="is damaged"):
            check_tensors(path)


def test_an_archive_with_a_checksum_is_an_archive(tmp_path, run):
    state = torch.load(run / "last.ckpt", weights_only=True)
    assert check_archive(run / "last.ckpt")
    torch.save(state, tmp_path / "plain.ckpt")
    assert not check_archive(tmp_path / "plain.ckpt")
    (tmp_path / "sealed.ckpt").write_bytes(sealed_archive((tmp_path / "plain.ckpt").read_bytes()))
    assert torch.load(tmp_path / "sealed.ckpt", weights_only=True, mmap=True)["epoch"] == state["epoch"]


def test_models_of_before_checksums_are_read(tmp_path):
    from safetensors.torch import save_file

    path = save_model(tmp_path / "new.safetensors", TinyModel(TinyConfig()))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | {"format": "1"}
    del metadata["sha256"]
    save_file(load_file(path), tmp_path / "old.safetensors", metadata)
    assert torch.equal(load_model(tmp_path / "old.safetensors").norm.weight, load_model(path).norm.weight)
    save_file(load_file(path), tmp_path / "stripped.safetensors", metadata | {"format": "2"})
    with pytest.raises(ValueError, match="it has no checksum, and was written with one"):
        load_model(tmp_path / "stripped.safetensors")
