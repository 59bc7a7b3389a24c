"""What an experiment claims about its own numbers, and whether it is so."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Expectation", "is_number"]

_EACH = "each."
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Expectation:
    """A comparison of two metrics, or of a metric and a number, such as ``probe.pretrained.macro_f1 > 0.5``."""

    left: str
    comparison: str
    right: str

    @classmethod
    def parse(cls, text: str) -> Expectation:
        """
        Raises:
            ValueError: ``text`` is no comparison.
        """
        found = re.fullmatch(r"\s*([\w.+-]+)\s*(>=|<=|>|<)\s*([\w.+-]+)\s*", text)
        if found is None:
            raise ValueError(f"expectation {text!r} is not of the form `metric > metric` or `metric > number`")
        return cls(*found.groups())

    def of_each(self, metrics: Mapping[str, Any]) -> list[Expectation]:
        """One for each repetition in the results where a side begins with ``each.``, else this one.

        Raises:
            ValueError: results without repetitions.
        """
        if not any(side.startswith(_EACH) for side in (self.left, self.right)):
            return [self]
        names = metrics.get("repetitions", {})
        if not names:
            raise ValueError(
                f"expectation {self}: the experiment has no repetitions (transfer or repeats), leave out each."
            )
        sides = [
            [f"repetitions.{name}.{side.removeprefix(_EACH)}" if side.startswith(_EACH) else side for name in names]
            for side in (self.left, self.right)
        ]
        return [Expectation(left, self.comparison, right) for left, right in zip(*sides, strict=True)]

    def __str__(self) -> str:
        return f"{self.left} {self.comparison} {self.right}"

    def holds(self, metrics: Mapping[str, Any]) -> bool:
        """
        Raises:
            ValueError: a metric that the results do not have.
        """
        return _COMPARISONS[self.comparison](*self.values(metrics))

    def values(self, metrics: Mapping[str, Any]) -> tuple[float, float]:
        """The numbers on both sides; NaN, of which no comparison holds, for the end of an interval that there is not.

        Raises:
            ValueError: a metric that the results do not have.
        """
        return _value(self.left, metrics), _value(self.right, metrics)

    def told(self, metrics: Mapping[str, Any]) -> str:
        """The comparison with its numbers: ``probe.a (0.812) > probe.b (0.730)``."""
        sides = [side if is_number(side) else f"{side} ({_told(side, metrics)})" for side in (self.left, self.right)]
        return f"{sides[0]} {self.comparison} {sides[1]}"


def is_number(text: str) -> bool:
    """Whether a side of a comparison is a number rather than the name of a score."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value(text: str, metrics: Mapping[str, Any]) -> float:
    if is_number(text):
        return float(text)
    value: Any = metrics
    for key in text.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise ValueError(f"no metric {text!r} in the results (looking for {key!r})")
        value = value[key]
    return float("nan") if value is None else float(value)


def _told(text: str, metrics: Mapping[str, Any]) -> str:
    value = _value(text, metrics)
    return "no interval" if value != value else f"{value:.3f}"
