"""``fusion table``: finished experiments side by side."""

from __future__ import annotations

__all__ = ["table"]


def table(runs: list[str], *, out: str | None = None, published: bool = True) -> int:
    """Gathers the scores of finished experiments into tables, one for each data set, beside what others published.

    Args:
        runs: folders in or below which experiments were run, e.g. runs.
        out: a Markdown file; by default the tables are printed.
        published: add published results, marked as such.
    """
    from pathlib import Path

    from fusion.training.files import write_atomically
    from fusion.workflow.table import finished, markdown
    from fusion.workflow.table import published as known

    text = markdown(finished(runs), known() if published else [])
    if out is None:
        print(text)
        return 0
    print(write_atomically(Path(out), text.encode()))
    return 0
