"""Steps that show what a token-fusion model makes of given tiles: generate, ask what if, ask what matters.

The commands ``fusion generate | counterfactual | sensitivity`` are these steps.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from ...data import Modality, TileBatch, TileDataset, collate
from ...evaluation import Picture, Section, Table
from ...evaluation.profiles import counterfactual_plot, image_plot, profile_plot, sensitivity_bars, sensitivity_dates
from ...token_fusion.generate import require_token_fusion
from ...workflow.state import State
from .common import batches, mean_profile, profile_scores, profiles, score_table

__all__ = ["counterfactual", "generate", "sensitivity", "some"]

SHOWN = 6  # places in a picture
BAND = (0.1, 0.9)  # quantiles of the samples
QUANTITIES = ("mean", "amplitude", "phase")


@dataclass(frozen=True)
class _Values:
    """Of one target: ``samples`` (S, N, ...), ``expected`` and ``observed`` (N, ...) in its unit, NaN where missing;
    ``days`` (T,) of a series."""

    samples: np.ndarray
    expected: np.ndarray
    observed: np.ndarray
    days: np.ndarray | None

    @property
    def median(self) -> np.ndarray:
        return np.median(self.samples, axis=0)

    def band(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.quantile(self.samples, BAND, axis=0)
        return low, high


def generate(
    state: State,
    *,
    targets: Sequence[str],
    given: Sequence[str] | None = None,
    samples: int = 8,
    tiles: str = "test",
    most: int | None = None,
    train: str = "train",
    model: str = "pretrained",
    key: str = "generate",
    **how: Any,
) -> str:
    """Generates modalities of tiles, writes ``<target>.npz`` (and ``.csv`` of a series), and scores what can be scored.

    Where the data hold the target, errors of the expectation, of the samples' median and of the mean over the
    split ``train`` go to ``<key>_<target>.<row>.rmse`` (``expectation``, ``median``, ``mean_profile``) and so on.

    Args:
        given: what to generate from; everything but the targets by default.
        most: at most so many tiles, evenly spaced.
        how: further arguments of :func:`fusion.token_fusion.generate.generate`.
    """
    require_token_fusion(state.model(model))
    fused, part = state.model(model), some(state.split(tiles), most)
    how = {"seed": state.seed} | how
    found = _generated(fused, part, targets, given, samples, how)
    sources = list(given) if given is not None else [m.name for m in part.modalities if m.name not in targets]
    told = []
    for target, values in found.items():
        modality = fused.config.modality(target)
        written = _write(state.out, modality, part.names, values)
        scores = _scores(state, fused, target, values, train)
        conditions = (
            f"{target.capitalize()} ({', '.join(modality.bands)}) of {len(part)} tiles of split {tiles!r} from "
            f"{', '.join(sources)}; {samples} samples, seed {how['seed']}."
        )
        items: list[Picture | Table] = [score_table(scores, conditions, modality.unit)] if scores else []
        items += _pictures(modality, part.names, values, conditions)
        title = f"{target.capitalize()} from {', '.join(sources)}"
        state.sections.append(Section(title, f"Values in {modality.unit or 'the unit of the data'}: {written}.", items))
        if scores:
            state.metrics[f"{key}_{target}"] = scores | {"conditions": conditions}
        best = f", RMSE {scores['expectation']['rmse']:.3g} {modality.unit}".rstrip() if scores else ""
        told.append(f"{target} of {len(part)} tiles{best}")
    return "; ".join(told)


def counterfactual(
    state: State,
    *,
    edit: Mapping[str, Any],
    target: str,
    given: Sequence[str] | None = None,
    samples: int = 0,
    tiles: str = "test",
    most: int | None = 128,
    model: str = "pretrained",
    key: str = "counterfactual",
    **how: Any,
) -> str:
    """Generates a series of tiles as they are and as ``edit`` makes them; how its season moves goes to ``<key>``.

    ``<key>.<quantity>`` has mean and standard deviation over tiles and the share of tiles in which mean, amplitude or
    phase rose; with several bands ``<key>.<band> <quantity>``. Writes ``<key>.npz`` and ``<key>.csv``.

    Args:
        edit: see :func:`fusion.token_fusion.edits.edit_from`; exchanges are with the next of the tiles used.
        samples: 0 compares expectations, otherwise medians of so many samples.
        most: at most so many tiles, evenly spaced.
        how: further arguments of :func:`fusion.token_fusion.generate.generate`.
    """
    from ...token_fusion.counterfactual import counterfactual as run
    from ...token_fusion.edits import edit_from

    require_token_fusion(state.model(model))
    fused, part = state.model(model), some(state.split(tiles), most)
    if samples:
        how = {"seed": state.seed} | how
    change_by = edit_from(edit, fused.config.modalities)
    found = run(fused, _whole(part), change_by, target, given=given, samples=samples, **how)
    modality, told = fused.config.modality(target), _in_words(edit)
    kind = f"medians of {samples} samples" if samples else "expectations"
    conditions = f"{len(part)} tiles of split {tiles!r}; {kind} of {target}; edit: {told}."
    rows, items = {}, []
    for c, band in enumerate(modality.bands):
        change, single = found.change.of(c), len(modality.bands) == 1
        summary, moved = change.summary(), {name: getattr(change, name) for name in QUANTITIES}
        rows |= {name if single else f"{band} {name}": spread for name, spread in summary.items()}
        caption = conditions if single else f"Band {band}. {conditions}"
        before, after = found.before[:, c], found.after[:, c]
        if c < 3:
            items.append(
                counterfactual_plot(found.days, before, after, moved, unit=modality.unit, edit=told, conditions=caption)
            )
    known = {name: {k: v for k, v in row.items() if np.isfinite(v)} for name, row in rows.items()}
    state.metrics[key] = known | {"conditions": conditions}
    cells = [[name, row["mean"], row["sd"], row["rising"]] for name, row in rows.items()]
    columns = ["change of", "mean", "sd over tiles", "share of tiles where it rose"]
    caption = f"Mean and amplitude in {modality.unit or 'the unit of the data'}, phase in days (later is positive). "
    state.sections.append(Section(f"If: {told}", "", [Table(columns, cells, caption + conditions), *items]))
    state.out.mkdir(parents=True, exist_ok=True)
    arrays = {"before": found.before, "after": found.after, "days": found.days}
    np.savez_compressed(state.out / f"{key}.npz", names=np.array(part.names), unit=np.array(modality.unit), **arrays)
    changes = {name: getattr(found.change, name) for name in QUANTITIES}
    with open(state.out / f"{key}.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["tile", "band", *(f"change of {name}" for name in changes)])
        for i, name in enumerate(part.names):
            for c, band in enumerate(modality.bands):
                table.writerow([name, band, *(f"{values[i, c]:.6g}" for values in changes.values())])
    return ", ".join(f"{name} {row['mean']:+.3g}" for name, row in rows.items())


def sensitivity(
    state: State,
    *,
    target: str | None = None,
    given: Sequence[str] | None = None,
    measure: Literal["gradient", "gradient-x-input"] = "gradient",
    per: Literal["token", "group"] = "token",
    tiles: str = "test",
    most: int | None = 256,
    model: str = "pretrained",
    head: nn.Module | None = None,
    key: str = "sensitivity",
) -> str:
    """Shares of the sensitivity by modality go to ``<key>.<modality>.share``, by band to ``<key>_bands``.

    Writes ``<key>.npz``, which has them by date, too.

    Args:
        target: the modality whose expected mean is the answer; or give ``head``, a fine-tuned module around the model.
        measure: the norm of the gradient, or the product of gradient and input.
        per: what is compared: the mean token of each group, or all of its tokens together.
        most: at most so many tiles, evenly spaced.

    Raises:
        ValueError: neither target nor head, or both.
    """
    from ...token_fusion.sensitivity import head as output_of
    from ...token_fusion.sensitivity import sensitivity as run

    if (target is None) == (head is None):
        raise ValueError("sensitivity: give a target modality, or a fine-tuned model, and not both")
    require_token_fusion(state.model(model))
    fused, part = state.model(model), some(state.split(tiles), most)
    answer = target if head is None else output_of(head)
    found = run(fused, batches(fused, part), answer, given=given, measure=measure, per=per)
    what = "the prediction of the fine-tuned head" if head is not None else f"the expected mean of {target}"
    conditions = f"Of {what}, over {len(part)} tiles of split {tiles!r}; measure: {measure} per {per}."
    bands = {f"{name} {band}": share for name, shares in found.band.items() for band, share in shares.items()}
    state.metrics[key] = {name: {"share": share} for name, share in found.modality.items()} | {"conditions": conditions}
    state.metrics[f"{key}_bands"] = {name: {"share": share} for name, share in bands.items()}
    items: list[Picture | Table] = [
        Table(["modality", "share"], [[name, share] for name, share in found.modality.items()], conditions),
        sensitivity_bars(found.modality, found.band, conditions=conditions),
    ]
    arrays = {"modality": np.array(list(found.modality)), "modality_share": np.array(list(found.modality.values()))}
    arrays |= {"band": np.array(list(bands)), "band_share": np.array(list(bands.values())), "token": found.token}
    if found.date:
        items.append(sensitivity_dates(found.date, conditions=conditions))
        for name, (days, shares) in found.date.items():
            arrays |= {f"{name}.days": days, f"{name}.shares": shares}
    state.sections.append(Section(f"What {what.removeprefix('the ')} hangs on", "", items))
    state.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(state.out / f"{key}.npz", **arrays)
    return ", ".join(f"{name} {share:.0%}" for name, share in found.modality.items())


def some(dataset: TileDataset, most: int | None) -> TileDataset:
    """At most so many tiles, evenly spaced."""
    if most is None or most >= len(dataset):
        return dataset
    if most < 1:
        raise ValueError(f"at least one tile is wanted, not {most}")
    return dataset.subset(np.linspace(0, len(dataset) - 1, most).round().astype(int))


def _generated(
    model: nn.Module,
    dataset: TileDataset,
    targets: Sequence[str],
    given: Sequence[str] | None,
    samples: int,
    how: Mapping[str, Any],
) -> dict[str, _Values]:
    from ...token_fusion.counterfactual import calendar
    from ...token_fusion.generate import expect, generate

    drawn: dict[str, list[np.ndarray]] = {name: [] for name in targets}
    expected: dict[str, list[np.ndarray]] = {name: [] for name in targets}
    observed: dict[str, list[np.ndarray]] = {name: [] for name in targets}
    sources = [n for n in model.tokenizer.layout.names if n not in targets] if given is None else given
    for batch in batches(model, dataset, 32):
        made = generate(model, batch, targets, given=sources, samples=samples, **how)
        for name in targets:
            drawn[name].append(made.values[name].cpu().numpy())
            expected[name].append(expect(model, batch, name, given=sources).cpu().numpy())
            known = model.tokenizer.values(batch, name) if name in batch.values else None
            observed[name].append(np.full_like(expected[name][-1], np.nan) if known is None else known.cpu().numpy())
    return {
        name: _Values(
            np.concatenate(drawn[name], axis=1),
            np.concatenate(expected[name]),
            np.concatenate(observed[name]),
            calendar(model, name) if model.config.modality(name).kind == "series" else None,
        )
        for name in targets
    }


def _scores(state: State, model: nn.Module, target: str, values: _Values, train: str) -> dict[str, dict[str, float]]:
    """Errors of what was generated, and of the mean of the training tiles; empty where nothing was observed."""
    seen = np.isfinite(values.observed)
    if not seen.any():
        return {}
    low, high = values.band()
    scores = {name: profile_scores(values.observed, getattr(values, name)) for name in ("expected", "median")}
    scores["median"]["coverage"] = float(((values.observed >= low) & (values.observed <= high))[seen].mean())
    known = state.data.get(train)
    if known is not None and target in [m.name for m in known.modalities]:
        mean = mean_profile(profiles(model, known.with_modalities([target]), target), len(values.observed))
        scores["mean_profile"] = profile_scores(values.observed, mean)
    return {"expectation": scores.pop("expected")} | scores


def _pictures(modality: Modality, names: Sequence[str], values: _Values, conditions: str) -> list[Picture]:
    """Of some places and at most three bands."""
    pick = np.unique(np.linspace(0, len(names) - 1, min(SHOWN, len(names))).round().astype(int))
    labels, seen = [names[i] for i in pick], bool(np.isfinite(values.observed).any())
    if values.samples.ndim == 3:  # one number a band: nothing to draw that the files do not tell
        return []
    drawn = []
    for c, band in enumerate(modality.bands[:3]):
        note = f"{modality.name.capitalize()}, band {band}, of {len(pick)} tiles. {conditions}"
        sample, truth = values.samples[:, pick, c], values.observed[pick, c] if seen else None
        if values.days is not None:
            drawn.append(
                profile_plot(
                    values.days,
                    truth,
                    sample,
                    names=labels,
                    unit=modality.unit,
                    expected=values.expected[pick, c],
                    band=BAND,
                    conditions=note,
                )
            )
            continue
        rows = {"observed": truth} if truth is not None else {}
        rows |= {"median": np.median(sample, axis=0), "expectation": values.expected[pick, c], "spread": sample.std(0)}
        drawn.append(image_plot(rows, names=labels, unit=modality.unit, conditions=note))
    return drawn


def _write(folder: Path, modality: Modality, names: Sequence[str], values: _Values) -> str:
    """``NAME.npz``, and of a series ``NAME.csv``; what was written."""
    low, high = values.band()
    arrays = {"samples": values.samples, "median": values.median, "low": low, "high": high}
    arrays |= {"expected": values.expected, "observed": values.observed}
    about = {"names": names, "bands": modality.bands, "unit": modality.unit}
    if values.days is not None:
        arrays["days"] = values.days
    folder.mkdir(parents=True, exist_ok=True)
    written = f"{modality.name}.npz"
    np.savez_compressed(folder / written, **{k: np.array(v) for k, v in about.items()}, **arrays)
    if values.days is None:
        return written
    with open(folder / f"{modality.name}.csv", "w", newline="") as file:
        table = csv.writer(file)
        columns = ("median", "low", "high", "expected", "observed")
        table.writerow(["tile", "band", "day", *(f"{c} ({modality.unit})" if modality.unit else c for c in columns)])
        for (i, c, t), _ in np.ndenumerate(values.expected):
            numbers = [arrays[column][i, c, t] for column in columns]
            table.writerow(
                [
                    names[i],
                    modality.bands[c],
                    f"{values.days[t]:g}",
                    *("" if np.isnan(v) else f"{v:.6g}" for v in numbers),
                ]
            )
    return f"{written}, {modality.name}.csv"


def _whole(dataset: TileDataset) -> TileBatch:
    return collate([dataset[i] for i in range(len(dataset))], [m.name for m in dataset.modalities])


def _in_words(edit: Mapping[str, Any]) -> str:
    """``{"add": {"terrain": {"elevation": 300}}}`` as "add terrain elevation 300"."""

    def told(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {told(inner)}" for name, inner in value.items())
        return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return told(edit)
