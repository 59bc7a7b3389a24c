from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fusion import selftest
from fusion.cli import main
from fusion.commands import doctor, versions
from fusion.kernels import backends, build
from fusion.kernels._triton.device import MEASURED
from fusion.kernels.backends import unavailable, untested


def pretend(folder, name, version, *requires):
    """What pip leaves of an installed package."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))


def test_doctor_finds_this_machine_sound(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert torch.__version__ in text
    assert all(row["op"] in text for row in backends())
    for op in ("patch_info_nce", "relative_attention", "quantization", "convolution_3x3", "pool_dates"):
        assert any(line.split()[0] == op and line.endswith("ok") for line in text.splitlines() if line.strip())
    assert "no problems found" in text


@pytest.mark.parametrize(
    ("requirement", "sound"), [("torch (==2.5.1)", False), ("torch==2.5.1", False), ("torch", True)]
)
def test_a_torchvision_for_another_torch_is_named(requirement, sound, tmp_path, monkeypatch, capsys):
    pretend(tmp_path, "torchvision", "0.20.1", "numpy", requirement)
    monkeypatch.syspath_prepend(tmp_path)
    assert bool(versions.mismatches()) is not sound
    if not sound:
        assert main(["doctor"]) == 1
        text = capsys.readouterr().out
        assert "torchvision 0.20.1 was built for torch 2.5.1" in text
        assert "pip uninstall torchvision" in text


def test_a_torchvision_for_this_torch_is_no_problem(tmp_path, monkeypatch):
    pretend(tmp_path, "torchvision", "0.99", f"torch=={torch.__version__.partition('+')[0]}")
    monkeypatch.syspath_prepend(tmp_path)
    assert not versions.mismatches()


def test_the_self_test_notices_a_wrong_number(monkeypatch, capsys):
    def slightly_wrong(inputs):
        results = selftest._attention(selftest.relative_attention)(inputs)
        return results | {"gradient of table": results["gradient of table"] * 1.0001}

    info_nce, attention, *others = selftest.CHECKS
    monkeypatch.setattr(selftest, "CHECKS", (info_nce, replace(attention, run=slightly_wrong), *others))
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "PROBLEM: relative_attention computes wrong numbers in backend eager" in text
    assert "patch_info_nce computes" not in text


def test_the_self_test_survives_an_op_that_raises(monkeypatch):
    def broken(inputs):
        raise OSError("undefined symbol: _ZN3c10")

    monkeypatch.setattr(selftest, "CHECKS", [replace(check, run=broken) for check in selftest.CHECKS])
    outcomes = list(selftest.self_test())
    assert outcomes
    assert all("undefined symbol" in str(o) and not o.passed for o in outcomes)


def test_build_prints_where_everything_is(monkeypatch, capsys):
    built = {package: f"/cache/{package}.so" for package in build.CPU} | {"cuda": "not built: no CUDA"}
    monkeypatch.setattr("fusion.kernels.build.compile_all", lambda: built)
    assert main(["build"]) == 0
    assert "quantize    /cache/quantize.so" in capsys.readouterr().out
    monkeypatch.setattr("fusion.kernels.build.compile_all", lambda: built | {"quantize": "not built: no g++"})
    assert main(["build"]) == 1


def gpu(name, major, minor, shared):
    properties = SimpleNamespace(name=name, major=major, minor=minor, total_memory=2**35)
    properties.shared_memory_per_block_optin = shared
    return properties


@pytest.mark.parametrize(
    ("properties", "sentences"),
    [
        (gpu("Orin", 8, 7, 166_912), ["sm_87: not listed, takes the tiles of sm_80", "not on this GPU"]),
        (gpu("NVIDIA RTX A6000", 8, 6, 101_376), ["sm_86, 32 GiB;", f"measured on {MEASURED[0]}, not on this GPU"]),
        (gpu("NVIDIA L4", 8, 9, 101_376), ["takes the tiles of sm_86 where it has none of its own"]),
        (gpu(MEASURED[0], 9, 0, 232_448), ["kernels were measured on this GPU"]),
        (gpu("Tesla T4", 7, 5, 65_536), ["sm_75", "need sm_80 or above and do not run on it"]),
        (gpu("Future", 13, 0, 300_000), ["sm_130: not listed, takes the tiles of sm_100"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_it_says_by_whose_tiles_a_gpu_runs(properties, sentences, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    text = doctor._describe_gpu(0)
    assert all(sentence in text for sentence in sentences), text


@pytest.mark.parametrize(("version", "sentence"), [("3.5.1", "is older than 3.6"), ("3.10.0", "is newer than 3.9")])
def test_it_says_what_is_wrong_with_a_triton(version, sentence, monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for reason in (unavailable, untested):
        reason.cache_clear()
    try:
        assert doctor._describe_triton().startswith(f"{version}; triton {version} {sentence}")
    finally:
        for reason in (unavailable, untested):
            reason.cache_clear()
