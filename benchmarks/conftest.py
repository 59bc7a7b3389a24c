"""Writes what the session measured into results/, and says where, and which peers were faster."""

from __future__ import annotations

import pytest

from .harness import faster_peers, save


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for path in save():
        terminalreporter.write_line(f"results: {path}")
    for line in faster_peers():
        terminalreporter.write_line(f"faster: {line}")
