"""``fusion report``: a page about a training run."""

from __future__ import annotations

__all__ = ["report"]


def report(run: str, *, out: str | None = None) -> int:
    """Writes a page about a training run: curves, model, data it was trained on, machine and command.

    Args:
        run: run folder.
        out: the page, RUN/report.html by default.
    """
    from pathlib import Path

    from fusion.workflow.report import write_run

    print(write_run(Path(run), Path(out) if out else Path(run) / "report.html"))
    return 0
