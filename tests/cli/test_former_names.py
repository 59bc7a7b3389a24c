"""Arguments whose name has changed: the former name is understood by functions, steps, options and files."""

import inspect

import pytest

from fusion.commands.parser import parse
from fusion.commands.probe import probe
from fusion.settings import call, former_names, renamed
from fusion.token_fusion.generate import expect, generate
from fusion.workflow import examine
from fusion.workflow.steps import STEPS

PROBE = ["probe", "runs/mine", "--data", "landscape"]


@renamed(share="fraction")
def step(state, *, fraction: float, draws: int = 1):
    """Some of the labels."""
    return fraction, draws


def test_a_function_takes_both_names_and_shows_the_new_one():
    assert step(None, share=0.5) == step(None, fraction=0.5) == (0.5, 1)
    assert list(inspect.signature(step).parameters) == ["state", "fraction", "draws"]
    assert (step.__name__, step.__doc__) == ("step", "Some of the labels.")
    with pytest.raises(TypeError, match=r"step\(\): share is the former name of fraction; give fraction alone"):
        step(None, share=0.5, fraction=0.5)


def test_a_setting_of_a_step_may_have_its_former_name():
    assert call(step, {"share": 0.5, "draws": 2}, "step probe", None) == (0.5, 2)
    with pytest.raises(ValueError, match="step probe: unknown setting shares; it has fraction, draws"):
        call(step, {"shares": 0.5}, "step probe", None)
    with pytest.raises(TypeError, match="step probe: share is the former name of fraction"):
        call(step, {"share": 0.5, "fraction": 0.5}, "step probe", None)


def test_steps_of_older_experiments_are_understood():
    for name in ("compare", "modalities"):
        assert former_names(STEPS[name]) == {"share": "fraction"}
    assert former_names(STEPS["finetune"]) == {"shares": "fractions"}
    for show in (examine.generate, examine.counterfactual, examine.sensitivity, generate, expect):
        assert former_names(show) == {"given": "conditioning"}


@pytest.mark.parametrize("option", [["--share", "0.25"], ["--share=0.25"], ["--fraction", "0.25"]])
def test_an_option_may_have_its_former_name(option):
    name, function, values = parse([*PROBE, *option, "--draws", "3"])
    assert (name, function, values["fraction"], values["draws"]) == ("probe", probe, 0.25, 3)
    assert "share" not in values


@pytest.mark.parametrize("option", [["--given", "[s1,s2]"], ["--given=[s1,s2]"], ["--given+", "s1", "--given+=s2"]])
@pytest.mark.parametrize("command", ["generate", "counterfactual", "sensitivity"])
def test_options_of_token_fusion_too(command, option):
    needed = {"generate": ["--target", "x"], "counterfactual": ["--target", "x", "--edit", "{add: {}}"]}
    words = [command, "runs/tokens", "--data", "landscape", *needed.get(command, []), *option]
    assert parse(words)[2]["conditioning"] == ["s1", "s2"]


@pytest.mark.parametrize("key", ["share", "fraction"])
def test_a_file_may_have_the_former_name_and_the_command_line_overrides_it(key, tmp_path):
    file = tmp_path / "probe.yaml"
    file.write_text(f"{key}: 1e-1  # of the labels\nsplits: {{test: north}}\npool: tokens\n")
    values = parse([*PROBE, "--config", str(file)])[2]
    assert (values["fraction"], values["pool"], values["splits"]) == (0.1, "tokens", {"test": "north"})
    assert parse([*PROBE, "--config", str(file), "--share", "0.5"])[2]["fraction"] == 0.5


def test_both_names_at_once_are_refused(tmp_path, capsys):
    file = tmp_path / "probe.yaml"
    file.write_text("share: 0.1\nfraction: 0.2\n")
    for arguments in (["--share", "0.1", "--fraction=0.2"], ["--config", str(file)]):
        with pytest.raises(SystemExit) as left:
            parse([*PROBE, *arguments])
        assert left.value.code == 2
        assert "share is the former name of fraction; give fraction alone" in capsys.readouterr().err


def test_help_shows_the_new_name_only(capsys):
    with pytest.raises(SystemExit):
        parse(["probe", "--help"])
    shown = capsys.readouterr().out
    assert "--fraction" in shown
    assert "--share" not in shown
