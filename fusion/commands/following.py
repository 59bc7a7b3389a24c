"""The command that follows: each command ends by printing it, quoted, with the options that the data need."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["command", "lead_on"]


def command(name: str, *positional: object, **options: Any) -> str:
    """A command line of ``fusion``, quoted for a shell. Options that are None, False or empty are left out; lists and
    mappings are written as YAML in one line."""
    words = ["fusion", *name.split(), *map(str, positional)]
    for option, value in options.items():
        if value is None or value is False or value == {} or value == []:
            continue
        words += [f"--{option}", _text(value)]
    return shlex.join(words)


def lead_on(*commands: str) -> None:
    """Prints what can be done next."""
    print(f"next: {'   or   '.join(commands)}")


def _text(value: Any) -> str:
    if value is True:
        return "true"
    structured = isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str))
    return json.dumps(value) if structured else str(value)
