"""Learning curves: scores against the share of the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .plots import COLOURS, NAMES, panels, picture
from .report import Picture

__all__ = ["learning_curve"]


def learning_curve(
    points: Mapping[str, Mapping[float, Sequence[float]]], metric: str, over: str, conditions: str = ""
) -> Picture:
    """One line for each row: the mean of its values at each share of the labels, with a band from the least to the
    largest.

    Args:
        points: by row, per cent of the labels and values of ``metric``.
        over: what the values of one share differ in, e.g. ``draws of the labels``.

    Raises:
        ValueError: no row, or one without values.
    """
    if not points or any(not own or not all(map(len, own.values())) for own in points.values()):
        raise ValueError(f"learning_curve: no values of {metric} for {', '.join(points) or 'any row'}")
    figure, (panel,) = panels(1, width=6, height=3.8)
    for colour, (name, own) in zip(COLOURS, points.items(), strict=False):
        shares = sorted(own)
        values = [np.asarray(own[share], dtype=float) for share in shares]
        panel.plot(shares, [v.mean() for v in values], color=colour, marker="o", markersize=4, label=name)
        ends = [v.min() for v in values], [v.max() for v in values]
        panel.fill_between(shares, *ends, color=colour, alpha=0.15, linewidth=0)
    every = sorted({share for own in points.values() for share in own})
    panel.set(xscale="log", xlabel="labelled training tiles, per cent", ylabel=NAMES.get(metric, metric))
    panel.set_xticks(every, [f"{share:g}" for share in every])
    panel.set_xticks([], minor=True)
    panel.legend(frameon=False, fontsize=8)
    return picture(figure, f"Learning curve; a band is from the least to the largest over {over}. {conditions}".strip())
