"""Compiled libraries that are damaged, incomplete or somebody else's are not loaded."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.kernels import artifact, build, library_file, toolchain
from fusion.kernels.library_file import distrusted, seal, whole

COMPILED = "compiled the toy kernels"
Find = Callable[[], tuple[Path, str]]


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Find:
    """Has a library of one function compiled into ``tmp_path / "cache"`` if need be: its path and what is said."""
    source = tmp_path / "csrc" / "toy.cpp"
    source.parent.mkdir()
    source.write_text('extern "C" int answer() { return 42; }\n')
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(artifact, "CSRC", source.parent)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("FUSION_CACHE_DIR", str(tmp_path / "cache"))

    def find() -> tuple[Path, str]:
        compiler = toolchain.cxx()
        library = artifact.Library(
            "toy", "toy kernels", (source,), {"csrc": (compiler, "-fPIC")}, (compiler, "-shared"), "toy"
        )
        path = artifact.artifact(library)
        copy = tmp_path / f"loaded-{len(list(tmp_path.glob('loaded-*')))}.so"  # a process loads a path only once
        shutil.copy(path, copy)
        assert ctypes.CDLL(str(copy)).answer() == 42
        return path, capfd.readouterr().err

    return find


def test_a_damaged_library_is_compiled_again(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    path, said = find()
    assert COMPILED in said
    assert COMPILED not in find()[1]
    content = path.read_bytes()
    middle = len(content) // 2
    for damaged in (
        content[:middle],
        content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
        content[:-1] + bytes([content[-1] ^ 1]),
        b"",
    ):
        path.write_bytes(damaged)
        with monkeypatch.context() as patch:
            patch.setenv("FUSION_DISABLE_JIT", "1")
            with pytest.raises(build.BuildError, match="toy kernels are damaged and FUSION_DISABLE_JIT=1; run `fusion"):
                find()
        assert COMPILED in find()[1]
        assert COMPILED not in find()[1]


def test_what_everybody_may_write_is_not_loaded(find: Find, tmp_path: Path) -> None:
    kept, _ = find()
    for place in (kept, kept.parent, kept.parent.parent):
        before = place.stat().st_mode
        place.chmod(0o777)
        path, said = find()
        assert path.is_relative_to(tmp_path / "tmp")
        assert "may be written by everybody; compiling into" in said or COMPILED not in said  # a private one is there
        place.chmod(before)
    assert find()[0] == kept


def test_what_belongs_to_another_user_is_not_loaded(
    find: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find()
    monkeypatch.setattr(library_file, "_owners", lambda: (os.getuid() + 1, os.getuid() + 1))
    path, said = find()
    assert path.is_relative_to(tmp_path / "tmp")
    assert f"belongs to user {os.getuid()}; compiling into" in said


def test_a_link_in_the_place_of_a_library_is_not_loaded(find: Find, tmp_path: Path) -> None:
    kept, _ = find()
    shutil.move(kept, tmp_path / "elsewhere.so")
    kept.symlink_to(tmp_path / "elsewhere.so")
    assert "is a link; compiling into" in find()[1]


def test_a_folder_like_tmp_may_hold_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "sticky"
    (folder / "key").mkdir(parents=True)
    folder.chmod(0o1777)
    (folder / "key" / "a.so").write_bytes(b"")
    assert distrusted(folder / "key" / "a.so") is None


def test_a_link_in_the_place_of_the_lock_is_not_followed(find: Find, tmp_path: Path) -> None:
    kept, _ = find()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    lock = tmp_path / "cache" / f"{kept.parent.name}.lock"
    lock.unlink()
    lock.symlink_to(victim)
    kept.unlink()
    with pytest.raises(build.BuildError, match="cannot write the cache folder"):
        find()
    assert victim.read_text() == "precious"


def test_a_compiler_that_does_not_end_is_ended(find: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, began = tmp_path / "g++", tmp_path / "began"
    compiler.write_text(
        textwrap.dedent(f"""\
        #!/bin/sh
        echo $$ > {began}
        exec sleep 600
        """)
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(artifact, "_PATIENCE", 1.0)
    with pytest.raises(build.BuildError, match="compiling the toy kernels did not end within"):
        find()
    status = Path(f"/proc/{began.read_text().strip()}/status")
    assert not status.exists() or "zombie" in status.read_text()
    assert not list((tmp_path / "cache").glob("building-*"))


def test_a_library_without_its_operators_is_compiled_again(tmp_path: Path) -> None:
    library = build._describe("pooling")
    path = tmp_path / "cache" / library.key / f"{library.name}.so"
    path.parent.mkdir(parents=True)
    source = tmp_path / "nothing.cpp"
    source.write_text("int nothing() { return 0; }\n")
    subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    seal(path)
    assert whole(path)
    program = (
        "import torch\nfrom fusion.kernels import build\nbuild.load('pooling')\n"
        "print(torch._C._dispatch_has_kernel_for_dispatch_key('fusion::pool_dates_cpp', 'CPU'))\n"
    )
    settings = os.environ | {"FUSION_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
    assert "compiled the pooling kernels" in done.stderr


def test_every_binding_is_among_the_operators_that_are_looked_for() -> None:
    for package in build.CPU:
        sources = build._describe(package).sources
        assert any(build._IMPLEMENTED.findall(source.read_text()) for source in sources), package
    for source in (artifact.CSRC / "cuda").glob("*.cu"):
        text = source.read_text()
        assert len(build._IMPLEMENTED.findall(text)) == text.count("m.impl("), source
