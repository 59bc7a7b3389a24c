"""Which files belong to a scene and a date, by the pattern of their names."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["find_files"]


def find_files(folder: Path, pattern: str) -> dict[str, list[tuple[Path, str | None]]]:
    """Files by scene, each with the date in its name, ordered by it.

    ``{scene}`` and ``*`` stand for any part of a name, ``{date}`` for 20200817, 2020-08-17 or 2020-08. Without
    ``{scene}`` everything is one scene, called like the folder. A pattern may be absolute, or begin with ``./`` or
    ``../``.
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
    found: dict[str, list[tuple[Path, str | None]]] = {}
    for path in sorted(base.glob(pattern.replace("{scene}", "*").replace("{date}", "*"))):
        match = re.fullmatch(expression, path.relative_to(base).as_posix())
        if match:
            parts = match.groupdict()
            found.setdefault(parts.get("scene") or folder.resolve().name, []).append((path, parts.get("date")))
    return {scene: sorted(files, key=lambda f: (f[1] or "").replace("-", "")) for scene, files in found.items()}
