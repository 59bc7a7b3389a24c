"""Series of places predicted without any network: (N, C, T) of N tiles, C variables and T dates, NaN where nothing was
observed."""

from __future__ import annotations

import numpy as np

from .regressors import forest, ridge

__all__ = ["forest_profiles", "mean_profile", "ridge_profiles"]


def mean_profile(train: np.ndarray, tiles: int) -> np.ndarray:
    """(tiles, C, T): the mean of the training profiles (N, C, T), for everybody."""
    return np.broadcast_to(np.nanmean(train, axis=0), (tiles, *train.shape[1:]))


def ridge_profiles(x: np.ndarray, profile: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """(M, C, T) for ``unseen`` (M, D): a ridge regression of every date of ``profile`` (N, C, T) on ``x`` (N, D), its
    strength chosen by leave-one-out for each date alone. Missing inputs take the training mean; so do missing dates."""
    target = _filled(profile.reshape(len(profile), -1).astype(np.float64))
    fitted = ridge(np.logspace(-3, 4, 15), per_target=True).fit(x, target)
    return np.asarray(fitted.predict(unseen)).reshape(len(unseen), *profile.shape[1:])


def forest_profiles(x: np.ndarray, profile: np.ndarray, unseen: np.ndarray, seed: int = 0) -> np.ndarray:
    """As :func:`ridge_profiles`, by one random forest of all dates at once."""
    fitted = forest(seed).fit(x, _filled(profile.reshape(len(profile), -1)))
    return np.asarray(fitted.predict(unseen)).reshape(len(unseen), *profile.shape[1:])


def _filled(target: np.ndarray) -> np.ndarray:
    """(N, T) with the mean of its column for NaN."""
    return np.where(np.isnan(target), np.nanmean(target, axis=0), target)
