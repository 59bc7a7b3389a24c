"""Writes what the session measured into results/, and says where."""

from __future__ import annotations

import pytest

from .harness import save


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for path in save():
        terminalreporter.write_line(f"results: {path}")
