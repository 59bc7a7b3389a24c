"""Pictures of training and of scores, as PNG. Drawn without pyplot: no global state, no display needed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from .chance import chance_by_class, chance_scores
from .protocol import Row, summarise
from .report import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator
    from matplotlib.typing import ColorType

__all__ = [
    "Counted",
    "class_bars",
    "confusion_matrix",
    "label_efficiency",
    "legend_patch",
    "loss_curves",
    "modality_bars",
    "observed_predicted",
    "panels",
    "picture",
    "styled",
]

# Okabe and Ito's colours: distinguishable with every kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442")
Counted = Literal["tiles", "pixels"]
_COUNTED = {"tiles": "test tiles", "pixels": "test pixels (evenly spaced ones where there are many)"}
NAMES = {
    "miou": "mean IoU",
    "iou": "IoU",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "micro_f1": "micro F1",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "mean absolute error",
}


def loss_curves(log: Path | str, conditions: str = "") -> Picture:
    """Losses of training and validation by epoch, and beside them whatever else was logged in validation.

    Args:
        log: the ``metrics.csv`` of a run.

    Raises:
        ValueError: the log is empty or missing.
    """
    log = Path(log)
    if not log.is_file():
        raise ValueError(f"loss_curves: no {log}; give the metrics.csv of a run folder")
    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"loss_curves: {log} has no epoch yet")
    series = {name: [float(row[name]) if row[name] else np.nan for row in rows] for name in rows[0] if "/" in name}
    losses = {name: values for name, values in series.items() if name.endswith("/loss")}
    others: dict[str, dict[str, list[float]]] = {}
    for name, values in series.items():
        if name not in losses:
            others.setdefault(name.split("/")[1], {})[name] = values
    figure, axes = panels(1 + len(others))
    epochs = [int(row["epoch"]) + 1 for row in rows]
    for panel, (title, lines) in zip(axes, [("loss", losses), *others.items()], strict=True):
        for colour, (name, values) in zip(COLOURS, lines.items(), strict=False):
            label = name if title == "loss" or name.count("/") > 1 else None
            panel.plot(epochs, values, color=colour, label=label, marker="." if len(epochs) < 3 else None)
        panel.set(title=title, xlabel="epoch")
        cast("MaxNLocator", panel.xaxis.get_major_locator()).set_params(integer=True)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False, fontsize=8)
    told = "Training log by epoch."
    if "retrieval" in others:
        told += " Retrieval by chance is one in the number of tokens that are searched in a batch: next to 0."
    return picture(figure, _with(told, conditions))


def class_bars(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    metric: str = "f1",
    conditions: str = "",
    *,
    counted: Counted = "tiles",
    samples: int | None = None,
) -> Picture:
    """One group of bars a class, one bar a method: ``scores[method][class][metric]``; classes by support, which counts
    tiles or pixels. A dashed line at each class is what saying that class everywhere would score.

    Args:
        samples: of all classes, where one may have several; the sum of the supports by default.
    """
    methods = list(scores)
    first = scores[methods[0]]
    classes = sorted(first, key=lambda name: -first[name].get("support", 0))
    width = 0.8 / len(methods)
    figure, (panel,) = panels(1, width=max(7.0, 0.55 * len(classes) * max(1, len(methods) / 2)), height=3.6)
    for i, method in enumerate(methods):
        heights = [scores[method].get(name, {}).get(metric, np.nan) for name in classes]
        at = np.arange(len(classes)) + (i - (len(methods) - 1) / 2) * width
        panel.bar(at, np.nan_to_num(heights), width, label=method, color=COLOURS[i % len(COLOURS)])
    told = f"Score of each class; n is its number of test {counted}."
    if metric in ("f1", "iou") and all("support" in first[name] for name in classes):
        support = {name: first[name]["support"] for name in classes}
        chance = chance_by_class(support, samples or sum(support.values()))
        _dashed(panel, [chance[name][metric] for name in classes])
        told += " Dashed: what saying that class everywhere would score."
    labels = [f"{name}\n(n={int(first[name]['support'])})" if "support" in first[name] else name for name in classes]
    panel.set_xticks(np.arange(len(classes)), labels, rotation=40, ha="right", fontsize=8)
    panel.set(ylabel=NAMES.get(metric, metric.upper()))
    if metric != "rmse":
        panel.set_ylim(min(0.0, panel.get_ylim()[0]), max(1.0, panel.get_ylim()[1]))
    panel.legend(frameon=False, fontsize=9, ncols=len(methods), loc="lower left", bbox_to_anchor=(0, 1.0))
    return picture(figure, _with(told, conditions))


def confusion_matrix(
    target: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[str],
    conditions: str = "",
    *,
    counted: Counted = "tiles",
) -> Picture:
    """Rows are true classes and sum to 1; numbers are tiles, or pixels. ``target`` and ``prediction`` (N,) class
    indices."""
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (np.asarray(target, dtype=int), np.asarray(prediction, dtype=int)), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.6 + 0.45 * len(classes)
    figure, (panel,) = panels(1, width=max(3.5, side + 1), height=max(3.2, side))
    panel.imshow(share, cmap="Greens", vmin=0, vmax=1)
    for i, j in np.ndindex(counts.shape):
        if counts[i, j]:
            colour = "white" if share[i, j] > 0.6 else "black"
            panel.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=7, color=colour)
    panel.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=8)
    panel.set_yticks(range(len(classes)), classes, fontsize=8)
    panel.set(xlabel="predicted", ylabel="true")
    panel.grid(False)
    told = f"Confusion matrix: shade is the share of the true class, numbers are {_COUNTED[counted]}."
    return picture(figure, _with(told, conditions))


def observed_predicted(
    target: np.ndarray,
    prediction: np.ndarray,
    name: str = "target",
    unit: str = "",
    conditions: str = "",
    *,
    counted: Counted = "tiles",
) -> Picture:
    """Scatter of predictions against observations with the 1:1 line and the scores, of tiles or pixels."""
    from .metrics import score

    target, prediction = np.ravel(target), np.ravel(prediction)
    scores = score("regression", target, prediction)
    figure, (panel,) = panels(1, width=4.4, height=4.2)
    panel.scatter(target, prediction, s=10, alpha=0.45, color=COLOURS[0], edgecolors="none")
    low, high = min(target.min(), prediction.min()), max(target.max(), prediction.max())
    panel.plot([low, high], [low, high], color="#555555", linewidth=1, linestyle="--")
    label = f"{name} ({unit})" if unit else name
    panel.set(xlabel=f"observed {label}", ylabel=f"predicted {label}", aspect="equal")
    panel.set_title(f"R² {scores['r2']:.2f}   RMSE {scores['rmse']:.3g} {unit}", fontsize=10)
    return picture(figure, _with(f"{len(target)} {_COUNTED[counted]}; the dashed line is 1:1.", conditions))


def label_efficiency(rows: Sequence[Row], metric: str = "macro_f1", conditions: str = "") -> Picture:
    """Score against the number of labelled tiles, one line per features and method; bands are ±1 sd over seeds."""
    lines: dict[str, list[dict]] = {}
    for entry in summarise(rows):
        lines.setdefault(f"{entry['features']}, {entry['method']}", []).append(entry)
    figure, (panel,) = panels(1, width=6, height=3.8)
    for colour, (name, entries) in zip(COLOURS, lines.items(), strict=False):
        entries.sort(key=lambda entry: entry["fraction"])
        x = np.array([entry["labelled"] for entry in entries])
        mean = np.array([entry["scores"][metric].mean for entry in entries])
        sd = np.array([entry["scores"][metric].sd for entry in entries])
        panel.plot(x, mean, color=colour, marker="o", markersize=4, label=name)
        panel.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
    told = _chance_line(panel, rows, metric)
    counts = sorted({entry["labelled"] for entries in lines.values() for entry in entries})
    panel.set(xscale="log", xlabel="labelled training tiles", ylabel=NAMES.get(metric, metric))
    panel.set_xticks(counts, [str(n) for n in counts])
    panel.set_xticks([], minor=True)
    if metric.endswith("f1"):
        panel.set_ylim(top=min(1.02, panel.get_ylim()[1]))
    panel.legend(frameon=False, fontsize=8)
    what = f"Label efficiency; bands are one standard deviation over draws of the labels.{told}"
    return picture(figure, _with(what, conditions))


def modality_bars(rows: Sequence[Row], metric: str = "macro_f1", conditions: str = "") -> Picture:
    """Every modality alone and all together, one bar per method."""
    entries = summarise(rows)
    groups = list(dict.fromkeys(entry["modalities"] for entry in entries))
    methods = list(dict.fromkeys(f"{entry['features']}, {entry['method']}" for entry in entries))
    width = 0.8 / len(methods)
    figure, (panel,) = panels(1, width=max(5.0, 1.3 * len(groups) + 1), height=3.4)
    for entry in entries:
        i = methods.index(f"{entry['features']}, {entry['method']}")
        at = groups.index(entry["modalities"]) + (i - (len(methods) - 1) / 2) * width
        spread = entry["scores"][metric]
        error = spread.sd if spread.runs > 1 else None
        panel.bar(at, spread.mean, width, yerr=error, color=COLOURS[i % len(COLOURS)], error_kw={"linewidth": 1})
    told = _chance_line(panel, rows, metric)
    panel.set_xticks(range(len(groups)), [" + ".join(group) for group in groups])
    panel.set(ylabel=NAMES.get(metric, metric))
    handles = [legend_patch(COLOURS[i % len(COLOURS)], name) for i, name in enumerate(methods)]
    panel.legend(handles=handles, frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
    return picture(figure, _with(f"Each modality alone and all together.{told}", conditions))


def picture(figure: Figure, caption: str) -> Picture:
    """Renders a figure; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
    return Picture(buffer.getvalue(), caption)


def panels(count: int, width: float | None = None, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, at most three a row, in the style of the report; sizes in inches."""
    from matplotlib.figure import Figure

    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure((width or 3.9 * columns, height * rows), layout="constrained")
    return figure, styled([figure.add_subplot(rows, columns, i + 1) for i in range(count)])


def styled(axes: Sequence[Axes] | np.ndarray) -> list[Axes]:
    """Panels of a figure of one's own in the style of the report."""
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.25, linewidth=0.6)
        panel.set_axisbelow(True)
    return list(axes)


def legend_patch(colour: ColorType, label: str) -> Patch:
    """A square of a colour for a legend."""
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _dashed(panel: Axes, heights: Sequence[float]) -> None:
    """A line across each group of bars."""
    at = np.arange(len(heights))
    panel.hlines(heights, at - 0.45, at + 0.45, colors="#333333", linestyles="--", linewidth=1)


def _chance_line(panel: Axes, rows: Sequence[Row], metric: str) -> str:
    """A line at what who knows nothing would score on the test split of the rows, and a sentence on it; nothing where
    that is not known."""
    result = rows[0].result
    if result.confusion is None and "r2" not in result.scores:
        return ""
    chance = chance_scores(result.confusion, list(result.per_class))
    if metric not in chance.scores:
        return ""
    panel.axhline(chance.scores[metric], color="#333333", linestyle="--", linewidth=1)
    return f" Dashed: the chance level, {chance.told}."


def _with(caption: str, conditions: str) -> str:
    return f"{caption} {conditions}".strip()
