"""On-the-fly compilation: races, killed builds, missing compilers and folders that cannot be written.

Each case runs in processes of its own, on a one-function stand-in for csrc so that a build takes a second.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fusion.kernels import build

pytest.importorskip("fcntl")

# Loads the module that builds alone, pointed at a small source tree, and calls the function it compiled.
PROGRAM = """
import ctypes, sys
from pathlib import Path
from fusion.kernels import artifact, toolchain

source = Path(sys.argv[1])
def library():
    compiler = toolchain.cxx()
    return artifact.Library(
        name="toy", title="toy kernels", sources=(source,),
        compile={source.parent.name: (compiler, "-fPIC", "-O1")}, link=(compiler, "-shared"),
        identity=toolchain.version(compiler),
    )
artifact.CSRC = source.parent
try:
    print("answer", ctypes.CDLL(str(artifact.artifact(library()))).answer())
except (artifact.BuildError, toolchain.ToolchainError) as error:
    print("refused:", error)
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    source = tmp_path / "csrc" / "toy.cpp"
    source.parent.mkdir()
    source.write_text('extern "C" int answer() { return 42; }\n')
    return source


def start(source: Path, cache: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(source)],
        env={**os.environ, "FUSION_CACHE_DIR": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_four_racing_processes_one_builds(toy: Path, tmp_path: Path) -> None:
    racers = [start(toy, tmp_path / "cache") for _ in range(4)]
    outputs = [racer.communicate(timeout=120) for racer in racers]
    assert all("answer 42" in out for out, _ in outputs), outputs
    assert sum("compiled the toy kernels" in err for _, err in outputs) == 1
    assert not list((tmp_path / "cache").glob("building-*"))


def test_a_build_killed_half_way_leaves_nothing_that_blocks(toy: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "slow-g++"
    compiler.write_text(
        textwrap.dedent("""\
        #!/bin/sh
        case "$*" in *--version*) exec g++ "$@";; esac
        sleep 60
        """)
    )
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    victim = start(toy, cache, CXX=str(compiler))
    deadline = time.monotonic() + 60
    while not list(cache.glob("building-*/build.ninja")):
        assert time.monotonic() < deadline, "the build never began"
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    out, _ = start(toy, cache).communicate(timeout=60)
    assert "answer 42" in out


def test_changed_sources_build_again(toy: Path, tmp_path: Path) -> None:
    assert "answer 42" in start(toy, tmp_path / "cache").communicate(timeout=60)[0]
    toy.write_text('extern "C" int answer() { return 43; }\n')
    assert "answer 43" in start(toy, tmp_path / "cache").communicate(timeout=60)[0]


def test_no_compiler_is_said_with_the_fix(toy: Path, tmp_path: Path) -> None:
    out, _ = start(toy, tmp_path / "cache", CXX="no-such-compiler").communicate(timeout=60)
    assert "refused: no C++ compiler found (looked for $CXX=no-such-compiler)" in out


def test_a_source_that_does_not_compile_shows_the_compilers_words(toy: Path, tmp_path: Path) -> None:
    toy.write_text("this is not C++\n")
    out, _ = start(toy, tmp_path / "cache").communicate(timeout=60)
    assert "refused: compiling the toy kernels failed" in out
    assert "toy.cpp:1" in out


def test_a_cache_folder_that_cannot_be_made_names_the_variable(toy: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")  # a file where the folder should be: also root cannot write below it
    out, _ = start(toy, blocked / "cache").communicate(timeout=60)
    assert "refused: cannot write the cache folder" in out
    assert "FUSION_CACHE_DIR" in out


def test_disabled_compilation_says_what_to_run(toy: Path, tmp_path: Path) -> None:
    out, _ = start(toy, tmp_path / "cache", FUSION_DISABLE_JIT="1").communicate(timeout=60)
    assert "FUSION_DISABLE_JIT=1; run `fusion build`" in out


def test_sanitizers_change_the_commands_and_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSION_SANITIZE", raising=False)
    usual = [build._cpu_library("pooling"), build._arrays_library()]
    monkeypatch.setenv("FUSION_SANITIZE", "address, undefined")
    sanitized = [build._cpu_library("pooling"), build._arrays_library()]
    assert len({library.key for library in usual + sanitized}) == 4
    option = "-fsanitize=address,undefined,float-cast-overflow"
    for library in usual:
        assert not any("sanitize" in word for words in (*library.compile.values(), library.link) for word in words)
    for library in sanitized:
        assert all(option in words for words in (*library.compile.values(), library.link))
        assert library.compile["cpu"].index("-O1") > library.compile["cpu"].index("-O3")  # the last one counts


@pytest.mark.parametrize("asked", ["adress", "address,", "address -O0", "-fsanitize=address"])
def test_what_is_no_sanitizer_is_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_SANITIZE", asked)
    with pytest.raises(build.BuildError, match=f"FUSION_SANITIZE={asked}: '.*' is no sanitizer; give address, undefi"):
        build._cpu_library("pooling")
