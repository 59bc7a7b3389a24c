"""A quantity of pixels at dates predicted from their embeddings, against the raw bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from .gaussian import on_some_rows
from .intervals import sample_sums, score_intervals
from .plots import COLOURS, panels, picture
from .regressors import Regressor, forest, on_rows, ridge, temporal_transformer
from .report import Picture, Table
from .rows import Rows

__all__ = ["predict", "report", "scores"]

_METHODS = {
    "model": "mean of the next three",
    "embedding_transformer": "temporal transformer on the embeddings of the date and its context",
    "embedding_ridge": "ridge on the embedding of the date",
    "embedding_forest": "random forest on the embedding of the date",
    "forest": "random forest on the bands of the date",
    "ridge": "ridge on the bands of the date",
    "forest_all": "random forest on the bands and all else known of the date",
    "ridge_all": "ridge on the same",
    "embedding_process": "Gaussian process on the embedding of the date and raw values",
    "process_all": "Gaussian process on the latter alone",
}
_FOLDS = 3  # of the places that are learned from, to choose among regressors


def predict(
    rows: Rows,
    embedding: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    settings: Mapping[str, Any],
    *,
    repeats: int = 2,
    seed: int = 0,
    beside: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The target of the rows ``test`` by every method, trained on the rows ``train``.

    Three regressors see the embeddings (N, E): the temporal transformer, ridge, a random forest. ``model`` is the plain
    mean of the three: none of them is best everywhere, and choosing one would take sites that are needed for training.
    ``forest`` and ``ridge`` see the bands of the date, with ``_all`` what else is known of it as well.

    With ``beside`` a Gaussian process sees it next to the embedding (``embedding_process``), and another one sees it
    alone (``process_all``). ``model`` is then the mean of the three, or ``embedding_process``, or the mean of the
    transformer and ``process_all``: whichever predicts places best that were left out of the training rows.

    Args:
        settings: of :func:`fusion.evaluation.temporal.fit_regressor`; ``repeats`` seeds of it are averaged.
        beside: (N, F) raw values and what follows from them.
    """
    on = partial(on_rows, target=rows.target)
    tree = partial(forest, seed)
    transformer = temporal_transformer(embedding, rows.context, rows.day, rows.target, settings, repeats, seed)
    regressors = {
        "embedding_transformer": transformer,
        "embedding_ridge": on(ridge, embedding),
        "embedding_forest": on(tree, embedding),
    }
    both = np.hstack([rows.bands, rows.more])
    baselines = {
        "forest": on(tree, rows.bands),
        "ridge": on(ridge, rows.bands),
        "forest_all": on(tree, both),
        "ridge_all": on(ridge, both),
    }
    if beside is None:
        found = {name: regress(train, test) for name, regress in (regressors | baselines).items()}
        return {"model": np.mean([found[name] for name in regressors], axis=0)} | found
    processes = {
        "embedding_process": on_some_rows(np.hstack([embedding, beside]), rows.target, seed),
        "process_all": on_some_rows(beside, rows.target, seed),
    }
    found = {name: regress(train, test) for name, regress in (regressors | baselines | processes).items()}
    short = temporal_transformer(embedding, rows.context, rows.day, rows.target, settings, 1, seed)
    candidates = regressors | processes | {"embedding_transformer": short}
    choices = (tuple(regressors), ("embedding_process",), ("embedding_transformer", "process_all"))
    parts = _preferred(choices, candidates, rows, train)
    return {"model": np.mean([found[name] for name in parts], axis=0)} | found


def _preferred(
    choices: Sequence[tuple[str, ...]], regressors: Mapping[str, Regressor], rows: Rows, train: np.ndarray
) -> tuple[str, ...]:
    """Of the ``choices`` the regressors whose mean predicts held-out places of the rows ``train`` best; the first where
    there are too few places to hold any out."""
    from sklearn.model_selection import GroupKFold

    if len(np.unique(rows.place[train])) < _FOLDS:
        return choices[0]
    found: dict[str, list[np.ndarray]] = {name: [] for name in regressors}
    wanted = []
    for fit, held_out in GroupKFold(_FOLDS).split(train, groups=rows.place[train]):
        wanted.append(rows.target[train[held_out]])
        for name, regress in regressors.items():
            found[name].append(regress(train[fit], train[held_out]))
    target = np.concatenate(wanted)
    guessed = {name: np.concatenate(parts) for name, parts in found.items()}
    errors = [np.square(np.mean([guessed[name] for name in one], axis=0) - target).mean() for one in choices]
    return choices[int(np.argmin(errors))]


def scores(target: np.ndarray, guessed: np.ndarray) -> dict[str, float]:
    """R2, RMSE, and RMSE over the range of the target (``nrmse``), as Peters et al. report it."""
    error = target - guessed
    rmse = np.sqrt((error**2).mean())
    return {
        "r2": float(1 - (error**2).sum() / ((target - target.mean()) ** 2).sum()),
        "rmse": float(rmse),
        "nrmse": float(rmse / (target.max() - target.min())),
    }


def report(
    rows: Rows, guessed: Mapping[str, np.ndarray], what: str, *, quantity: str, unit: str
) -> tuple[dict[str, Any], list[Picture | Table]]:
    """Metrics by method, and a table and pictures of them.

    Args:
        guessed: predictions (N,) of all ``rows`` by a method of :func:`predict`.
        what: the conditions, in a sentence.
        quantity, unit: of the target.
    """
    found: dict[str, Any] = {name: scores(rows.target, values) for name, values in guessed.items()}
    for name, values in guessed.items():
        sums = sample_sums("regression", rows.target[:, None], values[:, None], 1)
        r2 = score_intervals("regression", sums, rows.place).scores["r2"]
        found[name] |= {"r2_low": r2.low, "r2_high": r2.high}
    columns = ["", "", "R²", "95 % interval", f"RMSE ({unit})", "NRMSE"]
    lines = [
        [name, _METHODS[name], v["r2"], f"{v['r2_low']:.3f} to {v['r2_high']:.3f}", v["rmse"], v["nrmse"]]
        for name, v in found.items()
    ]
    told = f"{what} In parentheses, or as an interval, 95 % of 1000 draws of whole places."
    table = Table(columns, lines, told, best=["R²"], lowest=columns[4:])
    label = f"{quantity} ({unit})"
    shown = [_scatter(rows.target, guessed, label, what), _courses(rows, guessed, label, what)]
    return found | {"conditions": told}, [table, *shown]


def _scatter(target: np.ndarray, guessed: Mapping[str, np.ndarray], label: str, what: str) -> Picture:
    figure, axes = panels(2, height=3.6)
    for axis, name in zip(axes, ("model", "forest"), strict=True):
        axis.plot(target, guessed[name], ".", ms=3, alpha=0.5, color=COLOURS[0])
        axis.axline((0, 0), slope=1, color="black", lw=0.8)
        axis.set_title(f"{name}: R² {scores(target, guessed[name])['r2']:.3f}")
        axis.set_xlabel(label)
    axes[0].set_ylabel("predicted")
    return picture(figure, what)


def _courses(rows: Rows, guessed: Mapping[str, np.ndarray], label: str, what: str, most: int = 3) -> Picture:
    """The places with the most dates through time: what was there, and what two methods made of it."""
    names, count = np.unique(rows.place, return_counts=True)
    shown = names[np.argsort(-count, kind="stable")[:most]]
    figure, axes = panels(len(shown), height=3.2)
    for axis, place in zip(axes, shown, strict=True):
        own = np.flatnonzero(rows.place == place)
        own = own[np.argsort(rows.day[own])]
        dates = rows.day[own].astype("datetime64[D]")
        axis.plot(dates, rows.target[own], "o", ms=3, color="black", label="truth")
        for colour, name in zip(COLOURS, ("model", "forest"), strict=False):
            axis.plot(dates, guessed[name][own], lw=1, color=colour, label=name)
        axis.set_title(place, fontsize=9)
        axis.tick_params(axis="x", rotation=30)
    axes[0].set_ylabel(label)
    axes[0].legend(frameon=False, fontsize=8)
    return picture(figure, f"The seasons of the places with the most dates. {what}")
