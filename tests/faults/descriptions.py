"""Descriptions with a value of the wrong type or meaning at every key."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from damage import Damage

__all__ = ["of_values"]

_WRONG: tuple[Any, ...] = (
    None, True, [], {}, -1, 0, 0.3, math.nan, math.inf, -math.inf, 1e300, 10**30, "", "text", "../up", "a/b",
    "{scene", "{}{}", [[1, 2]], ["a", 1, None], [1, 1], [-1, 2], [0.7, 0.2], {"a": {"b": 1}}, {"a": "b"}, {1: 2},
    {"train": {"rows": [0, 1]}},
)  # fmt: skip
_SPLITS = {
    "train": {"files": "*", "rows": [0, 0.5], "columns": [0, 1]},
    "test": {"rows": [0.5, 1]},
}


def of_values(description: Mapping[str, Any]) -> Iterator[Damage]:
    """Each value of a description, and each key of a mapping, replaced by others."""
    description = {**copy.deepcopy(dict(description)), "splits": _SPLITS, "stride": 40, "exclude": ["x*"]}
    for path in _places(description):
        for number, wrong in enumerate(_WRONG):
            yield f"{'.'.join(map(str, path))} = {wrong!r} ({number})", _write(description, path, wrong)
        if isinstance(path[-1], str):
            for key in ("a/b", "../up", "", None, 3, "x\0y"):
                yield f"{'.'.join(map(str, path))} called {key!r}", _write(description, path, key, rename=True)
    for text in ("a: [", "\t- x", "- 1\n- 2", "3", "&a [*a]", "a: &x [1]\nb: {<<: *x}", "? {}\n: 1", "? [1]\n: 2",
                 "!!python/x y", "a: !!binary x", "a: !!timestamp 9", "{" * 2000, "a: " + "9" * 5000, "x: 1e999999",
                 "\ufeff"):  # fmt: skip
        yield f"text {text[:20]!r}", lambda file, text=text: file.write_text(text) and None


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*above, key)
        yield from _places(inner, (*above, key))


def _write(description: Mapping[str, Any], path: tuple[Any, ...], value: Any, rename: bool = False) -> Any:
    def apply(file: Path) -> None:
        changed: Any = copy.deepcopy(description)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        if rename:
            inner[value] = inner.pop(path[-1])
        else:
            inner[path[-1]] = value
        file.write_text(yaml.safe_dump(changed, allow_unicode=True))

    return apply
