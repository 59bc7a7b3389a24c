"""What an interrupted map has left may change on the disk: the map then has the bytes of one that was never stopped."""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path

import pytest

from fusion.embed import embed_map, predict_map
from fusion.embed.notes import crc, crc_of_file, note_of, to_note

from .ground import CLASSES, HEIGHT, WIDTH, cut, finetuned, scene, stop_at


def flip(file: Path, draw: random.Random) -> int:
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    return place


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def stopped(patch: pytest.MonkeyPatch, at: str) -> None:
    if at == "a strip":
        stop_at(patch, 4)  # when the first section is compressed
    else:
        patch.setattr("fusion.embed.map.write_sections", stop)
        patch.setattr("fusion.embed.predict.write_cog", stop)


@pytest.mark.parametrize("at", ["a strip", "the file"])
@pytest.mark.parametrize("command", ["embed", "predict"])
def test_a_flipped_bit_of_what_was_finished_is_made_again(command, at, tmp_path):
    if command == "embed":
        tiles = cut(scene(4 * 300, 16), (4, 4))  # five strips of 64 rows of patches, two sections
        model, make, options = finetuned(tiles, "multiclass", CLASSES).model, embed_map, {"dtype": "int8"}
    else:
        tiles = cut(scene(300, 24), (6, 6))
        model, make, options = finetuned(tiles, "multiclass", CLASSES, label_shape=(HEIGHT, WIDTH)), predict_map, {}
    options |= {"batch_size": 50}
    make(model, tiles, tmp_path / "whole.tif", **options)
    whole, out, partial = (tmp_path / name for name in ("whole.tif", "map.tif", "map.tif.partial"))
    with pytest.MonkeyPatch.context() as patch:
        stopped(patch, at)
        with pytest.raises(KeyboardInterrupt):
            make(model, tiles, out, **options)
    shutil.copytree(partial, tmp_path / "kept")
    draw, warned = random.Random(0), 0
    for name in sorted(file.name for file in (partial / "0").iterdir() if file.stat().st_size):
        if partial.exists():
            shutil.rmtree(partial)
        shutil.copytree(tmp_path / "kept", partial)
        place = flip(partial / "0" / name, draw)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            make(model, tiles, out, **options)
        assert out.read_bytes() == whole.read_bytes(), (name, place)
        assert not partial.exists()
        warned += any("are damaged and are made again" in str(one.message) for one in told)
    assert warned


def test_a_flipped_bit_of_the_job_is_refused(tmp_path, monkeypatch):
    tiles = cut(scene(4 * 20, 16), (4, 4))
    model = finetuned(tiles, "multiclass", CLASSES).model
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            embed_map(model, tiles, tmp_path / "map.tif")
    file, draw = tmp_path / "map.tif.partial" / "job.json", random.Random(0)
    kept = file.read_bytes()
    for _ in range(100):
        flip(file, draw)
        with pytest.raises(ValueError, match=r"job\.json is damaged.*--restart"):
            embed_map(model, tiles, tmp_path / "map.tif")
        file.write_bytes(kept)


def test_a_note_is_what_was_written_or_none(tmp_path):
    entry = {"strip": 3, "share": 0.1, "reason": "Zürich: \n", "span": ["2020-01-01", None]}
    line = to_note(entry)
    assert note_of(line) == entry
    assert b"\n" not in line
    for place in range(8 * len(line)):
        damaged = bytearray(line)
        damaged[place // 8] ^= 1 << place % 8
        assert note_of(bytes(damaged)) in (None, entry)  # the latter of a digit in hexadecimal, in the other case
    for other in (b"", b"3", b"[]", b'{"strip": 3}', line[:-4]):
        assert note_of(other) is None
    (tmp_path / "file").write_bytes(line)
    assert crc_of_file(tmp_path / "file") == crc(line) == crc(line[5:], crc(line[:5]))
