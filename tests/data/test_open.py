"""What is opened by what a user names."""

from __future__ import annotations

import json

import pytest

from fusion.data import open_cubes, open_data, open_unlabelled

from .rasters import SERIES, image, write, write_series

DESCRIPTION = {"files": "x", "tile": 40, "patch": 20, "modalities": {"s2": SERIES}}
CROP = {"files": "crop/{scene}.tif", "resolution": 10, "reduction": "majority", "classes": {"a": 1}}


def test_a_folder_with_its_description_is_enough(tmp_path):
    write_series(tmp_path)
    labels = image(bands=1)[0] * 0
    labels[:4, :4] = 1
    write(tmp_path / "crop" / "a.tif", labels)
    (tmp_path / "fusion.yaml").write_text(json.dumps(DESCRIPTION | {"labels": CROP}))
    assert open_data(tmp_path).names == open_data(str(tmp_path / "fusion.yaml")).names == ["a_r0000_c0000"]
    assert len(open_unlabelled(tmp_path)) == len(open_data(tmp_path, labels=False)) == 4
    assert len(open_unlabelled(tmp_path, labels=True)) == 1
    (cube,) = open_cubes(tmp_path)
    assert cube.sensors["s2"].values[...].shape == (3, 2, 8, 8)


def test_another_description_or_folder_is_still_taken(tmp_path):
    write_series(tmp_path / "data")
    described = tmp_path / "described"
    described.mkdir()
    (described / "fusion.yaml").write_text(json.dumps(DESCRIPTION))
    assert len(open_data(described, folder=tmp_path / "data")) == 4
    (tmp_path / "data" / "fusion.yaml").write_text("modalities: {}")
    assert len(open_data(tmp_path / "data", cube=described / "fusion.yaml")) == 4
    assert len(open_cubes(tmp_path / "data", cube=described / "fusion.yaml")) == 1
    with pytest.raises(ValueError, match=r"fusion.yaml: 'files', 'tile', 'patch' is missing"):
        open_data(tmp_path / "data")


def test_a_folder_without_description_is_told_what_to_add(tmp_path):
    with pytest.raises(ValueError, match=r"is not recognised\. .*a folder with fusion\.yaml, which describes it"):
        open_data(tmp_path)
    with pytest.raises(ValueError, match=r"is not recognised\. .*an empty folder \(0 files\)"):
        open_cubes(tmp_path)
