"""Which files belong to a scene and a date, by the pattern of their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Found", "find_files", "of_scene"]

Found = list[tuple[Path, str | None]]  # files, each with the date in its name


def of_scene(found: Mapping[str, Found], pattern: str, scene: str) -> Found:
    """The files of a scene; those of a pattern that names none are of every scene."""
    if "{scene}" in pattern:
        return found.get(scene, [])
    return [file for files in found.values() for file in files]


def find_files(folder: Path, pattern: str) -> dict[str, Found]:
    """Files by scene, each with the date in its name, ordered by it.

    ``{scene}`` and ``*`` stand for any part of a name, ``{date}`` for 20200817, 2020-08-17 or 2020-08. Without
    ``{scene}`` everything is one scene, called like the folder (see :func:`of_scene`). A pattern may be absolute, or
    begin with ``./`` or ``../``.
    """
    steps = [step for step in Path(pattern).parts if step != "."]
    fixed = 0  # leading folders without a placeholder: a base of their own, so that glob sees a relative pattern
    while fixed < len(steps) - 1 and not any(mark in steps[fixed] for mark in "{*"):
        fixed += 1
    base = folder.joinpath(*steps[:fixed])
    pattern = "/".join(steps[fixed:])
    expression = re.escape(pattern).replace(r"\*", "[^/]*")
    expression = expression.replace(r"\{scene\}", "(?P<scene>[^/]+?)", 1).replace(r"\{scene\}", "(?P=scene)")
    expression = expression.replace(r"\{date\}", r"(?P<date>\d{4}-?\d{2}(?:-?\d{2})?)", 1)
    expression = expression.replace(r"\{date\}", "(?P=date)")
    found: dict[str, Found] = {}
    for path in sorted(base.glob(pattern.replace("{scene}", "*").replace("{date}", "*"))):
        match = re.fullmatch(expression, path.relative_to(base).as_posix())
        if match:
            parts = match.groupdict()
            found.setdefault(parts.get("scene") or folder.resolve().name, []).append((path, parts.get("date")))
    return {scene: sorted(files, key=lambda f: (f[1] or "").replace("-", "")) for scene, files in found.items()}
