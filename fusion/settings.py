"""Settings that come from a YAML or the command line: one that a function does not know is refused by name, and one
whose name has changed is understood by its former name too."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

__all__ = ["accepted", "call", "former_names", "plain", "renamed", "with_new_names", "with_tuples"]

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


def renamed(**former: str) -> Callable[[F], F]:
    """A function or a class that understands arguments by their former names too: ``@renamed(share="fraction")``.

    Signature and docstring have the new names only; :func:`call` and the command line read the others from
    :func:`former_names`.

    Args:
        former: the new name by the former name, of arguments that are given by name.

    Raises:
        TypeError: from what is decorated, where an argument is given by both names.
    """

    def decorated(target: F) -> F:
        where = target.__name__
        function = vars(target)["__init__"] if isinstance(target, type) else target

        @functools.wraps(function)
        def translating(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **with_new_names(kwargs, former, f"{where}()"))

        result: Any = translating
        if isinstance(target, type):
            setattr(target, "__init__", translating)  # noqa: B010  (mypy refuses the assignment)
            result = target
        result.former_names = former
        return cast(F, result)

    return decorated


def former_names(target: Callable[..., Any]) -> Mapping[str, str]:
    """The new name of an argument by its former name, as :func:`renamed` was told; empty where it was not."""
    return getattr(target, "former_names", {})


def with_new_names(settings: Mapping[str, Any], former: Mapping[str, str], where: str) -> dict[str, Any]:
    """The settings, in their order, by the new names of those that were renamed.

    Raises:
        TypeError: a setting is given by both names.
    """
    twice = [name for name in settings if former.get(name) in settings]
    if twice:
        raise TypeError(f"{where}: {twice[0]} is the former name of {former[twice[0]]}; give {former[twice[0]]} alone")
    return {former.get(name, name): value for name, value in settings.items()}


def with_tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with tuples for lists, which YAML and JSON make of them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def plain(value: Any) -> Any:
    """Settings in Python's own types, which YAML, JSON and checkpoints know: NumPy's text and numbers become text and
    numbers, its arrays lists; mappings, lists and tuples are gone through, and everything else stays what it is."""
    numpy: Any = sys.modules.get("numpy")  # whoever has not imported it has none of its values, and --help is fast
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    if numpy is not None and isinstance(value, numpy.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(one) for one in value)
    return value


def call(function: Callable[..., R], settings: Mapping[str, Any], where: str, *given: Any) -> R:
    """``function(*given, **settings)``, where a setting the function does not know is refused by name.

    Raises:
        ValueError: an unknown setting; the message lists those there are.
        TypeError: a setting is given by its former and by its new name.
    """
    settings = accepted(function, settings, where, _positions(function)[: len(given)])
    return function(*given, **settings)


def accepted(
    function: Callable[..., Any], settings: Mapping[str, Any], where: str, given: Sequence[str] = ()
) -> dict[str, Any]:
    """The settings by their new names, if ``function`` takes them: what :func:`call` refuses is refused before a call.

    Args:
        given: parameters that come from elsewhere and are no settings.

    Raises:
        ValueError, TypeError: as :func:`call`.
    """
    settings = with_new_names(settings, former_names(function), where)
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    settable = [name for name in _positions(function) if name not in given]
    unknown = [name for name in settings if name not in settable]
    if unknown and not open_ended:
        raise ValueError(f"{where}: unknown setting {', '.join(unknown)}; it has {', '.join(settable) or 'none'}")
    missing = [n for n in settable if parameters[n].default is inspect.Parameter.empty and n not in settings]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} must be given")
    return settings


def _positions(function: Callable[..., Any]) -> list[str]:
    """Parameters with a name of their own."""
    parameters = inspect.signature(function).parameters
    return [name for name, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
