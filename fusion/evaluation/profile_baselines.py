"""Series of places predicted without any network: (N, C, T) of N tiles, C variables and T dates, NaN where nothing was
observed."""

from __future__ import annotations

import warnings

import numpy as np

from .regressors import forest, prepared, ridge

__all__ = ["forest_profiles", "kriging_profiles", "mean_profile", "ridge_profiles"]


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


def kriging_profiles(x: np.ndarray, profile: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """As :func:`ridge_profiles`, by universal kriging: a plane in ``x``, and what is left of neighbours in ``x`` that
    are alike (Rasmussen & Williams 2006, 2.7), with ranges and variances of greatest likelihood, common to all dates.

    A missing date stands at the date's mean plus what the place differs from the mean profile on its other dates.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    target = profile.reshape(len(profile), -1).astype(np.float64)
    mean = np.nanmean(target, axis=0)
    apart = target - mean
    level = np.nan_to_num(np.nanmean(apart, axis=1, keepdims=True))
    apart = np.where(np.isnan(apart), level, apart)
    scale = apart.std() or 1.0
    ranges = RBF(np.ones(x.shape[1]), (0.1, 10.0))
    kernel = ConstantKernel() * DotProduct(0.0, "fixed") + ConstantKernel(0.3) * ranges + WhiteKernel(0.1, (0.01, 10.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a range at its bound: a direction that tells nothing
        fitted = prepared(GaussianProcessRegressor(kernel, random_state=0)).fit(x, apart / scale)
    guess = np.asarray(fitted.predict(unseen)).reshape(len(unseen), -1) * scale + mean
    return guess.reshape(len(unseen), *profile.shape[1:])


def _filled(target: np.ndarray) -> np.ndarray:
    """(N, T) with the mean of its column for NaN."""
    return np.where(np.isnan(target), np.nanmean(target, axis=0), target)
