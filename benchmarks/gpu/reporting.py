"""A pytest plugin: appends each test's result to ``FUSION_TEST_ROWS`` as soon as it is known."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from .rows import Rows

__all__: list[str] = []

LONGEST = 1500  # characters of a failure that are kept


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if os.environ.get("PYTEST_XDIST_WORKER"):  # the controller gets every report too
        return
    if report.when == "call" or report.outcome != "passed":
        _add(report.nodeid, report.outcome, report.duration, report)


def pytest_collection_finish(session: pytest.Session) -> None:
    _collected(len(session.items))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    if node.gateway.id == "gw0":  # every worker collects the same
        _collected(len(ids))


def _collected(count: int) -> None:
    if count and not os.environ.get("PYTEST_XDIST_WORKER"):
        Rows(Path(os.environ["FUSION_TEST_ROWS"])).add(run=os.environ["FUSION_TEST_RUN"], collected=count)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.outcome != "passed" and not os.environ.get("PYTEST_XDIST_WORKER"):
        _add(report.nodeid, report.outcome, 0.0, report)


def _add(test: str, outcome: str, seconds: float, report: pytest.TestReport | pytest.CollectReport) -> None:
    row = {"test": test, "outcome": outcome, "seconds": round(seconds, 2), "run": os.environ["FUSION_TEST_RUN"]}
    if outcome == "failed":
        row["message"] = report.longreprtext[-LONGEST:]
    elif outcome == "skipped" and isinstance(report.longrepr, tuple):
        row["message"] = str(report.longrepr[2])
    Rows(Path(os.environ["FUSION_TEST_ROWS"])).add(**row)
