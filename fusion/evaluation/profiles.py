"""Pictures of generated profiles and images, of counterfactuals, and of what an answer hangs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .plots import COLOURS, legend_patch, panels, picture, styled
from .report import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["counterfactual_plot", "image_plot", "profile_plot", "sensitivity_bars", "sensitivity_dates"]

TRUTH, MODEL, BEFORE, AFTER = "black", COLOURS[0], COLOURS[0], COLOURS[5]


def profile_plot(
    days: np.ndarray,
    truth: np.ndarray | None,
    samples: np.ndarray,
    *,
    names: Sequence[str] = (),
    unit: str = "",
    expected: np.ndarray | None = None,
    band: tuple[float, float] = (0.1, 0.9),
    conditions: str = "",
) -> Picture:
    """One panel a place: the true profile, the median of the generated ones and their band.

    Args:
        days: (T,).
        truth, expected: (n, T), NaN where unknown, or None: what was observed, and the model's expectation.
        samples: (S, n, T).
        names: of the n places.
        band: quantiles of the samples between which the band lies.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    samples, days = np.asarray(samples), np.asarray(days)
    for what, given in (("truth", truth), ("expected", expected)):
        if given is not None and np.shape(given) != samples.shape[1:]:
            raise ValueError(f"profile_plot: {what} {np.shape(given)} must be (n, T) of samples {samples.shape}")
    if samples.ndim != 3 or days.shape != samples.shape[2:] or (len(names) and len(names) != samples.shape[1]):
        raise ValueError(
            f"profile_plot: samples (S, n, T), days (T,) and n names wanted, got {samples.shape}, {days.shape} and "
            f"{len(names)} names"
        )
    low, median, high = np.nanquantile(samples, (band[0], 0.5, band[1]), axis=0)  # (n, T) each
    figure, axes = panels(samples.shape[1], height=2.6)
    for i, panel in enumerate(axes):
        if len(samples) > 1:
            label = f"{band[0]:.0%} to {band[1]:.0%} of samples"
            panel.fill_between(days, low[i], high[i], color=MODEL, alpha=0.25, linewidth=0, label=label)
        panel.plot(days, median[i], color=MODEL, linewidth=1.2, label="median of samples")
        if expected is not None:
            panel.plot(days, expected[i], color=COLOURS[5], linewidth=1.2, linestyle="--", label="expectation")
        if truth is not None:
            panel.plot(days, truth[i], color=TRUTH, linewidth=1.0, label="observed")
        if len(names):
            panel.set_title(names[i], fontsize=9)
    _edges(axes, "day", unit)
    axes[0].legend(frameon=False, fontsize=7)
    many = f" {len(samples)} samples a place." if len(samples) > 1 else ""
    return picture(figure, f"Generated and observed profiles.{many} {conditions}".strip())


def image_plot(
    images: Mapping[str, np.ndarray], *, names: Sequence[str] = (), unit: str = "", conditions: str = ""
) -> Picture:
    """Fields of one quantity, e.g. observed, generated median and spread, (n, H, W) each: a row each, a column a place.

    Rows whose name ends in "spread" have a scale of their own; all others share one.
    """
    from matplotlib.figure import Figure

    rows = {name: np.asarray(stack) for name, stack in images.items()}
    count = min(len(stack) for stack in rows.values())
    shared = np.concatenate([stack[:count].ravel() for name, stack in rows.items() if not name.endswith("spread")])
    figure = Figure((1.7 * count + 1.2, 1.7 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for row, (line, (name, stack)) in enumerate(zip(axes, rows.items(), strict=True)):
        limits = stack[:count].ravel() if name.endswith("spread") else shared
        low, high = np.nanquantile(limits, (0.01, 0.99)) if np.isfinite(limits).any() else (0.0, 1.0)
        for i, panel in enumerate(line):
            shown = panel.imshow(stack[i], vmin=low, vmax=high, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
            if len(names) and row == 0:
                panel.set_title(names[i], fontsize=8)
        line[0].set_ylabel(name, fontsize=9)
        figure.colorbar(shown, ax=list(line), shrink=0.85, label=unit)
    return picture(figure, f"Generated and observed images. {conditions}".strip())


def counterfactual_plot(
    days: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    change: Mapping[str, np.ndarray],
    *,
    unit: str = "",
    edit: str = "the edit",
    conditions: str = "",
) -> Picture:
    """Profiles (B, T) before and after an edit, and how far mean, amplitude and phase of each of the B places moved.

    Args:
        change: by quantity, ``mean``, ``amplitude`` (in ``unit``) and ``phase`` (days), (B,) each; NaN is left out.
    """
    from matplotlib.figure import Figure

    before, after = np.asarray(before), np.asarray(after)
    figure = Figure((10.5, 5.4), layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    above, below = halves
    (left, right), axes = styled(above.subplots(1, 2)), styled(np.ravel(below.subplots(1, len(change))))
    for colour, name, profiles in ((BEFORE, "before", before), (AFTER, f"after: {edit}", after)):
        _band(left, days, profiles, colour, name)
    _band(right, days, after - before, AFTER, "")
    right.axhline(0, color=TRUTH, linewidth=0.8)
    left.set(xlabel="day", ylabel=unit, title="profiles")
    right.set(xlabel="day", ylabel=unit, title="change by date")
    left.legend(frameon=False, fontsize=8)
    for panel, (name, moved) in zip(axes, change.items(), strict=True):
        known = np.ravel(moved)[np.isfinite(np.ravel(moved))]
        panel.set(title=f"change of {name}", xlabel="days" if name == "phase" else unit, ylabel="places")
        if not len(known):
            panel.text(0.5, 0.5, "not determined", ha="center", va="center", transform=panel.transAxes)
            continue
        panel.hist(known, bins=min(24, max(4, len(known) // 3)), color=AFTER, alpha=0.7)
        panel.axvline(0, color=TRUTH, linewidth=0.8)
        panel.axvline(known.mean(), color=AFTER, linestyle="--", label=f"mean {known.mean():+.3g}")
        panel.legend(frameon=False, fontsize=8)
    caption = "Median and 10 to 90 % of the places, and by how much the season of each place moved."
    return picture(figure, f"{caption} {conditions}".strip())


def sensitivity_bars(
    modality: Mapping[str, float], band: Mapping[str, Mapping[str, float]], *, conditions: str = ""
) -> Picture:
    """Shares of the sensitivity: one bar a modality, and beside it one a band, in the colour of its modality."""
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(modality)}
    bands = [(name, which, share) for name, shares in band.items() for which, share in shares.items()]
    figure, (left, right) = panels(2, width=max(7.5, 3.5 + 0.35 * len(bands)), height=3.2)
    _bars(left, [(name, colours[name], share) for name, share in modality.items()])
    _bars(right, [(which, colours[name], share) for name, which, share in bands])
    left.set(ylabel="share", title="by modality")
    right.set(title="by band")
    handles = [legend_patch(colours[name], name) for name in modality]
    right.legend(handles=handles, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return picture(figure, f"Sensitivity of every modality and band, as shares of 1. {conditions}".strip())


def sensitivity_dates(date: Mapping[str, tuple[np.ndarray, np.ndarray]], *, conditions: str = "") -> Picture:
    """Shares of the sensitivity by date, one line a series: ``date[name]`` is days (T,) and shares (T,).

    Raises:
        ValueError: no series.
    """
    if not date:
        raise ValueError("sensitivity_dates: none of the modalities seen has dates")
    figure, (panel,) = panels(1, width=7, height=3.0)
    for i, (name, (days, shares)) in enumerate(date.items()):
        panel.plot(days, shares, color=COLOURS[i % len(COLOURS)], marker=".", label=name)
    panel.set(xlabel="day", ylabel="share", ylim=(0, None))
    panel.legend(frameon=False, fontsize=8)
    return picture(figure, f"Sensitivity of every date, as shares of 1. {conditions}".strip())


def _band(panel: Axes, days: np.ndarray, profiles: np.ndarray, colour: str, label: str) -> None:
    """Median and 10 to 90 % of (B, T)."""
    low, middle, high = np.nanquantile(profiles, (0.1, 0.5, 0.9), axis=0)
    panel.fill_between(days, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.plot(days, middle, color=colour, label=label)


def _bars(panel: Axes, bars: Sequence[tuple[str, str, float]]) -> None:
    panel.bar(range(len(bars)), [share for _, _, share in bars], color=[colour for _, colour, _ in bars])
    panel.set_xticks(range(len(bars)), [name for name, _, _ in bars], rotation=40, ha="right", fontsize=8)


def _edges(axes: Sequence[Axes], below: str, beside: str) -> None:
    """Labels on the outer panels only, three a row."""
    for i, panel in enumerate(axes):
        if i + 3 >= len(axes):
            panel.set_xlabel(below)
        if i % 3 == 0:
            panel.set_ylabel(beside)
