"""Compiling where something is unusual: no home, a full disk, compilers with arguments, odd names of folders.

Each case runs in a process of its own, on the one-function stand-in for csrc of test_build.py.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fusion.kernels import toolchain

from .test_build import PROGRAM, toy  # noqa: F401  (a fixture)

# A user whom the password file does not know, as containers often run one.
UNKNOWN = "import pwd\ndef unknown(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\npwd.getpwuid = unknown\n"


def run(source: Path, tmp: Path, *, program: str = PROGRAM, **environment: str | None) -> tuple[str, str]:
    """What is printed and what is said, with temporary files below ``tmp``; None takes a variable away."""
    tmp.mkdir(exist_ok=True)
    unset = {"FUSION_CACHE_DIR": None, "XDG_CACHE_HOME": None, "TMPDIR": str(tmp)}
    settings = {k: v for k, v in {**os.environ, **unset, **environment}.items() if v is not None}
    done = subprocess.run(
        [sys.executable, "-c", program, str(source)], env=settings, capture_output=True, text=True, errors="replace"
    )
    return done.stdout, done.stderr


def test_without_a_home_libraries_go_to_a_private_temporary_folder(toy: Path, tmp_path: Path) -> None:  # noqa: F811
    tmp = tmp_path / "tmp"
    for times in (1, 0):  # the second process finds what the first one compiled
        out, said = run(toy, tmp, program=UNKNOWN + PROGRAM, HOME=None)
        assert "answer 42" in out, said
        assert said.count("compiled the toy kernels") == times
    (folder,) = tmp.glob("eo-fusion-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_home_that_cannot_be_written_is_said_and_passed_over(toy: Path, tmp_path: Path) -> None:  # noqa: F811
    home, tmp = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    (home / ".cache").write_text("")  # a file where the folder should be: also root cannot write below it
    out, said = run(toy, tmp, HOME=str(home))
    assert "answer 42" in out
    assert f"cannot write the cache folder {home}/.cache/eo-fusion" in said
    assert f"compiling into {tmp}/eo-fusion-{os.getuid()}" in said
    assert "set FUSION_CACHE_DIR" in said
    assert "cannot write" not in run(toy, tmp, HOME=str(home))[1]  # nothing is compiled, so nothing need be said


@pytest.mark.parametrize("kind", ["for all to write", "a link", "a file"])
def test_a_temporary_folder_that_is_not_the_users_own_is_not_used(toy: Path, tmp_path: Path, kind: str) -> None:  # noqa: F811
    tmp, elsewhere = tmp_path / "tmp", tmp_path / "elsewhere"
    tmp.mkdir()
    elsewhere.mkdir()
    folder = tmp / f"eo-fusion-{os.getuid()}"
    if kind == "a link":
        folder.symlink_to(elsewhere)
    elif kind == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    out, said = run(toy, tmp, program=UNKNOWN + PROGRAM, HOME=None)
    assert "answer 42" in out, said
    assert f"kept in {folder}/" not in said
    assert not list(elsewhere.iterdir())
    assert kind == "a file" or not list(folder.iterdir())


def test_a_full_disk_is_passed_over_as_a_folder_that_cannot_be_written_is(toy: Path, tmp_path: Path) -> None:  # noqa: F811
    home, tmp, compiler = tmp_path / "home", tmp_path / "tmp", tmp_path / "g++"
    compiler.write_text(
        f'#!/bin/sh\ncase "$PWD" in {home}*) echo "fatal error: No space left on device" >&2; exit 1;; esac\n'
        'exec g++ "$@"\n'
    )
    compiler.chmod(0o755)
    home.mkdir()
    out, said = run(toy, tmp, HOME=str(home), CXX=str(compiler))
    assert "answer 42" in out, said
    assert "(No space left on device); compiling into" in said


def test_a_folder_for_temporary_files_that_is_missing_does_not_matter(toy: Path, tmp_path: Path) -> None:  # noqa: F811
    cache = tmp_path / "cache"
    out, said = run(toy, tmp_path, FUSION_CACHE_DIR=str(cache), TMPDIR=str(tmp_path / "none"))
    assert "answer 42" in out, said
    assert not list(cache.glob("building-*"))


@pytest.mark.parametrize(
    "name", ["two words", 'it\'s "quoted"', "$HOME; false #", "ünï-çödé", os.fsdecode(b"\xff\xfe")]
)
@pytest.mark.parametrize("locale", ["C", pytest.param("C.UTF-8", marks=pytest.mark.extra)])
def test_names_of_folders_may_be_any(toy: Path, tmp_path: Path, name: str, locale: str) -> None:  # noqa: F811
    sources = tmp_path / name / "csrc"
    sources.mkdir(parents=True)
    shutil.copy(toy, sources)
    tools = tmp_path / name / "tools"
    tools.mkdir()
    (tools / "c++").symlink_to(shutil.which("g++") or "g++")
    cache = str(tmp_path / name / "cache")
    out, said = run(sources / toy.name, tmp_path, FUSION_CACHE_DIR=cache, CXX=str(tools / "c++"), LC_ALL=locale)
    assert "answer 42" in out, out + said


def _launcher(folder: Path) -> Path:
    """A program that runs what it is given, as ccache does."""
    path = folder / "my launcher"
    path.write_text('#!/bin/sh\nexec "$@"\n')
    path.chmod(0o755)
    return path


def test_a_compiler_may_be_a_command_with_arguments(toy: Path, tmp_path: Path) -> None:  # noqa: F811
    toy.write_text('extern "C" int answer() { return ANSWER; }\n')
    for number, command in enumerate(("g++ -DANSWER=1", f"'{_launcher(tmp_path)}' g++ -m64 '-DANSWER = 1 + 0'")):
        out, said = run(toy, tmp_path, FUSION_CACHE_DIR=str(tmp_path / f"cache {number}"), CXX=command)
        assert "answer 1" in out, out + said


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CXX", "g++ 'oops", r"$CXX=g++ 'oops is not a command: No closing quotation"),
        ("CXX", "nowhere g++", "no C++ compiler found (looked for $CXX=nowhere g++)"),
        ("CXXFLAGS", '-DA="b', '$CXXFLAGS=-DA="b is not a command line: No closing quotation'),
        ("CUDAHOSTCXX", "nowhere", "$CUDAHOSTCXX=nowhere is no compiler"),
    ],
)
def test_variables_that_make_no_command_are_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(toolchain.ToolchainError) as error:
        toolchain.cxx(), toolchain.flags("CXXFLAGS"), toolchain.host_compiler()
    assert message in str(error.value)


def test_flags_of_conda_compilers_come_before_ours_and_ours_win(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusion.kernels import build

    monkeypatch.setenv("CXXFLAGS", "-O2 -march=nocona -ffast-math -isystem '/opt/my env/include'")
    monkeypatch.setenv("LDFLAGS", "-Wl,-rpath,/opt/env/lib")
    library = build._cpu_library("infonce")
    command = library.compile["cpu"]
    for theirs, ours in (("-O2", "-O3"), ("-march=nocona", "-march=native"), ("-ffast-math", "-fno-fast-math")):
        assert command.index(theirs) < command.index(ours)
    assert "/opt/my env/include" in command
    assert "-Wl,-rpath,/opt/env/lib" in library.link
    assert build._arrays_library().compile["cpu"][1:3] == command[1:3]
    monkeypatch.delenv("CXXFLAGS")
    assert build._cpu_library("infonce").key != library.key


def test_every_source_is_in_the_library_of_its_operators() -> None:
    from fusion.kernels import build

    found = [source for package in build.CPU for source in build._describe(package).sources]
    bindings = set((build.CSRC / "bindings").glob("*.cpp")) - {build.CSRC / "bindings" / "arrays.cpp"}
    assert sorted(found) == sorted([*(build.CSRC / "cpu").glob("*.cpp"), *bindings])


@pytest.mark.parametrize(
    ("cores", "memory", "wanted"), [(4, 64e9, 4), (4, 5e9, 2), (4, 1e9, 1)], ids=["cores", "memory", "at least one"]
)
def test_as_many_compilers_as_cores_and_memory_allow(monkeypatch, cores: int, memory: float, wanted: int) -> None:
    from fusion.kernels import machine, ninja_file

    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine, "available_memory", lambda: memory)
    assert ninja_file.jobs() == wanted


def test_who_calls_one_operator_waits_for_its_library_alone(tmp_path: Path) -> None:
    program = (
        "import torch; from fusion.kernels import pool_dates\n"
        "from fusion.kernels.backends import chosen\n"
        "x = torch.randn(2, 3, 5, 8)\n"
        "pool_dates(x, torch.randn(2, 8), torch.randn(2, 5, 2), torch.randn(2, 5, 4))\n"
        "print(chosen())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"FUSION_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "{'pool_dates': 'cpp'}" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.glob("*/*.so")] == ["fusion_pooling.so"]


def test_nvcc_is_given_the_host_compiler_that_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gcc = shutil.which("g++")
    for variable in ("CXX", "CUDAHOSTCXX", *toolchain.NVCC_FLAGS):
        monkeypatch.delenv(variable, raising=False)
    assert toolchain.host_compiler() == ()
    launcher = tmp_path / "ccache"
    launcher.symlink_to(_launcher(tmp_path))
    monkeypatch.setenv("CXX", f"{launcher} g++ -m64")
    assert toolchain.host_compiler() == (f"-ccbin={gcc}",)
    monkeypatch.setenv("CUDAHOSTCXX", "gcc")
    assert toolchain.host_compiler() == (f"-ccbin={shutil.which('gcc')}",)
    monkeypatch.setenv("NVCC_PREPEND_FLAGS", "-ccbin /usr/bin/g++")  # nvcc refuses to be told twice
    assert toolchain.host_compiler() == ()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_is_compiled_is_for_others_to_read_at_the_most(toy: Path, tmp_path: Path, umask: int) -> None:  # noqa: F811
    cache = tmp_path / "home" / ".cache" / "eo-fusion"
    out, said = run(toy, tmp_path, program=f"import os; os.umask({umask})\n" + PROGRAM, HOME=str(tmp_path / "home"))
    assert "answer 42" in out, said
    (library,) = cache.glob("*/toy.so")
    for path in (cache, library.parent, library):
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH), path


def test_a_tilde_without_a_home_is_refused_with_the_variable(toy: Path, tmp_path: Path) -> None:  # noqa: F811
    out, _ = run(toy, tmp_path, program=UNKNOWN + PROGRAM, HOME=None, FUSION_CACHE_DIR="~/cache")
    assert "refused: there is no folder for compiled libraries (FUSION_CACHE_DIR=~/cache needs a home folder" in out


def test_doctor_runs_without_a_home(tmp_path: Path) -> None:
    program = UNKNOWN + "from fusion.cli import main\nraise SystemExit(main(['doctor', '--test', 'no']))"
    settings = {"HOME": None, "FUSION_DISABLE_JIT": "1", "LC_ALL": "C"}
    out, said = run(tmp_path, tmp_path / "tmp", program=program, **settings)
    assert f"compiled: kept in {tmp_path / 'tmp' / 'eo-fusion-'}" in out, out + said
    assert "no problems found" in out
