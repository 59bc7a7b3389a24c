"""What a killed process leaves beside a map is gone once the map is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fusion.embed import embed_map, predict_map
from fusion.embed.formats.temporary import beside, replacing_folder, sweep

from .ground import CLASSES, cut, finetuned, scene

REPOSITORY = Path(__file__).resolve().parents[2]
_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.embed.test_leftovers import make
import fusion.embed.{module} as module
def stop(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
module.{where} = stop
make({kind!r}, Path({out!r}))
"""


def make(kind: str, out: Path) -> None:
    tiles = cut(scene(), (8, 12))
    module = finetuned(tiles, "multiclass", CLASSES)
    if kind == "predict":
        predict_map(module, tiles, out, batch_size=4)
    else:
        embed_map(module.model, tiles, out, batch_size=4)


@pytest.mark.extra
@pytest.mark.parametrize(
    ("kind", "name", "module", "where"),
    [
        ("embed", "map.tif", "raster", "checked"),
        ("embed", "map.zarr", "formats.geozarr", "ErrorMeter"),
        ("embed", "map.parquet", "formats.geoparquet", "checked"),
        ("predict", "map.tif", "cog", "copy_optimised"),
    ],
)
def test_killed_while_it_writes_a_map_leaves_nothing_once_it_is_made(kind, name, module, where, tmp_path):
    out = tmp_path / name
    script = _KILLED.format(kind=kind, out=str(out), module=module, where=where)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert left
    assert all(hidden.startswith(f".{name}.writing-") for hidden in left)
    make(kind, out)
    assert out.exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".") or path.suffix == ".partial"]


@pytest.mark.parametrize(
    ("kind", "name"), [("embed", "map.tif"), ("embed", "map.zarr"), ("embed", "map.parquet"), ("predict", "map.tif")]
)
def test_what_an_earlier_process_left_is_removed_with_the_next_map(kind, name, tmp_path):
    (tmp_path / f".{name}.writing-abc").mkdir()
    (tmp_path / f".{name}.writing-abc" / "blocks.tif").write_text("")
    (tmp_path / f".{name}.writing-def{Path(name).suffix}").write_text("")
    make(kind, tmp_path / name)
    assert not list(tmp_path.glob(".*"))


def test_only_what_was_to_become_the_same_file_is_swept(tmp_path):
    for name in (".map.tif.writing-abc", ".map-2.tif.writing-abc", ".map.tifx", "map.tif", ".map.tif.writing-x.tif"):
        (tmp_path / name).write_text("")
    (tmp_path / ".map.tif.writing-def").mkdir()
    (tmp_path / ".map.tif.writing-def" / "blocks.tif").write_text("")
    sweep(tmp_path / "map.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".map-2.tif.writing-abc", ".map.tifx", "map.tif"]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_was_moved_aside_is_moved_back_unless_another_has_taken_its_place(there, tmp_path):
    path = tmp_path / "a[1].zarr"
    prefix = beside(path)["prefix"]
    (tmp_path / f"{prefix}x.zarr.former").mkdir()
    (tmp_path / f"{prefix}x.zarr.former" / "old").write_text("")
    (tmp_path / f"{prefix}x.zarr").mkdir()
    if there:
        path.mkdir()
        (path / "new").write_text("")
    sweep(path)
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
    assert [child.name for child in path.iterdir()] == ["new" if there else "old"]
    with replacing_folder(path) as temporary:
        (temporary / "newest").write_text("")
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
    assert [child.name for child in path.iterdir()] == ["newest"]
