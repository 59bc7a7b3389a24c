"""Scores of profiles: series of places on a calendar, (N, C, T), NaN where not observed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .report import Table

__all__ = ["profile_scores", "score_table"]


def profile_scores(truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    """Errors over all observed tiles, variables and dates, in the unit of the series.

    ``r2`` is relative to the mean of all values; ``r2_places`` to the mean profile of the scored tiles, so that the
    season, which is the same everywhere, earns nothing.
    """
    seen = np.isfinite(truth)
    error = np.where(seen, guess - truth, 0.0).astype(np.float64)
    square = (error**2).sum()
    place = np.where(seen, truth - np.nanmean(truth, axis=0), 0.0).astype(np.float64)
    scores = {
        "rmse": float(np.sqrt(square / seen.sum())),
        "mae": float(np.abs(error).sum() / seen.sum()),
        "bias": float(error.sum() / seen.sum()),
        "r2": float(1 - square / ((truth[seen] - truth[seen].mean()) ** 2).sum()),
    }
    if (place**2).sum() > 0:
        scores["r2_places"] = float(1 - square / (place**2).sum())
    return scores


def score_table(rows: Mapping[str, Mapping[str, float]], caption: str, unit: str = "") -> Table:
    """Scores of several methods by name, best in bold."""
    heads = {"rmse": f"RMSE ({unit})" if unit else "RMSE", "mae": "MAE", "bias": "bias", "r2": "R²"}
    heads |= {"r2_places": "R² between places", "coverage": "share inside the band"}
    shown = [key for key in heads if any(key in row for row in rows.values())]
    cells = [[name, *(row.get(key, float("nan")) for key in shown)] for name, row in rows.items()]
    names = [heads[key] for key in shown]
    best = [heads[key] for key in shown if key.startswith("r2")]
    return Table(["", *names], cells, caption, best=best, lowest=[heads["rmse"], heads["mae"]])
