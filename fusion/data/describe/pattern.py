"""A pattern of file names from the names: which part is the scene, the date, the band."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from .names import DATE, MONTHS, is_band

__all__ = ["Pattern", "find_pattern", "split_bands"]

_SEPARATOR = re.compile(r"([/_.\-])")
_WORD = re.compile(r"(?<![A-Za-z0-9])(?:S[RT]_B\d{1,2}|QA_PIXEL|pixel_qa|[A-Za-z0-9]+)(?![A-Za-z0-9])")
_TIME = re.compile(r"T?\d{6}Z?|v\d+")  # of day; a version
_TILE = re.compile(r"T?\d{2}[A-Z]{3}|\d{6}")  # of MGRS, or path and row of Landsat


@dataclass(frozen=True)
class Pattern:
    """
    Attributes:
        text: with ``{scene}``, ``{date}`` and ``{band}`` as far as names have them.
        scenes, dates, bands: that occur, sorted.
        unclear: why the parts of the names were not told apart; empty if they were.
    """

    text: str
    scenes: tuple[str, ...]
    dates: tuple[str, ...]
    bands: tuple[str, ...]
    unclear: str = ""


def split_bands(path: Path, known: Collection[str] = ()) -> tuple[str, str]:
    """The name with ``{band}`` in the place of the last part that is one, and the band; the band is empty without.

    Args:
        known: what else is a band.
    """
    for match in reversed(list(_WORD.finditer(path.stem))):
        if is_band(match[0]) or match[0] in known:
            name = f"{path.stem[: match.start()]}{{band}}{path.stem[match.end() :]}{path.suffix}"
            return (path.parent / name).as_posix(), match[0]
    return path.as_posix(), ""


def find_pattern(files: Sequence[Path], banded: bool, known: Collection[str] = (), *, dated: bool = True) -> Pattern:
    """
    Args:
        files: relative paths.
        banded: each is one band, which its name says.
        known: what is a band beside the usual names.
        dated: a date in the name is that of the file; False: it is a part of the scene's name.
    """
    shapes: list[list[str]] = []
    dates: list[str] = []
    bands: list[str] = []
    names = [split_bands(path, known) if banded else (path.as_posix(), "") for path in files]
    months = dated and _are_months([name for name, _ in names])
    for name, band in names:
        date = _date(name, MONTHS if months else DATE) if dated else ""
        if date:
            name = _replaced(name, date)
        dates.append(date)
        bands.append(band)
        shapes.append(_parts(name))
    if len({bool(date) for date in dates}) > 1:
        return Pattern("", (), (), (), f"only {sum(map(bool, dates))} of {len(files)} names have a date")
    if len({len(shape) for shape in shapes}) > 1:
        ragged = _ragged(["".join(shape) for shape in shapes])
        if ragged is None:
            return Pattern("", (), (), (), "names differ in their number of parts")
        text, scenes = ragged
    else:
        text, scenes = _scenes(shapes)
    keys = list(zip(scenes, dates, bands, strict=True))
    unclear = "" if len(set(keys)) == len(keys) else "several files have the same scene, date and band"
    return Pattern(
        text, tuple(sorted(set(scenes))), tuple(sorted(filter(None, set(dates)))), tuple(dict.fromkeys(bands)), unclear
    )


def _ragged(names: Sequence[str]) -> tuple[str, list[str]] | None:
    """As :func:`_scenes` of names of different numbers of parts: the scene is all before the date, or the stem."""
    heads, tails = [], set()
    for name in names:
        start = name.find("{date}")
        cut = (len(name) - len(Path(name).suffix)) if start < 0 else len(name[:start].rstrip("_-."))
        heads.append(name[:cut])
        tails.add(name[cut:])
    folders = {head.rpartition("/")[0] for head in heads}
    scenes = [head.rpartition("/")[2] for head in heads]
    if len(tails) > 1 or len(folders) > 1 or not all(scenes) or any("{" in head for head in heads):
        return None
    folder = folders.pop()
    return f"{folder}/{{scene}}{tails.pop()}" if folder else f"{{scene}}{tails.pop()}", scenes


def _are_months(names: Sequence[str]) -> bool:
    """Whether six digits are a year and a month: every name has them where no name has a date, and they vary, as path
    and row of one Landsat scene do not."""
    months = [_date(name, MONTHS) for name in names]
    return all(months) and len({*months}) > 1 and not any(_date(name) for name in names)


def _date(name: str, dates: re.Pattern[str] = DATE) -> str:
    """The first whole date of the file's own name, or else of its folders."""
    head, _, own = name.rpartition("/")
    found = dates.search(own) or dates.search(head)
    return found[0] if found else ""


def _replaced(name: str, date: str) -> str:
    """With ``{date}`` for the date, wherever it stands, and ``*`` for a time of day behind it."""
    return re.sub(r"\{date\}T\d{4,6}Z?", "{date}T*", name.replace(date, "{date}"))


def _parts(name: str) -> list[str]:
    return [part for part in _SEPARATOR.split(name) if part]


def _scenes(shapes: Sequence[Sequence[str]]) -> tuple[str, list[str]]:
    """The pattern, and the scene of every file, empty where names have none."""
    parts = list(shapes[0])
    varying = [k for k in range(len(parts)) if len({shape[k] for shape in shapes}) > 1]
    times = [k for k in varying if k > 1 and all(_TIME.fullmatch(shape[k]) for shape in shapes)]
    vary = [k for k in varying if k not in times] or varying
    for k in set(times) - set(vary):
        parts[k] = "*"
    if not vary:
        named = [k for k, part in enumerate(parts) if _TILE.fullmatch(part)]
        scenes = [shape[named[0]] if len(named) == 1 else "" for shape in shapes]
        if len(named) == 1:
            parts[named[0]] = "{scene}"
        return "".join(parts), scenes
    spans = _spans(parts, vary)
    (start, end), later = spans[0], spans[1:]
    scenes = ["".join(shape[start : end + 1]) for shape in shapes]
    for first, last in reversed(later):
        own = ["".join(shape[first : last + 1]) for shape in shapes]
        parts[first : last + 1] = ["{scene}" if own == scenes else "*"]
    return "".join([*parts[:start], "{scene}", *parts[end + 1 :]]), scenes


def _spans(parts: Sequence[str], vary: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours that vary together are one name, such as north_01: the first and last part of each."""
    spans: list[tuple[int, int]] = []
    for k in vary:
        joined = spans and k == spans[-1][1] + 2 and parts[k - 1] in "_-." and "{" not in parts[k]
        spans[-1:] = [(spans[-1][0], k)] if joined else [*spans[-1:], (k, k)]
    return spans
