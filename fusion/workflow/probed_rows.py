"""Probes of a frozen model and its controls; rows that an earlier step made are taken from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..evaluation import Row
from .state import State

__all__ = ["probed_rows"]


def probed_rows(
    state: State, model: str, labelled: str, test: str, fractions: Sequence[float], draws: int, **settings: Any
) -> list[Row]:
    """The rows of :func:`fusion.evaluation.compare`, fraction by fraction.

    Args:
        model, labelled, test: of the state, by name.
        settings: go to :func:`fusion.evaluation.compare`.
    """
    from ..evaluation import compare

    encoder = state.model(model)  # itself, for a later step may train another of the same name
    own = encoder, labelled, test, draws, tuple(sorted((name, str(value)) for name, value in settings.items()))
    missing = [fraction for fraction in fractions if (own, fraction) not in state.probed]
    if missing:
        seeds = [state.seed + k for k in range(draws)]
        tiles = [state.split(name) for name in (labelled, test)]
        for row in compare(encoder, *tiles, fractions=missing, seeds=seeds, **settings):
            state.probed.setdefault((own, row.fraction), []).append(row)
    return [row for fraction in fractions for row in state.probed[own, fraction]]
