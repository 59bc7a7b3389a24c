"""A Gaussian process as a regressor: a line and smooth departures from it, for tables of a thousand rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .regressors import Regressor, prepared

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

__all__ = ["LARGEST", "gaussian_process", "on_some_rows"]

LARGEST = 2000  # rows that are learned from: time grows with their cube


def gaussian_process(inputs: int) -> Pipeline:
    """Gaussian process regression on standardised inputs and target.

    The covariance of two rows x, z is (1 + x.z) + 4 exp(-|x - z|^2 / (2 s^2)) with s = 2 sqrt(inputs), and 2 more of a
    row with itself, its noise (Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", 2.2 and 4.2).
    These numbers are fixed: the likelihood takes the rows of one place for independent, and so finds too little noise
    for another place. s grows with the number of inputs F as the distance of two rows does, which is sqrt(2 F).

    Args:
        inputs: columns F.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    kernel = DotProduct(1.0) + ConstantKernel(4.0) * RBF(2.0 * inputs**0.5) + WhiteKernel(2.0)
    return prepared(GaussianProcessRegressor(kernel, normalize_y=True, optimizer=None))


def on_some_rows(inputs: np.ndarray, target: np.ndarray, seed: int = 0) -> Regressor:
    """A Gaussian process that is given one row of ``inputs`` (N, F) at a time and learns from at most 2000 of them."""

    def predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        kept = np.sort(np.random.default_rng(seed).permutation(train)[:LARGEST])
        process = gaussian_process(inputs.shape[1]).fit(inputs[kept].astype(np.float64), target[kept])
        return np.asarray(process.predict(inputs[test].astype(np.float64)))

    return predict
