"""What the model says if one thing about a place were otherwise, and how the season of a profile moves by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.given import numbers
from ..data.tiles import TileBatch
from ..data.year import YEAR
from ..settings import renamed
from .edits import Edit, add, assign, edit_from, exchange, hide, hide_tokens, paste, shift_days, take
from .generate import expect, generate, require_token_fusion
from .model import TokenFusion

__all__ = [
    "Change",
    "Counterfactual",
    "Edit",
    "Season",
    "add",
    "assign",
    "calendar",
    "compare",
    "counterfactual",
    "edit_from",
    "exchange",
    "hide",
    "hide_tokens",
    "paste",
    "season",
    "shift_days",
    "take",
]

SPREAD = 0.015  # smallest eigenvalue of the fit's mean square matrix; days evenly over a third of a period have 0.016


@dataclass(frozen=True)
class Season:
    """Mean, amplitude (half of the range from crest to trough) and phase (day of the crest) of profiles, (...) each."""

    mean: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray


@dataclass(frozen=True)
class Change:
    """By how much mean, amplitude and phase (days, at most half a period, positive is later) rose, (...) each."""

    mean: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray

    def of(self, variable: int) -> Change:
        """Of one variable, if these are of profiles (B, C, T)."""
        return Change(self.mean[:, variable], self.amplitude[:, variable], self.phase[:, variable])

    def summary(self) -> dict[str, dict[str, float]]:
        """By quantity: ``mean`` and ``sd`` over the profiles, and the share in which it rose; NaN if undetermined."""
        return {name: _spread(getattr(self, name)) for name in ("mean", "amplitude", "phase")}


@dataclass(frozen=True)
class Counterfactual:
    """Profiles (B, C, T) of B places before and after an edit, on days (T,), and by how much their seasons moved."""

    before: np.ndarray
    after: np.ndarray
    days: np.ndarray
    change: Change


def season(profile: Any, days: Any, *, period: float = YEAR) -> Season:
    """The first harmonic of profiles (..., T) on ``days`` (T,), NaN where not observed.

    The mean is that of the observed values. Amplitude and phase are those of the wave a + b cos + c sin of ``period``
    that fits them best (least squares), so that the days need be neither regular nor a whole year. They are NaN where
    the values do not determine a wave: fewer than four, or days over less than a third of the period or at few phases
    of it.

    Raises:
        ValueError: days that do not fit.
    """
    values, days = (numbers(given, "season").astype(np.float64) for given in (profile, days))
    if days.ndim != 1 or values.ndim < 1 or values.shape[-1] != len(days):
        raise ValueError(f"season: profile {values.shape} must end in the {days.shape} days")
    seen = np.isfinite(values)
    count = seen.sum(-1)
    filled = np.where(seen, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(-1) / count
    angle = 2 * np.pi * days / period
    waves = np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)], axis=-1)  # (T, 3)
    weighted = seen[..., None] * waves
    moments = np.einsum("...ti,tj->...ij", weighted, waves)
    determined = (count >= 4) & (np.linalg.eigvalsh(moments)[..., 0] > SPREAD * count)
    moments = np.where(determined[..., None, None], moments, np.eye(3))
    _, b, c = np.moveaxis(np.linalg.solve(moments, (filled @ waves)[..., None])[..., 0], -1, 0)
    amplitude = np.where(determined, np.hypot(b, c), np.nan)
    crest = np.arctan2(c, b) * period / (2 * np.pi) % period
    flat = amplitude <= 1e-6 * np.abs(filled).max(-1)  # no wave, but rounding
    phase = np.where(determined & ~flat, crest, np.nan)
    return Season(mean, amplitude, phase)


def compare(before: Any, after: Any, days: Any, *, period: float = YEAR) -> Change:
    """How the season moved from ``before`` to ``after`` (..., T each); see :func:`season`."""
    if np.shape(before) != np.shape(after):
        raise ValueError(f"compare: before {np.shape(before)} and after {np.shape(after)} must have the same shape")
    old, new = season(before, days, period=period), season(after, days, period=period)
    later = (new.phase - old.phase + period / 2) % period - period / 2
    return Change(new.mean - old.mean, new.amplitude - old.amplitude, later)


@renamed(given="conditioning")
def counterfactual(
    model: TokenFusion,
    tiles: TileBatch,
    edit: Edit,
    target: str,
    *,
    conditioning: Sequence[str] | None = None,
    samples: int = 0,
    batch_size: int = 64,
    **how: Any,
) -> Counterfactual:
    """The series ``target`` of B places as they are and as ``edit`` makes them, everything else equal.

    Args:
        edit: sees all B places at once and must keep their number and order.
        conditioning: as in :func:`~fusion.token_fusion.generate.generate`.
        samples: 0 compares expectations; otherwise medians of so many samples, drawn alike before and after.
        batch_size: places the model sees at a time.
        how: further arguments of ``generate``.

    Raises:
        TypeError, ValueError: as ``generate``; or ``target`` is no series.
    """
    require_token_fusion(model)
    if model.config.modality(target).kind != "series":
        raise ValueError(f"counterfactual: {target!r} is an image; mean, amplitude and phase are those of a series")
    edited = edit(tiles)
    if len(edited) != len(tiles):
        raise ValueError(f"counterfactual: the edit made {len(edited)} places of {len(tiles)}")
    profiles = []
    for version in (tiles, edited):
        parts = []
        for start in range(0, len(version), batch_size):
            part = take(version, range(start, min(start + batch_size, len(version))))
            if samples:
                made = generate(model, part, [target], conditioning=conditioning, samples=samples, **how).median(target)
            else:
                made = expect(model, part, target, conditioning=conditioning)
            parts.append(made.cpu())
        profiles.append(torch.cat(parts).numpy())
    before, after, days = *profiles, calendar(model, target)
    return Counterfactual(before, after, days, compare(before, after, days))


def calendar(model: TokenFusion, name: str) -> np.ndarray:
    """(T,) days of the values of a series.

    Raises:
        ValueError: no such modality, or an image.
    """
    regular = model.tokenizer.part(name).calendar
    if regular is None:
        raise ValueError(f"calendar: {name!r} is an image and has no days")
    return regular.times(regular.length, 1).double().numpy()


def _spread(change: np.ndarray) -> dict[str, float]:
    known = change[np.isfinite(change)]
    if not known.size:
        return {"mean": float("nan"), "sd": float("nan"), "rising": float("nan")}
    return {"mean": float(known.mean()), "sd": float(known.std()), "rising": float((known > 0).mean())}
