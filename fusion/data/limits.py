"""Options of readers that are numbers: counts, shares and sizes, refused by name where they can mean nothing."""

from __future__ import annotations

import math
import operator
from typing import Any

__all__ = ["check_count", "check_names", "check_share", "check_size"]

_MOST = 2**63  # of what is counted


def check_count(where: str, name: str, value: Any, least: int = 1, *, optional: bool = False) -> None:
    """
    Args:
        where: whose option it is, e.g. the reader.
        optional: None is an answer, too.

    Raises:
        ValueError: no whole number, or one below ``least``.
    """
    if value is None and optional:
        return
    try:
        whole = operator.index(value)
    except TypeError:
        whole = -1
    if isinstance(value, bool) or not least <= whole < _MOST:
        none = " or None" if optional else ""
        raise ValueError(f"{where}: {name} is a whole number of at least {least}{none}, not {value!r}")


def check_share(where: str, name: str, value: Any) -> None:
    """
    Raises:
        ValueError: no number from 0 to 1.
    """
    if isinstance(value, bool) or not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{where}: {name} is a share, 0 to 1, not {value!r}")


def check_size(where: str, name: str, value: Any) -> None:
    """
    Raises:
        ValueError: no finite number above 0.
    """
    if isinstance(value, bool) or not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{where}: {name} is a finite number above 0, not {value!r}")


def check_names(where: str, name: str, value: Any) -> None:
    """
    Raises:
        ValueError: no list of names, but one of them or something else.
    """
    if isinstance(value, str) or not hasattr(value, "__iter__") or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{where}: {name} is a list of names, not {value!r}")


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(value) or value == value
    except (TypeError, OverflowError):
        return isinstance(value, int)
