"""YAML says what it seems to say: YAML 1.2's rules instead of 1.1's, in files, descriptions and options."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fusion.commands.parser import parse
from fusion.workflow.experiment import load_experiment
from fusion.yaml_loader import load_yaml


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 0.001),
        ("1e20", 1e20),
        ("-1.5E+3", -1500.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("010", 10),
        ("+3", 3),
        ("0x1F", 31),
        ("0o17", 15),
        ("inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
    ],
)
def test_numbers_booleans_and_nothing_are_what_is_written(written: str, meant: object) -> None:
    value = load_yaml(f"key: {written}")["key"]
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize("written", ["nan", "NaN", ".nan", ".NAN"])
def test_nan_is_a_number(written: str) -> None:
    first, second = load_yaml(f"[-9999, {written}]")
    assert (first, math.isnan(second)) == (-9999, True)


@pytest.mark.parametrize(
    "written", ["NO", "no", "on", "Off", "yes", "Y", "12:30", "1:20:05", "2020-04-10", "12_3", "1_000.5", "=", "0b11"]
)
def test_what_yaml_1_1_would_turn_into_something_else_stays_text(written: str) -> None:
    assert load_yaml(f"{{{written}: [{written}]}}") == {written: [written]}


@pytest.mark.parametrize("written", ["1e-3", "010", "true", "nan", "null", "~"])
def test_what_stands_in_quotes_is_text(written: str) -> None:
    assert load_yaml(f"['{written}', \"{written}\"]") == [written, written]


def test_a_key_that_is_given_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("bands: [B04]\nsplits:\n  train: a\n  'train': b\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: line 4: train was given in line 3; keep one of them"):
        load_yaml(path)


def test_keys_taken_over_by_a_merge_may_be_overridden() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\nd: {<<: [*b, *a], z: 4}"
    assert load_yaml(text) == {
        "a": {"x": 1, "y": 1},
        "b": {"x": 2, "y": 1},
        "c": {"x": 3, "y": 1},
        "d": {"x": 2, "y": 1, "z": 4},
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"files: [", r"mine\.yaml: is not YAML"),
        (b"a: 1\n---\nb: 2\n", r"mine\.yaml: is not YAML: expected a single document"),
        (b"a: !!timestamp 9", r"mine\.yaml: is not YAML"),
        (b"!!python/name:os.system x", r"mine\.yaml: is not YAML: could not determine a constructor"),
        ("name: Châtaignier".encode("latin-1"), r"mine\.yaml: is not text in UTF-8 .*save it as UTF-8"),
    ],
)
def test_a_file_that_is_no_yaml_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        load_yaml(tmp_path / "mine.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbftitle: a\n")
    assert load_yaml(tmp_path / "mine.yaml") == {"title": "a"}


def test_experiments_are_read_by_these_rules(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: NO\ndata: {source: landscape}\nsteps:\n- pretrain: {module: {lr: 1e-3}, splits: [on, 12_3]}\n"
    )
    experiment = load_experiment(path)
    assert experiment.title == "NO"
    assert experiment.steps == ({"pretrain": {"module": {"lr": 0.001}, "splits": ["on", "12_3"]}},)
    path.write_text(path.read_text() + "title: again\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: line 5: title was given in line 1"):
        load_experiment(path)


def test_options_and_their_files_are_read_by_these_rules(tmp_path: Path) -> None:
    words = ["pretrain", "--data", "landscape"]
    values = parse([*words, "--module.lr", "1e-3", "--reader.bands", "[NO, B04]", "--reader.day", "2020-04-10"])[2]
    assert values["module"] == {"lr": 0.001}
    assert values["reader"] == {"bands": ["NO", "B04"], "day": "2020-04-10"}
    assert parse([*words, "--modalities", "[no,on]"])[2]["modalities"] == ["no", "on"]
    assert parse([*words, "--reader.files", "{scene}"])[2]["reader"] == {"files": "{scene}"}
    (tmp_path / "mine.yaml").write_text("module: {lr: 1e-3}\nreader: {country: NO, tile: 010}\n")
    values = parse([*words, "--config", str(tmp_path / "mine.yaml")])[2]
    assert values["module"] == {"lr": 0.001}
    assert values["reader"] == {"country": "NO", "tile": 10}


@pytest.mark.parametrize(("written", "meant"), [("-1e-3", -0.001), ("-5", -5), ("-.5", -0.5), ("-2.E+3", -2000.0)])
def test_a_negative_number_is_a_value_and_no_option(written: str, meant: float) -> None:
    assert parse(["pretrain", "--data", "landscape", "--reader.offset", written])[2]["reader"] == {"offset": meant}


def test_options_that_are_given_twice_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 1\nseed: 2\n")
    for option in (["--config", str(tmp_path / "mine.yaml")], ["--reader", "{tile: 1, tile: 2}"]):
        with pytest.raises(SystemExit) as left:
            parse(["pretrain", "--data", "landscape", *option])
        assert left.value.code == 2
    assert "seed was given in line 1" in capsys.readouterr().err


def test_anchors_that_multiply_are_refused_before_they_take_memory() -> None:
    doubled = "\n".join(f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    with pytest.raises(ValueError, match="holds more than 100,000 values where its anchors"):
        load_yaml(f"k0: &a0 [1, 2]\n{doubled}", "bomb.yaml")
    merged = "\n".join(f"k{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12))
    with pytest.raises(ValueError, match="holds more than 100,000 values where its anchors"):
        load_yaml(f"k0: &a0 {{x: 1}}\n{merged}", "bomb.yaml")


def test_an_anchor_within_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="holds more than 100,000 values where its anchors"):
        load_yaml("a: &a [*a]", "loop.yaml")


def test_anchors_that_people_use_are_read() -> None:
    assert load_yaml("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}") == {
        "a": {"x": [1, 2]},
        "b": {"x": [1, 2]},
        "c": {"x": [1, 2], "y": 3},
    }


def test_lists_too_deep_to_be_read_are_refused() -> None:
    with pytest.raises(ValueError, match="lie too deep in each other"):
        load_yaml("[" * 5000 + "]" * 5000, "deep.yaml")
