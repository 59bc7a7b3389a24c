"""Settings that come from a YAML or the command line: one that a function does not know is refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["call"]


def call(function: Callable[..., Any], settings: Mapping[str, Any], where: str, *given: Any) -> Any:
    """``function(*given, **settings)``, where a setting the function does not know is refused by name.

    Raises:
        ValueError: an unknown setting; the message lists those there are.
    """
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [name for name, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    settable = known[len(given) :]
    unknown = [name for name in settings if name not in settable]
    if unknown and not open_ended:
        raise ValueError(f"{where}: unknown setting {', '.join(unknown)}; it has {', '.join(settable) or 'none'}")
    missing = [n for n in settable if parameters[n].default is inspect.Parameter.empty and n not in settings]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} must be given")
    return function(*given, **settings)
