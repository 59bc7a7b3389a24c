"""``fusion data check``: what is in a data set, before anything trains on it."""

from __future__ import annotations

from typing import Any

__all__ = ["check"]


def check(data: str, *, reader: dict[str, Any] | None = None, tiles: int = 2000) -> int:
    """Shows modalities, dates, bands, range and what the values look like; exits 1 if something must be repaired.

    Args:
        data: a folder of images, or of TreeSatAI-TS, PASTIS-HD or FLAIR; a YAML that describes one; or `landscape`.
        reader: options of its reader, e.g. --reader.max_dates 20 or --reader.cube biomassters.
        tiles: read at most so many, evenly spaced.
    """
    from fusion.commands.following import command, lead_on
    from fusion.data import open_data
    from fusion.data.check import check as run

    report = run(open_data(data, **(reader or {})), tiles)
    print(report)
    if not report.ok:
        return 1
    lead_on(command("pretrain", data=data, reader=reader, out="runs/mine"))
    return 0
