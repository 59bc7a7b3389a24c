"""YAML with a comment on the line of what was guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...yaml_loader import load_yaml

__all__ = ["commented_yaml", "flow"]

_WIDTH = 118
_PLAIN = re.compile(r"[A-Za-z_][\w./ -]*[\w.-]|[A-Za-z_]")


def commented_yaml(table: Mapping[str, Any], comments: Mapping[tuple[str, ...], str], head: Sequence[str] = ()) -> str:
    """Mappings in blocks, lists and mappings of numbers in one line each, with comments behind the lines.

    Args:
        comments: by the keys that lead to a value.
        head: comments that stand at the top, a line or several each.
    """
    lines = [f"# {line}" for text in head for line in text.splitlines()]
    _write(table, (), comments, lines)
    return "\n".join(lines) + "\n"


def _write(
    table: Mapping[str, Any],
    path: tuple[str, ...],
    comments: Mapping[tuple[str, ...], str],
    lines: list[str],
) -> None:
    indent = "  " * len(path)
    for key, value in table.items():
        own = (*path, str(key))
        said = comments.get(own)
        block = isinstance(value, Mapping) and bool(value) and (own[0] == "modalities" and len(own) < 3)
        block = block or (
            isinstance(value, Mapping) and any(len(k) > len(own) and k[: len(own)] == own for k in comments)
        )
        block = block or (own == ("labels",) and bool(value))
        text = f"{indent}{_scalar(str(key))}:" + ("" if block else f" {flow(value)}")
        if said:
            one = " ".join(said.split())
            if len(text) + len(one) + 4 > _WIDTH and len(text) > 60:
                lines.append(f"{indent}# {one}")  # a long line is not made longer
            else:
                text += f"  # {one}"
        lines.append(text)
        if block:
            _write(value, own, comments, lines)


def flow(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(str(k))}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(part) for part in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """As :func:`fusion.yaml_loader.load_yaml` reads it back."""
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) is not None and load_yaml(value) == value
        return value if plain else json.dumps(value, ensure_ascii=False)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "nan" if value != value else f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value)
