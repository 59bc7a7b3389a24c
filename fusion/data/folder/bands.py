"""Names of bands that files give, compared with those of the description."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .containers import Variable, text
from .place import Finder

__all__ = ["check_band", "check_bands", "names_in_file", "other_bands"]


def names_in_file(variable: Variable, axes: Sequence[str], finder: Finder) -> tuple[str, ...]:
    """What a file calls the bands of a variable: a coordinate of text, or a list as ``long_name``; none otherwise."""
    dimensions = dict(zip(axes, variable.dimensions, strict=False))
    if "band" not in axes:
        return ()
    count, found = variable.shape[list(axes).index("band")], None
    if dimensions.get("band") and finder.has(dimensions["band"]):
        found = finder.array(dimensions["band"])
    if found is None or found.dtype.kind not in "SUO":
        found = np.asarray(variable.attributes.get("long_name", ()))
    if found.shape != (count,) or found.dtype.kind not in "SUO":
        return ()
    return tuple(text(name) for name in found)


def check_bands(path: Path, what: str, stored: Sequence[str], described: Sequence[str]) -> None:
    """
    Raises:
        ValueError: the file has the bands of the description in another order; whoever goes by position alone takes one
            for another.
    """
    own, wanted = _comparable(stored), _comparable(described)
    if all(own) and own != wanted and sorted(own) == sorted(wanted):
        raise ValueError(
            f"{path}: the bands of {what} are {', '.join(stored)} by the file and {', '.join(described)} by the "
            "description; write bands in the order of the file, and use: [...] for the order of the model. All files "
            "need the same order"
        )


def check_band(path: Path, what: str, stored: Sequence[str], band: str, described: Sequence[str]) -> None:
    """
    Raises:
        ValueError: a file of one band calls it by the name of another one of the description.
    """
    own, wanted = _comparable(stored), _comparable(described)
    if own and own[0] != _comparable([band])[0] and own[0] in wanted:
        raise ValueError(
            f"{path}: {what}: the band is {stored[0]} by the file and {band} by its name; rename the file, or correct "
            "its description"
        )


def other_bands(stored: Sequence[str], described: Sequence[str]) -> bool:
    """Whether a file gives some band of the description at another position."""
    own, wanted = _comparable(stored), _comparable(described)
    return any(name in wanted and name != other for name, other in zip(own, wanted, strict=False))


def _comparable(names: Sequence[str]) -> list[str]:
    """B4, b04 and B04 are one band."""
    return [re.sub(r"(?<=[a-z])0+(?=\d)", "", name.strip().lower()) for name in names]
