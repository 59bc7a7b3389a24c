"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazily"]


def lazily(package: str, submodules: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for the module ``package``.

    Args:
        submodules: by name, the submodule that has it; ``"submodule:Other"`` where it is called otherwise there.

    Raises:
        AttributeError: of the function returned, for any other name.
    """

    def get(name: str) -> Any:
        if name not in submodules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, other = submodules[name].partition(":")
        return getattr(importlib.import_module(f".{module}", package), other or name)

    return get
