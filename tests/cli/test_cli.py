import os
import subprocess
import sys

import pytest

from fusion.cli import main
from fusion.commands.parser import COMMANDS, parse


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | environment, check=False
    )


def names() -> list[list[str]]:
    return [[n, *([sub] if sub else [])] for n, c in COMMANDS.items() for sub in (c if isinstance(c, dict) else [""])]


def test_no_command_imports_anything_heavy_before_it_runs():
    program = (
        "import sys; from fusion.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'lightning', 'sklearn', 'matplotlib', 'rasterio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr
    assert all(command[0] in done.stdout for command in names())


@pytest.mark.parametrize("command", names(), ids=" ".join)
def test_every_argument_of_every_command_is_explained(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    function = COMMANDS[command[0]][command[1]] if len(command) > 1 else COMMANDS[command[0]]
    documented = function.function.__doc__
    arguments = function.function.__kwdefaults__ or {}
    assert all(f"{name}: " in documented and f"--{name}" in text for name in arguments)


@pytest.mark.parametrize("arguments", [["docto"], [], ["doctor", "--tst", "no"], ["doctor", "--test", "perhaps"]])
def test_a_wrong_command_line_is_told_in_two_lines(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("fusion")
    assert "--help` lists the options" in told[-1]


def test_errors_of_the_package_are_told_in_words(monkeypatch, capsys):
    def fail(*, test: bool = True) -> int:
        raise ValueError("the data has 3 bands; the model wants 4")

    monkeypatch.setattr("fusion.commands.doctor.doctor", fail)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "fusion doctor: the data has 3 bands; the model wants 4\n"
    monkeypatch.setenv("FUSION_VERBOSE", "1")
    assert main(["doctor"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_package_names_the_extra(monkeypatch, capsys):
    def fail(*, test: bool = True) -> int:
        raise ModuleNotFoundError("No module named 'rasterio'", name="rasterio")

    monkeypatch.setattr("fusion.commands.doctor.doctor", fail)
    assert main(["doctor"]) == 2
    assert "'rasterio' is not installed: pip install 'eo-fusion[train]'" in capsys.readouterr().err


def test_interruption_has_its_own_exit_code(monkeypatch, capsys):
    def interrupted(*, test: bool = True) -> int:
        raise KeyboardInterrupt("everything is saved")

    monkeypatch.setattr("fusion.commands.doctor.doctor", interrupted)
    assert main(["doctor"]) == 130
    assert "everything is saved" in capsys.readouterr().err


def test_a_bug_shows_its_traceback(monkeypatch):
    def bug(*, test: bool = True) -> int:
        raise AttributeError("oops")

    monkeypatch.setattr("fusion.commands.doctor.doctor", bug)
    with pytest.raises(AttributeError):
        main(["doctor"])


@pytest.mark.parametrize(("command", "code"), [("build", 0), ("demo", 2)])
def test_the_op_library_alone_can_be_built_and_examined(command, code):
    """Without the packages of the extra [train]: here jsonargparse cannot be imported."""
    program = (
        "import sys; sys.modules['jsonargparse'] = None\n"
        "import fusion.kernels.build\n"
        "fusion.kernels.build.compile_all = lambda: dict.fromkeys(fusion.kernels.build.CPU, 'there.so')\n"
        "from fusion.cli import main\n"
        f"sys.exit(main(['{command}']))\n"
    )
    done = python(program)
    assert done.returncode == code, done.stderr
    assert ("there.so" in done.stdout) if code == 0 else ("pip install 'eo-fusion[train]'" in done.stderr)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--model.fusion.dim", "16"], {"fusion": {"dim": 16}}),
        (["--model.window", "5", "--model.fusion.dim=16"], {"window": 5, "fusion": {"dim": 16}}),
        (
            ["--model.sensors.s2.depth", "1", "--model.sensors.s1.widths", "[8, 4]"],
            {"sensors": {"s2": {"depth": 1}, "s1": {"widths": [8, 4]}}},
        ),
        (
            ["--model.sensors", "{s2: {depth: 1}}", "--model.sensors.s2.heads", "2"],
            {"sensors": {"s2": {"depth": 1, "heads": 2}}},
        ),
        (
            ["--model.sensors.s2.heads", "2", "--model.sensors", "{s1: {depth: 1}}"],
            {"sensors": {"s2": {"heads": 2}, "s1": {"depth": 1}}},
        ),
        (["--model.depth", "-1"], {"depth": -1}),
    ],
)
def test_options_of_options_are_numbers_and_add_up(arguments, wanted):
    assert parse(["pretrain", "--data", "x", *arguments])[2]["model"] == wanted


@pytest.mark.parametrize(
    ("words", "fresh", "short", "progress"),
    [
        ("demo --fresh", True, False, None),
        ("--fresh demo --short true", True, True, None),
        ("demo --fresh false --short --progress false", False, True, False),
        ("demo --fresh=true --progress null --short", True, True, None),
    ],
)
def test_a_switch_alone_is_on(words, fresh, short, progress):
    _, _, given = parse(["experiment", *words.split()])
    assert (given["name"], given["fresh"], given["short"], given["progress"]) == ("demo", fresh, short, progress)


@pytest.mark.parametrize("when", ["before", "within"])
def test_an_interruption_is_told_without_a_traceback(when, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    found = interrupt if when == "before" else lambda _: ("doctor", interrupt, {})
    monkeypatch.setattr("fusion.commands.parser.parse", found)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == (
        "\nfusion: interrupted\n" if when == "before" else "\nfusion doctor: interrupted\n"
    )
