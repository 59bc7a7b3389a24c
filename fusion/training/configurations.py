"""Saved configurations: in which fields two of them differ, and a former one with today's names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

__all__ = ["differences", "with_former_settings", "with_todays_names"]


def differences(saved: Any, wanted: Any, name: str = "") -> list[str]:
    """Fields in which two plain configurations differ, one readable line each.

    Modalities are matched by name; lists of numbers (statistics) are the same if they agree to 1e-6.
    """
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        keys = list(dict.fromkeys([*saved, *wanted]))
        found = []
        for key in keys:
            label = f"{name}.{key}" if name else str(key)
            if key not in wanted:
                found.append(f"{label}: {_short(saved[key])} in the checkpoint, absent in what is wanted")
            elif key not in saved:
                found.append(f"{label}: absent in the checkpoint, {_short(wanted[key])} wanted")
            else:
                found += differences(saved[key], wanted[key], label)
        return found
    if _are_modalities(saved) and _are_modalities(wanted):
        ours, theirs = ({m["name"]: m for m in side} for side in (saved, wanted))
        found = differences(ours, theirs, name)
        if not found and list(ours) != list(theirs):
            found.append(f"{name}: order {list(ours)} in the checkpoint, {list(theirs)} wanted")
        return found
    if _are_numbers(saved) and _are_numbers(wanted) and len(saved) == len(wanted):
        if all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(saved, wanted, strict=True)):
            return []  # statistics, which another number of threads sums in another order
    elif saved == wanted:
        return []
    return [f"{name}: {_short(saved)} in the checkpoint, {_short(wanted)} wanted"]


def with_todays_names(config: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """A saved configuration of class ``kind``, in plain types, with today's names of its fields; as it is if unfit."""
    try:
        today = kind.from_dict(config).to_dict()
    except (TypeError, KeyError, ValueError):
        today = config
    return cast(dict[str, Any], json.loads(json.dumps(today)))


def with_former_settings(kind: Any, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved settings of the fine-tuning module ``kind``, and of those it did not have then what it did without them,
    where it says so by ``kind.with_former_settings(saved)``."""
    known = getattr(kind, "with_former_settings", dict)
    return cast(dict[str, Any], known(saved))


def _are_modalities(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and "name" in m for m in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(v, float) for v in value)


def _short(value: Any, width: int = 120) -> str:
    if _are_numbers(value):
        value = [float(f"{v:.6g}") for v in value]
    text = str(value.get("name", value)) if isinstance(value, Mapping) else str(value)
    return text if len(text) <= width else text[: width - 3] + "..."
