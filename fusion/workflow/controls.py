"""What a page and the screen say of the distance between rows and their controls, and of the number of seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation import Section, Table
from .combined import difference_in_words, differences
from .scores import SHOWN

__all__ = ["about_seeds", "against_controls", "compared"]


def about_seeds(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence where there was one seed only."""
    text = metrics.get("about_seeds")
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def compared(group: Mapping[str, Any]) -> str:
    """The differences of a group's rows to their controls, in a sentence; empty where there is none."""
    found = differences(group)
    told = "; ".join(difference_in_words(*one) for one in found)
    strongest = _strongest(group)
    return " ".join(part for part in (f"{told}." if told else "", strongest) if part)


def against_controls(metrics: Mapping[str, Any]) -> list[Section]:
    """A section with a table of all differences; none where no row has a control."""
    rows, said = [], []
    for key, group in metrics.items():
        found = differences(group) if isinstance(group, Mapping) else []
        for row, control, metric, apart in found:
            ends = "–" if apart.low != apart.low else f"{apart.low:+.3f} to {apart.high:+.3f}"
            rows.append([key, row, control, SHOWN.get(metric, metric), f"{apart.value:+.3f}", ends])
        if found and (strongest := _strongest(group)):
            said.append(f"{key}: {strongest}")
    if not rows:
        return []
    caption = (
        "A row minus its control, both scored on the same draws of seeds and ground; beside it the 95 % interval. "
        + " ".join(dict.fromkeys(said))
    )
    heads = ["scores", "row", "control", "score", "difference", "95 % interval"]
    return [Section("How far above the controls", "", [Table(heads, rows, caption.strip())])]


def _strongest(group: Mapping[str, Any]) -> str:
    """Which control on raw values is the best, of those that rows were compared with."""
    raw = {control: (metric, apart.value) for _, control, metric, apart in differences(group) if control[:3] == "raw"}
    if not raw:
        return ""
    name = min(raw, key=lambda control: raw[control][1])
    return f"Strongest control on raw values: {name}."
