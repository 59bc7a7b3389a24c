"""Maps that several processes make together: the same bytes as from one, each tile encoded about once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fusion.embed import embed_map, predict_map
from fusion.embed.working import WorkingRaster

from .ground import cut, scene
from .test_map_resume import encoder
from .test_predict_resume import of_classes

CONTEXT = multiprocessing.get_context("spawn")


def making(kind: str):
    """Tiles of three groups of strips or more, a model, and what makes a map of them."""
    tiles = cut(scene(4 * 600, 16), (4, 4), missing=(7,)) if kind == "embed" else cut(scene(800, 24), (6, 6))
    model = encoder(tiles) if kind == "embed" else of_classes(tiles)
    return tiles, model, embed_map if kind == "embed" else predict_map


def work(kind: str, out: str, begin, counts, first: int = 0) -> None:
    """Makes a map; the seconds that a batch takes leave the other process its share.

    Args:
        first: kill this process after so many batches; 0 for never.
    """
    torch.set_num_threads(1)
    tiles, model, make = making(kind)
    forward, seen = model.forward, []

    def slowly(batch):
        seen.append(len(batch))
        if len(seen) == first:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return forward(batch)

    model.forward = slowly
    begin.wait()
    made = make(model, tiles, out, batch_size=10)
    counts.put((sum(seen), len(made)))


def together(kind: str, out: Path, kills: tuple[int, int] = (0, 0)) -> list[tuple[int, int]]:
    """How many tiles each of two processes has encoded, and how many maps it has written."""
    begin, counts = CONTEXT.Barrier(2), CONTEXT.Queue()
    workers = [CONTEXT.Process(target=work, args=(kind, str(out), begin, counts, k)) for k in kills]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL if k else 0 for k in kills]
    return [counts.get(timeout=10) for k in kills if not k]


@pytest.mark.extra
@pytest.mark.parametrize("kind", ["embed", "predict"])
def test_two_processes_share_a_map_and_its_bytes_are_those_of_one(kind, tmp_path):
    torch.set_num_threads(1)
    tiles, model, make = making(kind)
    make(model, tiles, tmp_path / "whole.tif", batch_size=10)
    found = together(kind, tmp_path / "map.tif")
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert not (tmp_path / "map.tif.partial").exists()
    assert sorted(made for _, made in found) == [0, 1]
    assert all(tiles for tiles, _ in found)
    assert sum(tiles for tiles, _ in found) <= 1.5 * len(tiles)


@pytest.mark.extra
@pytest.mark.parametrize("kill", [3, 45], ids=["in its first strips", "while it compresses"])
def test_if_one_of_two_dies_the_other_takes_over_its_strips(kill, tmp_path):
    torch.set_num_threads(1)
    tiles, model, make = making("embed")
    make(model, tiles, tmp_path / "whole.tif", batch_size=10)
    together("embed", tmp_path / "map.tif", kills=(kill, 0))
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_a_map_that_another_process_has_completed_is_known_as_such_while_its_folder_disappears(tmp_path):
    mine = WorkingRaster(tmp_path / "0")
    mine.added(0, {}, True, SimpleNamespace(damaged={}, span=None))
    (tmp_path / "0" / "journal.jsonl").unlink()  # as the other removes what is in it, and then the folder
    mine.refresh()
    assert mine.complete


def test_a_strip_that_another_process_holds_is_not_made_twice(tmp_path):
    mine, other = WorkingRaster(tmp_path / "0"), WorkingRaster(tmp_path / "0")
    mine.added(0, {}, True, SimpleNamespace(damaged={}, span=("2021-04-01", "2021-05-01")))
    other.added(2, {}, False, SimpleNamespace(damaged={"tile": "damaged"}, span=("2021-03-01", "2021-04-01")))
    mine.refresh()
    assert mine.done == {0, 2}
    assert mine.damaged == {"tile": "damaged"}
    assert mine.span == ("2021-03-01", "2021-05-01")
    (tmp_path / "0" / "journal.jsonl").open("a").write('{"strip": 7, "obs')  # a machine that stopped
    mine.added(3, {}, True, SimpleNamespace(damaged={}, span=None))
    assert WorkingRaster(tmp_path / "0").done == {0, 2, 3}
