"""Values of a description: each of the type, and within the limits, that its key wants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

__all__ = ["LARGEST_SIDE", "check_georeference", "check_splits", "entry", "number"]

LARGEST_SIDE = 1e7  # metres: no tile is larger, and no pixel
_NAMES = {"exclude", "bands", "use", "axes", "dates", "variable"}  # one or several
_TEXTS = {"files", "available", "reduction", "resample", "kind", "vector", "table", "field", "layer", "x", "y"}
_LISTS = {"nodata", "range", "classes", "bad_bits"}
_NUMBERS = {"tile", "patch", "stride", "resolution", "scale", "decibels", "at_most"}
_SIDES = {"tile", "patch", "stride", "resolution"}
_SHARES = {"max_cloud", "min_labelled", "min_share"}
_FLAGS = {"align", "all_touched", "missing_bands", "optional", "empty_chunks"}


def entry(key: str, value: Any) -> Any:
    """As the field has it: lists as tuples, numbers as numbers also where they are written as text.

    Raises:
        ValueError: a value that the key cannot have.
    """
    if key in _NUMBERS | _SHARES:
        return _limited(key, number(key, value))
    if key == "max_dates":
        return _count(key, value)
    if key in _FLAGS:
        if not isinstance(value, bool):
            raise ValueError(f"{key} is true or false, not {value!r}")
        return value
    if key in _TEXTS:
        return _text(key, value)
    if key == "unit":
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else _words(key, value)
    if key == "offset":
        return _offset(value)
    if key == "band" and not isinstance(value, str):
        return _count(key, value)
    if key == "crs" and not isinstance(value, str | int):
        raise ValueError(f"{key} is text such as EPSG:4326, or its number, not {value!r}")
    if key in _LISTS and not isinstance(value, Mapping):
        numbers = tuple(number(key, one) for one in (value if _several(value) else [value]))
        if key == "range" and (len(numbers) != 2 or not numbers[0] <= numbers[1]):
            raise ValueError(f"range is the lowest and the highest value, [0, 10000], not {value!r}")
        return numbers
    if key in _LISTS:
        raise ValueError(f"{key} is a number or a list of numbers, not {value!r}")
    if key in _NAMES:
        return _names(key, value)
    return value


def number(key: str, value: Any) -> float:
    """A number, in YAML or as its text (``'-9999'``, ``1e20``, ``nan``).

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value.strip().lower().replace(".nan", "nan").replace(".inf", "inf"))
            except ValueError:
                continue
    raise ValueError(f"{key} must be a number, not {value!r}")


def _limited(key: str, value: float) -> float:
    if key in _SIDES and not 0 < value <= LARGEST_SIDE:
        raise ValueError(f"{key} is metres, more than 0 and no more than {LARGEST_SIDE:g}, not {value:g}")
    if key in _SHARES and not 0 <= value <= 1:
        raise ValueError(f"{key} is a share, 0 to 1, not {value:g}")
    if not math.isfinite(value) or (key == "decibels" and value <= 0):
        raise ValueError(f"{key} is a {'positive' if key == 'decibels' else 'finite'} number, not {value:g}")
    return value


def _count(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is a whole number from 1, not {value!r}")
    return value


def _offset(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(day): _limited("offset", number(f"offset from {day}", one)) for day, one in value.items()}
    try:
        found = number("offset", value)
    except ValueError:
        if not isinstance(value, str):
            raise
        return value  # a variable
    return _limited("offset", found)


def _several(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{key} is text, not {value!r}" + ("; write it in quotes" if _plain(value) else ""))
    return value


def _words(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} is text, not {value!r}")
    return value


def _plain(value: Any) -> bool:
    return isinstance(value, int | float)


def _names(key: str, value: Any) -> tuple[str, ...] | str:
    if _several(value):
        strange = [one for one in value if not (isinstance(one, str) and one.strip()) and not _has_name(one)]
        if strange:
            raise ValueError(f"{key} are names, not {strange[0]!r}")
        return tuple(str(one) for one in value)
    if key in ("use", "exclude") and _number_of_name(value):
        value = str(value)
    found = _text(key, value)
    return (found,) if key in ("use", "exclude") else found


def _has_name(value: Any) -> bool:
    """Whether it stands for a name: a number, or a date as other readers of YAML than ours make of one."""
    return _number_of_name(value) or isinstance(value, date)


def _number_of_name(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_georeference(keys: Any) -> None:
    """
    Raises:
        ValueError: a key that there is not, or a value that says no place.
    """
    if not isinstance(keys, Mapping):
        raise ValueError(f"georeference: keys with values are wanted, {keys!r} given")
    for key, value in keys.items():
        if key not in ("epsg", "bounds", "x", "y", "cf"):
            raise ValueError(f"georeference: unknown key {key!r}; known are epsg, bounds, x, y, cf")
        if key == "cf" and not isinstance(value, bool):
            raise ValueError(f"georeference: cf is true or false, not {value!r}")
        if key == "epsg" and (isinstance(value, bool) or not isinstance(value, str | int) or value in ("", 0)):
            raise ValueError(
                f"georeference: epsg is a number such as 32631, or a variable that holds it, not {value!r}"
            )
        if key in ("bounds", "x", "y") and not isinstance(value, str):
            _check_coordinates(key, value)


def _check_coordinates(key: str, value: Any) -> None:
    numbers = [number(f"georeference: {key}", one) for one in value] if _several(value) else []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"georeference: {key} are finite numbers, or a variable that holds them, not {value!r}")
    if key == "bounds" and not (len(numbers) == 4 and numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        raise ValueError(f"georeference: bounds are [left, bottom, right, top], not {value!r}")


def check_splits(splits: Any) -> None:
    """
    Raises:
        ValueError: a split without a usable name, a key that there is not, or rows and columns that are no intervals
            of 0..1.
    """
    if not isinstance(splits, Mapping):
        raise ValueError(f"splits: names with keys are wanted, {splits!r} given")
    for name, rule in splits.items():
        if not isinstance(name, str) or not name.strip() or any(c in "/\\" or not c.isprintable() for c in name):
            raise ValueError(f"split {name!r}: a name is letters and digits, such as train, val and test")
        if not isinstance(rule, Mapping):
            raise ValueError(f"split {name!r}: keys with values are wanted, {rule!r} given")
        unknown = [str(key) for key in rule if key not in ("files", "rows", "columns")]
        if unknown:
            raise ValueError(f"split {name!r}: unknown key {', '.join(unknown)}; known are files, rows, columns")
        files = rule.get("files", "*")
        if not files or not all(isinstance(one, str) or _number_of_name(one) for one in _listed(files)):
            raise ValueError(f"split {name!r}: files are patterns of names of scenes, not {files!r}")
        for key in ("rows", "columns"):
            if key in rule and not _intervals(rule[key]):
                raise ValueError(
                    f"split {name!r}: {key} are shares of a scene from 0 to 1, the lower first, such as [0, 0.8] or "
                    f"[[0, 0.2], [0.6, 1]], not {rule[key]!r}"
                )


def _listed(value: Any) -> Sequence[Any]:
    found: Sequence[Any] = value if _several(value) else [value]
    return found


def _intervals(given: Any) -> bool:
    if not _several(given) or not given:
        return False
    pairs = given if all(map(_several, given)) else [given]
    return all(len(pair) == 2 and all(map(_number_of_name, pair)) and 0 <= pair[0] < pair[1] <= 1 for pair in pairs)
