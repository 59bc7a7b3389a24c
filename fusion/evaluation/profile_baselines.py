"""What simple methods make of profiles (N, C, T), NaN where not observed, or of quantities, from inputs (N, D)."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["forest_profiles", "mean_profile", "ridge_profiles", "tabular_forest", "tabular_ridge"]


def mean_profile(train: np.ndarray, tiles: int) -> np.ndarray:
    """(tiles, C, T): the mean of the training profiles, for everybody."""
    return np.broadcast_to(np.nanmean(train, axis=0), (tiles, *train.shape[1:]))


def ridge_profiles(x: np.ndarray, profile: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """(M, C, T) for ``unseen`` (M, D): a ridge regression of every date on ``x`` (N, D), its strength chosen by
    leave-one-out for each date alone. Missing inputs take the training mean; so do missing dates of a profile."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    target = profile.reshape(len(profile), -1).astype(np.float64)
    target = np.where(np.isnan(target), np.nanmean(target, axis=0), target)
    ridge = RidgeCV(np.logspace(-3, 4, 15), alpha_per_target=True)
    fitted = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), ridge).fit(x, target)
    return fitted.predict(unseen).reshape(len(unseen), *profile.shape[1:])


def forest_profiles(x: np.ndarray, profile: np.ndarray, unseen: np.ndarray, seed: int = 0) -> np.ndarray:
    """(M, C, T) for ``unseen`` (M, D): a random forest of all dates at once on ``x`` (N, D), with training means for
    what is missing."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    target = profile.reshape(len(profile), -1)
    target = np.where(np.isnan(target), np.nanmean(target, axis=0), target)
    forest = RandomForestRegressor(200, min_samples_leaf=2, max_features=1 / 3, random_state=seed)
    fitted = make_pipeline(SimpleImputer(keep_empty_features=True), forest).fit(x, target)
    return fitted.predict(unseen).reshape(len(unseen), *profile.shape[1:])


def tabular_ridge() -> Any:
    """A ridge regression of one quantity; missing inputs take the training mean."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))


def tabular_forest(seed: int) -> Any:
    """A random forest of one quantity; missing inputs take the training mean."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    forest = RandomForestRegressor(200, min_samples_leaf=2, max_features=1 / 3, random_state=seed)
    return make_pipeline(SimpleImputer(keep_empty_features=True), forest)
