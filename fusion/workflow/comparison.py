"""Whether rows of scores are better than a control, in words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..evaluation import Spread
from ..evaluation.intervals import Interval, Intervals
from .scores import SHOWN, Named, main_metric

__all__ = ["against"]


def against(named: Named, found: Mapping[str, Intervals], control: str, words: str) -> list[str]:
    """A sentence for each row that has the modalities of the row ``control`` (with several fractions those that begin
    with it): whether it is better in the main score, and by how much beside what the test tiles leave open.

    Args:
        words: what the control is, in words; where its draws chose among methods, these are named.
    """
    told = []
    controls = {rows[0].fraction: (name, rows) for name, rows in named.items() if name.startswith(control)}
    for name, rows in named.items():
        if rows[0].fraction not in controls or name.startswith(control):
            continue
        other, theirs = controls[rows[0].fraction]
        if rows[0].modalities != theirs[0].modalities:
            continue
        metric = main_metric(rows)
        own, baseline = (Spread.of([row.result.scores[metric] for row in part]).mean for part in (rows, theirs))
        winners = dict.fromkeys(row.result.setting.get("control") for row in theirs)
        methods = " or ".join(name for name in winners if name)
        who = f"{words}, {methods}" if methods else words
        apart = _apart(found[name].scores.get(metric), found[other].scores.get(metric))
        better = "better" if own > baseline else "NOT better"
        told.append(f"{name} is {better} than {who}: {SHOWN[metric]} {own:.3f} against {baseline:.3f}{apart}.")
    return told


def _apart(first: Interval | None, second: Interval | None) -> str:
    if first is None or second is None or np.isnan(first.low) or np.isnan(second.low):
        return ""
    return "" if first.low > second.high or second.low > first.high else ", and their intervals overlap"
