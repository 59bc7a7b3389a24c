"""fusion data describe, and --data with a folder that has no description."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from fusion.cli import main
from fusion.data import open_cubes, open_data, open_unlabelled
from fusion.data.folder import load_description
from fusion.yaml_loader import load_yaml

from ..data.rasters import DATES, image, write
from ..data.test_describe_rasters import SIDE, named


@pytest.fixture
def folder(tmp_path):
    for k, date in enumerate(DATES):
        named(write(tmp_path / "data" / f"{date}.tif", image(k, 2, SIDE)), ["B04", "B08"])
    return tmp_path / "data"


def test_without_out_the_yaml_alone_is_printed_and_nothing_written(folder, capsys):
    assert main(["data", "describe", str(folder)]) == 0
    out, error = capsys.readouterr()
    assert load_description(load_yaml(out)).modalities["s2"].bands == (
        "B04",
        "B08",
    )
    assert "reads 1 tiles of 1 scene; the first has s2 (2 bands, 3 dates)" in error
    assert f"next: fusion data describe {folder} --out {folder}/fusion.yaml" in error
    assert not list(folder.glob("*.yaml"))


def test_what_is_written_is_read_by_the_next_command(folder, capsys):
    out = folder / "fusion.yaml"
    assert main(["data", "describe", str(folder), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"wrote {out}" in told
    assert f"next: fusion pretrain --data {out} --out runs/mine" in told
    assert main(["data", "check", str(out)]) == 0
    assert "s2        3" in capsys.readouterr().out


def test_a_yaml_elsewhere_names_the_folder_in_the_next_command(folder, tmp_path, capsys):
    spaced = tmp_path / "my notes"
    spaced.mkdir()
    out = spaced / "mine.yaml"
    assert main(["data", "describe", str(folder), "--out", str(out)]) == 0
    assert f"--data '{out}' --reader.folder {folder} --out runs/mine" in capsys.readouterr().out


def test_the_same_text_may_be_written_again_and_another_file_is_kept(folder, capsys):
    out = folder / "fusion.yaml"
    assert main(["data", "describe", str(folder), "--out", str(out)]) == 0
    assert main(["data", "describe", str(folder), "--out", str(out)]) == 0
    out.write_text("mine: 1\n")
    assert main(["data", "describe", str(folder), "--out", str(out)]) == 2
    assert f"{out} is there already" in (error := capsys.readouterr().err)
    assert f"--out {folder}/fusion-new.yaml" in error
    assert out.read_text() == "mine: 1\n"


def test_a_question_that_changes_values_exits_with_1(tmp_path, capsys):
    write(tmp_path / "2020-04-10.tif", image(0, 4, SIDE))
    out = tmp_path / "fusion.yaml"
    assert main(["data", "describe", str(tmp_path), "--out", str(out)]) == 1
    told = capsys.readouterr().out
    assert "Please answer: the names of the 4 bands of 2020-04-10.tif" in told
    assert out.read_text().startswith("# Please answer: the names of the 4 bands")
    assert f"next: fusion data check {out}" in told


def test_a_published_folder_needs_no_description(tmp_path, capsys):
    (tmp_path / "train_filenames.lst").write_text("a\n")
    assert main(["data", "describe", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert f"{tmp_path} is a folder of TreeSatAI-TS, which needs no description" in told
    assert f"next: fusion data check {tmp_path}" in told


def test_no_such_folder_is_told_in_a_line(tmp_path, capsys):
    assert main(["data", "describe", str(tmp_path / "nothing")]) == 2
    assert re.search(r"no data at .*nothing; give a folder or a file that is there\n", capsys.readouterr().err)


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom fusion.cli import main\n"
        "try: main(['data', 'describe', '--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'rasterio' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--out" in done.stdout


def test_data_without_a_description_are_opened_as_guessed_and_told_how_to_keep_it(folder, capsys):
    data = open_data(folder)
    np.testing.assert_array_equal(data[0].values["s2"], np.stack([image(k, 2, SIDE) for k in range(3)]))
    keep = f"fusion data describe {folder} --out {folder}/fusion.yaml"
    said = f"guessed s2 (B04 B08 at 10 m, reflectance x 10000); keep and mend it with: {keep}"
    assert said in capsys.readouterr().err
    assert any(said in note for note in data.notes())


def test_cubes_and_data_without_labels_are_opened_as_guessed(folder):
    codes = np.ones((SIDE, SIDE), np.uint8)
    codes[0, 0] = 2
    write(folder / "labels.tif", codes)
    assert open_data(folder).task is not None
    assert open_unlabelled(folder).task is None
    (cube,) = open_cubes(folder)
    assert cube.sensors["s2"].modality.bands == ("B04", "B08")


def test_data_whose_bands_are_unknown_are_refused_until_they_are_described(tmp_path):
    write(tmp_path / "2020-04-10.tif", image(0, 4, SIDE))
    for opener in (open_data, open_unlabelled, open_cubes):
        with pytest.raises(ValueError, match=r"the names of the 4 bands .* answer there: fusion data describe"):
            opener(tmp_path)


def test_a_folder_of_other_things_is_still_not_recognised(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"is not recognised.*none of 1 files is an image or array \(1 .txt\)"):
        open_data(tmp_path)
