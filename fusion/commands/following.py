"""The command that follows: each command ends by printing it, quoted, with the options that the data need."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusion.yaml_loader import load_yaml

__all__ = ["again", "command", "lead_on"]


def command(name: str, *positional: object, **options: Any) -> str:
    """A command line of ``fusion``, quoted for a shell. Options that are None or empty are left out; lists and mappings
    are written as YAML in one line."""
    words = ["fusion", *name.split(), *map(str, positional)]
    for option, value in options.items():
        if value is not None and value != {} and value != []:
            words += [f"--{option}", _text(value)]
    return shlex.join(words)


def again(function: Callable[..., Any], *positional: object, **options: Any) -> str:
    """The command line of a command, without the options that are its defaults."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    return command(function.__name__, *positional, **{n: v for n, v in options.items() if v != defaults[n]})


def lead_on(*commands: str) -> None:
    """Prints what can be done next."""
    print(f"next: {'   or   '.join(commands)}")


def _text(value: Any) -> str:
    """As the command line reads it back: text that would be read as something else is quoted."""
    if isinstance(value, Path):
        value = str(value)
    return value if isinstance(value, str) and load_yaml(value) == value else json.dumps(value)
