"""YAML as people mean it, from every file and option that is YAML.

PyYAML follows YAML 1.1, which makes something else of much that is written: a Norwegian region or a red edge called
``NO`` becomes False, ``1e-3`` text, ``010`` eight, ``12:30`` 750, ``2020-04-10`` a date, ``12_3`` the number 123, and
of a key that is given twice the first is dropped. Here the core schema of YAML 1.2.2 (chapter 10.3) counts, and no key
may be given twice.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .special_files import refuse_special

__all__ = ["load_yaml"]

_MOST = 100_000  # values of a file

_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_NOTHING = re.compile(r"~|null|Null|NULL|")
_WHOLE = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    # The schema wants a dot before these; whoever writes `nodata: nan` means the number all the same.
    r"|[-+]?\.?(?:inf|Inf|INF)|\.?(?:nan|NaN|NAN)"
)
_MERGE = re.compile("<<")  # of YAML 1.1, not in 1.2: `<<: *name` takes over the keys of another mapping
_TAGS = (("bool", _BOOLEAN), ("null", _NOTHING), ("int", _WHOLE), ("float", _NUMBER), ("merge", _MERGE))


def load_yaml(source: str | Path, where: str = "YAML") -> Any:
    """What a YAML file, or a text of YAML, holds.

    Numbers are numbers however they are written (``1e-3``, ``1e20``, ``010`` is ten, ``nan``), booleans are ``true``
    and ``false`` alone, and everything else is text: ``no``, ``on``, ``12:30``, ``2020-04-10``. What stands in quotes
    is text.

    Args:
        source: a path, of a file in UTF-8, or the text itself.
        where: what to call a text in messages.

    Returns:
        mappings, lists, text, numbers, booleans and None; None for an empty file.

    Raises:
        ValueError: not YAML, not UTF-8, a key that a mapping has twice, anchors that multiply beyond 100,000 values, or
            no file (a pipe, a device); the message begins with the path.
        FileNotFoundError: no such file.
    """
    import yaml

    text = source
    if isinstance(source, Path):
        where = str(source)
        refuse_special(source)
        try:
            text = source.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: is not text in UTF-8 ({error}); save it as UTF-8") from error
        except (IsADirectoryError, PermissionError) as error:
            raise ValueError(f"{where}: cannot be read: {error.strerror}") from error
    try:
        loader = _loader()(text)  # a SafeLoader
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > _MOST:
            raise _RefusedError(
                f"holds more than {_MOST:,} values where its anchors (&) are put in; write out what is meant"
            )
        return loader.construct_document(node)
    except _RefusedError as error:
        raise ValueError(f"{where}: {error}") from None
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: is not YAML: {error}") from error
    except RecursionError:
        raise ValueError(f"{where}: lists and mappings lie too deep in each other") from None


class _RefusedError(ValueError):
    """YAML, but such that nobody means it: a key that a mapping has twice, or anchors that multiply without end."""


def _values(node: Any, known: dict[Any, int]) -> int:
    """How many values there are below a node, those of an anchor each time that it is named."""
    if node not in known:
        known[node] = _MOST + 1  # where it is named within itself
        below = getattr(node, "value", ())
        parts = (part for one in below for part in (one if isinstance(one, tuple) else (one,)))
        known[node] = 1 if isinstance(below, str) else min(1 + sum(_values(part, known) for part in parts), _MOST + 1)
    return known[node]


@functools.cache
def _loader() -> Any:
    """PyYAML's safe loader with other rules for what is not quoted. Made when it is needed: PyYAML is optional."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's)

        def compose_mapping_node(self, anchor: Any) -> Any:
            """As it is read, before ``<<`` brings further keys, which those of the mapping itself override."""
            node = super().compose_mapping_node(anchor)
            lines: dict[Any, int] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == _tag("merge"):
                    continue
                name, line = self.construct_object(key), key.start_mark.line + 1
                if name in lines:
                    raise _RefusedError(f"line {line}: {key.value} was given in line {lines[name]}; keep one of them")
                lines[name] = line
            return node

    Loader.add_constructor(_tag("int"), _scalar(_to_int))
    Loader.add_constructor(_tag("float"), _scalar(_to_float))
    for name, pattern in _TAGS:
        Loader.add_implicit_resolver(_tag(name), re.compile(f"(?:{pattern.pattern})\\Z"), None)
    return Loader


def _tag(name: str) -> str:
    return f"tag:yaml.org,2002:{name}"


def _scalar(convert: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    return lambda loader, node: convert(loader.construct_scalar(node))


def _to_int(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2].lower(), 10)
    return int(text[2:] if base != 10 else text, base)


def _to_float(text: str) -> float:
    plain = text.lower()
    return float(plain.replace(".", "", 1) if plain.endswith(("inf", "nan")) else plain)
