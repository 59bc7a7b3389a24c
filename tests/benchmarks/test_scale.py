"""The page on scale: simulated clusters obey their bounds, and the page is what was measured."""

from __future__ import annotations

import pytest

from benchmarks.scale import BLOCK, LINK, REPOSITORY, bound, newest, page, readable, simulated

ROW = {"read_s": 1e-5, "encode_s": 8e-5, "write_s": 1e-5, "bytes_read": 100.0, "bytes_written": 400.0}
PIXELS = BLOCK * BLOCK


def test_one_worker_does_one_thing_after_another():
    seconds = PIXELS * (1e-4 + 500 / LINK)
    assert simulated(ROW, 1, 7) == pytest.approx(7 * seconds)


def test_with_a_wide_link_workers_are_independent():
    assert simulated(ROW, 10, 200, link=1e18) == pytest.approx(simulated(ROW, 1, 20, link=1e18))


def test_a_narrow_link_bounds_any_number_of_workers():
    blocks, link = 2000, 1e6
    floor = blocks * PIXELS * 500 / link
    assert simulated(ROW, 1000, blocks, link) == pytest.approx(floor, rel=0.01)


def test_a_cluster_says_what_it_waits_for():
    assert bound(ROW, 1) == "encoding"
    assert bound(ROW | {"read_s": 1e-3}, 1) == "reading"
    enough = int(2 * LINK / 500 * 1e-4)
    assert bound(ROW, enough) == "link, writing"
    assert bound(ROW | {"bytes_read": 500.0}, enough) == "link, reading"


def test_sizes_are_readable():
    assert [readable(s) for s in (5e6, 2.5e12, 3e15)] == ["5 MB", "2.5 TB", "3.0 PB"]


def test_the_page_is_what_was_measured():
    assert (REPOSITORY / "docs" / "scale.md").read_text() == page(newest())
