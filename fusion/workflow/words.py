"""Results in plain words: what stands at the top of a page, without names of code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.chance import Chance, chance_scores
from .cautions import METRICS, few_labels, shown_metric
from .expectations import Expectation, is_number

__all__ = ["cautions_of", "chance_of_row", "expected_in_words", "lead"]

_ROWS = {
    "pretrained": "the pretrained encoder",
    "frozen": "a head on the frozen pretrained encoder",
    "scratch": "training from random weights",
    "random": "an encoder with random weights",
    "raw": "plain band statistics without a network",
    "raw_forest": "a random forest on raw values",
    "raw_best": "the strongest of several simple methods on raw values",
    "all": "all modalities together",
}
_COMPARED = {">": "is above", ">=": "is at least", "<": "is below", "<=": "is at most"}


def lead(metrics: Mapping[str, Any]) -> str:
    """One sentence for each group of scores: the main score of each of its rows that have a plain name, and chance."""
    return " ".join(told for group in metrics.values() if isinstance(group, Mapping) and (told := _of_group(group)))


def cautions_of(metrics: Mapping[str, Any]) -> list[str]:
    """For each group whose test labels are counted, which classes have few of them; each sentence once."""
    found = []
    for group in metrics.values():
        first = next((row for row in group.values() if shown_metric(row)), None) if isinstance(group, Mapping) else None
        if first is not None:
            confusion = first.get("confusion", {})
            found.append(few_labels(confusion, confusion.get("counted", "tiles")))
    return [text for text in dict.fromkeys(found) if text]


def chance_of_row(row: Mapping[str, Any]) -> Chance | None:
    """The chance level of a row of ``metrics.json``; None where it is not known."""
    confusion = row.get("confusion", {})
    counts = confusion.get("counts") or next(iter(confusion.get("draws", ())), None)
    if counts is None and "r2" not in row:
        return None
    return chance_scores(counts, confusion.get("classes", ()))


def expected_in_words(expected: Expectation, metrics: Mapping[str, Any]) -> str:
    """A comparison of two scores as a sentence would have it."""
    values = expected.values(metrics)
    sides = [
        f"{_score(side)} ({value:.3f})" if "." in side and not is_number(side) else f"{value:g}"
        for side, value in zip((expected.left, expected.right), values, strict=True)
    ]
    return f"{sides[0]} {_COMPARED[expected.comparison]} {sides[1]}"


def _of_group(group: Mapping[str, Any]) -> str:
    rows = {name: row for name, row in group.items() if name in _ROWS and shown_metric(row)}
    if not rows:
        return ""
    first = next(iter(rows.values()))
    metric = shown_metric(first)
    assert metric is not None  # of these rows
    parts = []
    for name, row in rows.items():
        if metric in row:
            ends = row.get("intervals", {}).get(metric)
            told = "" if ends is None else f" (95 % interval {ends[0]:.2f} to {ends[1]:.2f})"
            parts.append(f"{row[metric]:.2f}{told} with {_ROWS[name]}")
    chance = chance_of_row(first)
    if chance is not None and metric in chance.scores:
        parts.append(f"{chance.scores[metric]:.2f} by saying {chance.told}")
    sentence = f"On tiles that training has not seen, {METRICS[metric]} is {', '.join(parts)}."
    return sentence


def _score(path: str) -> str:
    """``probe.pretrained.macro_f1`` as "macro F1 of the pretrained encoder (probe)"."""
    group, *middle, metric = path.split(".")
    row = " ".join(_ROWS.get(part, part.replace("_", " ")) for part in middle)
    named = METRICS.get(metric, metric.replace("_", " "))
    of = f" of {row}" if row else ""
    return f"{named}{of} in {group.replace('_', ' ')}"
