"""Which files belong to a scene and a date, by the pattern of their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .calendar import day_of_year

__all__ = ["File", "Found", "find_files", "of_scene"]


class File(NamedTuple):
    """A file, with the date and the band in its name."""

    path: Path
    date: str | None = None
    band: str | None = None


Found = list[File]


def of_scene(found: Mapping[str, Found], pattern: str, scene: str) -> Found:
    """The files of a scene; those of a pattern that names none are of every scene."""
    if "{scene}" in pattern:
        return found.get(scene, [])
    return [file for files in found.values() for file in files]


def find_files(folder: Path, pattern: str, bands: Sequence[str] = ()) -> dict[str, Found]:
    """Files by scene, each with the date in its name, ordered by it.

    ``{scene}`` and ``*`` stand for any part of a name, ``**`` for any folders, ``{date}`` for 20200817, 2020-08-17,
    2020-08, or year and day of the year (2020230); of several possible readings of a name the first with a whole date.
    Without ``{scene}`` everything is one scene, called like the folder (see :func:`of_scene`). A pattern may be
    absolute, or begin with ``./`` or ``../``; suffixes are found in capitals too. Hidden files, such as those that
    macOS puts beside others, are left out.

    Args:
        bands: for which ``{band}`` stands; files of others are left out. Without any it stands for any part of a name.
    """
    steps = [step if step == "**" else re.sub(r"\*+", "*", step) for step in Path(pattern).parts if step != "."]
    fixed = 0  # leading folders without a placeholder: a base of their own, so that glob sees a relative pattern
    while fixed < len(steps) - 1 and not any(mark in steps[fixed] for mark in "{*"):
        fixed += 1
    base = folder.joinpath(*steps[:fixed])
    pattern = "/".join(steps[fixed:])
    expressions = [re.compile(_expression(pattern, date, bands)) for date in _DATES]
    found: dict[str, Found] = {}
    for path in sorted(base.glob(_glob(pattern))):
        name = path.relative_to(base)
        if any(part.startswith(".") for part in name.parts) and not re.search(r"(^|/)\.", pattern):
            continue
        match = next((m for expression in expressions if (m := expression.fullmatch(name.as_posix()))), None)
        if match:
            parts = match.groupdict()
            file = File(path, day_of_year(parts.get("date") or "") or parts.get("date"), parts.get("band"))
            found.setdefault(parts.get("scene") or folder.resolve().name, []).append(file)
    return {scene: sorted(files, key=lambda f: (f.date or "").replace("-", "")) for scene, files in found.items()}


# Readings of {date}, the likelier first: S2A_20200410T101112 has one whole date, and digits that look like months.
_MONTH, _DAY = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_DATES = (
    rf"(?:18|19|20|21)\d{{2}}(?:-{_MONTH}-{_DAY}|{_MONTH}{_DAY})",
    # Year and day of the year before year and month: of seven digits the first six are no month.
    r"(?<!\d)(?:18|19|20|21)\d{2}(?:00[1-9]|0[1-9]\d|[12]\d\d|3[0-5]\d|36[0-6])(?!\d)",
    rf"(?:18|19|20|21)\d{{2}}-?{_MONTH}",
    r"\d{4}-?\d{2}(?:-?\d{2})?",
)
_SUFFIX = re.compile(r"\.[A-Za-z]\w*$")


def _expression(pattern: str, date: str, bands: Sequence[str]) -> str:
    """A regular expression of a pattern; ``*`` takes as little as it can, so that the first date of a name is read."""
    suffix = _SUFFIX.search(pattern)
    name, end = (pattern, "") if suffix is None else (pattern[: suffix.start()], suffix[0])
    expression = re.escape(name).replace(r"\*\*/", "(?:[^/]+/)*").replace(r"\*", "[^/]*?")
    expression = expression.replace(r"\{scene\}", "(?P<scene>[^/]+?)", 1).replace(r"\{scene\}", "(?P=scene)")
    expression = expression.replace(r"\{date\}", f"(?P<date>{date})", 1).replace(r"\{date\}", "(?P=date)")
    # Beside a * a band is a whole word: B1 is not read from B10.
    any_band = "|".join(re.escape(band) for band in sorted(bands, key=len, reverse=True)) or "[^/]+?"
    before, after = (r"(?<![A-Za-z0-9])" * ("*{band}" in name), r"(?![A-Za-z0-9])" * ("{band}*" in name))
    expression = expression.replace(r"\{band\}", f"{before}(?P<band>{any_band}){after}", 1)
    expression = expression.replace(r"\{band\}", "(?P=band)")
    return f"{expression}(?i:{re.escape(end)})"


def _glob(pattern: str) -> str:
    """The same for glob, in which brackets and question marks of names mean something else."""
    suffix = _SUFFIX.search(pattern)
    name, end = (pattern, "") if suffix is None else (pattern[: suffix.start()], suffix[0])
    name = re.sub(r"[\[?]", lambda mark: f"[{mark[0]}]", name)
    name = re.sub(r"\*{2,}(?!/)", "*", re.sub(r"\{(?:scene|date|band)\}", "*", name))
    return name + "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in end)
