"""Maps of embeddings that are stopped and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fusion.data import ArrayTiles
from fusion.embed import embed_map
from fusion.embed.formats.sections import Sections
from fusion.embed.working import WorkingRaster
from fusion.omnisat import OmniSat

from .ground import CLASSES, cut, finetuned, scene, stop_at

REPOSITORY = Path(__file__).resolve().parents[2]
STRIPS = 3  # of 64 rows of patches of 4 pixels


def tall(more: float = 0) -> ArrayTiles:
    """Two columns of overlapping tiles, one of which was not observed."""
    return cut(scene(4 * 150, 16) + more, (4, 4), missing=(7,))


def encoder(tiles: ArrayTiles) -> OmniSat:
    return finetuned(tiles, "multiclass", CLASSES).model


@pytest.fixture(scope="module")
def tiles() -> ArrayTiles:
    return tall()


@pytest.fixture(scope="module")
def model(tiles) -> OmniSat:
    return encoder(tiles)


@pytest.fixture(scope="module", params=["float32", "int8"])
def uninterrupted(request, tiles, model, tmp_path_factory) -> tuple[str, bytes, str]:
    """Kind of the numbers, bytes of the file, and what is said of it."""
    path = tmp_path_factory.mktemp("whole") / "map.tif"
    (written,) = embed_map(model, tiles, path, dtype=request.param, batch_size=5)
    assert sorted(p.name for p in path.parent.iterdir()) == ["map.json", "map.tif"]
    return request.param, path.read_bytes(), str(written).partition(": ")[2]


@pytest.mark.parametrize("strip", range(STRIPS))
def test_a_map_that_was_stopped_has_the_bytes_of_one_that_was_not(
    strip, tiles, model, uninterrupted, tmp_path, monkeypatch
):
    dtype, whole, said = uninterrupted
    path = tmp_path / "map.tif"

    with monkeypatch.context() as patch:
        stop_at(patch, strip)
        with pytest.raises(KeyboardInterrupt):
            embed_map(model, tiles, path, dtype=dtype, batch_size=5)
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif.partial"]
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda batch: seen.append(len(batch)) or forward(batch))
    (written,) = embed_map(model, tiles, path, dtype=dtype, batch_size=5)
    assert path.read_bytes() == whole
    assert str(written).partition(": ")[2] == said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.json", "map.tif"]
    assert sum(seen) <= (1 - strip / STRIPS) * len(tiles) + 15


def test_a_map_stopped_while_its_file_is_written_needs_no_tile_again(
    tiles, model, uninterrupted, tmp_path, monkeypatch
):
    dtype, whole, _ = uninterrupted

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fusion.embed.map.write_sections", stop)
        with pytest.raises(KeyboardInterrupt):
            embed_map(model, tiles, tmp_path / "map.tif", dtype=dtype, batch_size=5)
    monkeypatch.setattr(model, "forward", lambda batch: pytest.fail("a tile is encoded again"))
    embed_map(model, tiles, tmp_path / "map.tif", dtype=dtype, batch_size=5)
    assert (tmp_path / "map.tif").read_bytes() == whole


@pytest.mark.parametrize("section", [0, 1])
def test_a_map_stopped_while_rows_are_compressed_needs_no_tile_of_them_again(section, tmp_path, monkeypatch):
    """A map of two sections of 256 rows, one of which is compressed while the other is computed."""
    high = cut(scene(4 * 300, 16), (4, 4))
    model = encoder(high)
    (whole,) = embed_map(model, high, tmp_path / "whole.tif", batch_size=20)
    compress = Sections._compress

    def full(self, number):
        if number == section:
            raise OSError(28, "No space left on device")
        compress(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Sections, "_compress", full)
        with pytest.raises(RuntimeError, match=r"writing .*map\.tif failed: .*No space left"):
            embed_map(model, high, tmp_path / "map.tif", batch_size=20)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif.partial", "whole.json", "whole.tif"]
    seen, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda batch: seen.append(len(batch)) or forward(batch))
    (found,) = embed_map(model, high, tmp_path / "map.tif", batch_size=20)
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert (found.error, found.seams) == (whole.error, whole.seams)
    assert sum(seen) < len(high) / 2


@pytest.mark.extra
def test_killed_at_any_moment_it_ends_with_the_same_bytes(tiles, model, tmp_path):
    embed_map(model, tiles, tmp_path / "whole.tif", batch_size=5)
    out = tmp_path / "map.tif"
    script = (
        "import os, signal, sys\n"
        "from fusion.embed import embed_map\n"
        "from tests.embed.test_map_resume import encoder, tall\n"
        "tiles = tall()\n"
        "model = encoder(tiles)\n"
        "forward, left = model.forward, [int(sys.argv[1])]\n"
        "def counted(batch):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return forward(batch)\n"
        "model.forward = counted\n"
        f"embed_map(model, tiles, {str(out)!r}, batch_size=5)\n"
    )
    for batches in (1, 30, 25):
        done = subprocess.run(
            [sys.executable, "-c", script, str(batches)],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
    embed_map(model, tiles, out, batch_size=5)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.json", "map.tif", "whole.json", "whole.tif"]


def test_the_beginning_of_another_map_is_not_gone_on_with(tiles, model, tmp_path, monkeypatch):
    def stop(self, entry):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WorkingRaster, "_note", stop)
        with pytest.raises(KeyboardInterrupt):
            embed_map(model, tiles, tmp_path / "map.tif")
    job = json.loads((tmp_path / "map.tif.partial" / "job.json").read_text())
    assert (job["dtype"], job["precision"]) == ("float32", "float32")
    with pytest.raises(ValueError, match=r"holds the beginning of another map: dtype 'float32' there, 'int8' now"):
        embed_map(model, tiles, tmp_path / "map.tif", dtype="int8")
    with pytest.raises(ValueError, match="holds the beginning of another map: data "):
        embed_map(model, tall(0.01), tmp_path / "map.tif", batch_size=32)
    embed_map(model, tiles, tmp_path / "map.tif", dtype="int8", restart=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.json", "map.tif"]


def test_where_nothing_was_observed_nothing_is_left(model, tiles, tmp_path):
    empty = tiles.subset([7])
    with pytest.raises(ValueError, match=r"none of the 1 tiles of .* has an observation: there is no map"):
        embed_map(model, empty, tmp_path / "map.tif")
    assert not list(tmp_path.iterdir())
