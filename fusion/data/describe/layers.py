"""Rasters whose bands are dates: told by the descriptions of the bands, or by a list of dates beside the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files import reading
from ..folder.calendar import parse_dates
from ..folder.layered import DESCRIPTIONS, Order, holds_date, order_of
from .guess import Part, Question
from .headers import Header

__all__ = ["ASK_DATES", "series_in_bands"]

ASK_DATES = "; if they are dates, give axes: [time, y, x], one name in bands, and dates: [2020-04-10, ...]"
_NAMES = ("{stem}_dates.txt", "{stem}.dates.txt", "dates.txt")


def series_in_bands(part: Part, folder: Path, files: Sequence[Path], headers: Sequence[Header]) -> bool:
    """Describes the bands of the files as a series, if they are one; whether they are.

    Args:
        files: relative to the folder, without a date in their names.
    """
    named = [header.pixels.band_names for header in headers]
    orders = [order_of(names) for names in named]
    first, path = orders[0], headers[0].pixels.path
    if first is not None and all(o is not None and (o.axes, o.bands) == (first.axes, first.bands) for o in orders):
        _describe(part, first, f"{len(first.dates)} dates {first.dates[0]}..{first.dates[-1]}")
        part.source["dates"], part.comments["dates"] = DESCRIPTIONS, "of the bands of each file"
        return True
    if sum(map(holds_date, named[0])) > 1:
        part.questions.append(
            Question(
                f"what are the bands of {path.name} and its like? Their descriptions have dates "
                f"({', '.join(named[0][:3])}, ...) in no regular order: every date needs the same bands; give axes, "
                "bands and dates, or one file a date",
                needed=True,
            )
        )
        return False
    return not named[0] and len(files) == 1 and _listed(part, folder, files[0], headers[0])


def _listed(part: Part, folder: Path, file: Path, header: Header) -> bool:
    """By a file of dates, one a line, beside a single raster."""
    for name in _NAMES:
        beside = file.parent / name.format(stem=file.stem)
        if not (folder / beside).is_file():
            continue
        with reading(folder / beside):
            lines = [line.strip() for line in (folder / beside).read_text(encoding="utf-8-sig").splitlines()]
        dates = [line for line in lines if line]
        try:
            parse_dates(dates)
        except ValueError:
            continue
        if len(dates) < 2 or header.bands % len(dates):
            continue
        several = header.bands // len(dates)
        part.name = file.stem if part.name == "image" else part.name
        bands = tuple(f"B{k + 1}" for k in range(several)) if several > 1 else ()
        axes = ("time", "band", "y", "x") if several > 1 else ("time", "y", "x")
        _describe(part, Order(axes, bands, tuple(dates)), f"{header.bands} bands and {len(dates)} dates in {name}")
        part.source["dates"], part.comments["dates"] = beside.as_posix(), f"{len(dates)} dates, one a line"
        if several > 1:
            part.questions.append(
                Question(
                    f"in which order are the {header.bands} bands of {file.name}, and what are the names of the "
                    f"{several} of each date? axes: [time, band, y, x] is date by date, [band, time, y, x] band by "
                    "band",
                    needed=True,
                )
            )
        return True
    return False


def _describe(part: Part, order: Order, why: str) -> None:
    part.source["axes"], part.comments["axes"] = list(order.axes), f"the bands of a file are its dates: {why}"
    part.source["bands"] = list(order.bands) or [part.name]
    part.comments["bands"] = (
        "from the descriptions in the files" if order.bands else "one variable, named like the files"
    )
