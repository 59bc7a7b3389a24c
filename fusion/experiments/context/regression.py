"""Regression of a quantity of pixels at dates on their embeddings, against the raw bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...context.gpp import fit_regressor, nrmse
from ...evaluation import Picture, Table
from ...evaluation.plots import COLOURS, panels, picture

__all__ = ["Rows", "predict", "report", "scores"]


@dataclass(frozen=True)
class Rows:
    """N pixels at dates.

    Attributes:
        bands: (N, C) observed on the date; ``more``: (N, K) what else the embedding was made of, or None.
        context: (N, frames) rows of the same pixel before and after, the row itself in the middle, -1 where none.
        day: (N,); target: (N,).
    """

    bands: np.ndarray
    more: np.ndarray | None
    context: np.ndarray
    day: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.target)


def predict(
    rows: Rows,
    embedding: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    settings: Mapping[str, Any],
    *,
    repeats: int = 2,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The target of the rows ``test`` by every method, trained on the rows ``train``.

    ``model`` is the temporal transformer on the embeddings (N, E), the mean of ``repeats`` seeds; ``forest`` and
    ``ridge`` see the bands of the date, with ``_all`` what else the embedding was made of as well.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def forest() -> Any:
        return RandomForestRegressor(200, min_samples_leaf=2, max_features=1 / 3, random_state=seed)

    def ridge() -> Any:
        return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))

    made = {"forest": (forest(), rows.bands), "ridge": (ridge(), rows.bands)}
    if rows.more is not None:
        both = np.hstack([rows.bands, rows.more])
        made |= {"forest_all": (forest(), both), "ridge_all": (ridge(), both)}
    made |= {"embedding_ridge": (ridge(), embedding), "embedding_forest": (forest(), embedding)}
    found = {n: m.fit(x[train], rows.target[train]).predict(x[test]) for n, (m, x) in made.items()}
    return {"model": _temporal(rows, embedding, train, test, settings, repeats, seed)} | found


def _temporal(
    rows: Rows,
    embedding: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    settings: Mapping[str, Any],
    repeats: int,
    seed: int,
) -> np.ndarray:
    scaled = (embedding - embedding[train].mean(0)) / (embedding[train].std(0) + 1e-6)
    near = np.maximum(rows.context, 0)
    inputs = [torch.from_numpy(part) for part in (scaled[near], rows.day[near], rows.context >= 0)]
    mean, std = rows.target[train].mean(), rows.target[train].std()
    target = torch.from_numpy((rows.target[train] - mean) / std).float()
    guesses = []
    for repeat in range(repeats):
        fitted = fit_regressor(*(part[train] for part in inputs), target, seed=seed + repeat, **settings)
        with torch.no_grad():
            guesses.append(fitted(*(part[test] for part in inputs)).numpy())
    return np.mean(guesses, axis=0) * std + mean


def scores(target: np.ndarray, guessed: np.ndarray) -> dict[str, float]:
    """R2, RMSE, and RMSE over the range of the target."""
    error = target - guessed
    return {
        "r2": float(1 - (error**2).sum() / ((target - target.mean()) ** 2).sum()),
        "rmse": float(np.sqrt((error**2).mean())),
        "nrmse": nrmse(torch.from_numpy(target), torch.from_numpy(guessed)),
    }


def report(target: np.ndarray, guessed: Mapping[str, np.ndarray], what: str) -> tuple[dict[str, Any], list[Any]]:
    """Metrics by method, and a table and a picture of them."""
    found: dict[str, Any] = {name: scores(target, values) for name, values in guessed.items()}
    columns = ["", "R²", "RMSE (g C m⁻² d⁻¹)", "NRMSE"]
    rows = [[name, v["r2"], v["rmse"], v["nrmse"]] for name, v in found.items()]
    table = Table(columns, rows, what, best=["R²"], lowest=columns[2:])
    return found | {"conditions": what}, [table, _scatter(target, guessed, what)]


def _scatter(target: np.ndarray, guessed: Mapping[str, np.ndarray], what: str) -> Picture:
    figure, axes = panels(2, height=3.6)
    for axis, name in zip(axes, ("model", "forest"), strict=True):
        axis.plot(target, guessed[name], ".", ms=3, alpha=0.5, color=COLOURS[0])
        axis.axline((0, 0), slope=1, color="black", lw=0.8)
        axis.set_title(f"{name}: R² {scores(target, guessed[name])['r2']:.3f}")
        axis.set_xlabel("GPP (g C m⁻² d⁻¹)")
    axes[0].set_ylabel("predicted")
    return picture(figure, what)
