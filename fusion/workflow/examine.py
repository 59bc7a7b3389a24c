"""Steps that show what a token-fusion model makes of given tiles: generate, ask what if, ask what matters.

The commands ``fusion generate | counterfactual | sensitivity`` are these steps.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from ..data import TileBatch, TileDataset, collate
from ..data.spacing import evenly_spaced
from ..evaluation import Picture, Section, Table
from ..evaluation.profile_scores import score_table
from ..evaluation.profiles import counterfactual_plot, sensitivity_bars, sensitivity_dates
from ..settings import renamed
from ..token_fusion import counterfactual as what_if
from ..token_fusion import sensitivity as gradients
from ..token_fusion.edits import edit_from
from ..token_fusion.generate import require_token_fusion
from ..token_fusion.in_memory import model_batches
from . import generated
from .state import State

__all__ = ["counterfactual", "generate", "sensitivity"]

QUANTITIES = ("mean", "amplitude", "phase")


@renamed(given="conditioning")
def generate(
    state: State,
    *,
    targets: Sequence[str],
    conditioning: Sequence[str] | None = None,
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
        conditioning: what to generate from; everything but the targets by default.
        most: at most so many tiles, evenly spaced.
        how: further arguments of :func:`fusion.token_fusion.generate.generate`.
    """
    fused, part = require_token_fusion(state.model(model)), _some(state.split(tiles), most)
    how = {"seed": state.seed} | how
    found = generated.gather(fused, part, targets, conditioning, samples, how)
    sources = (
        list(conditioning) if conditioning is not None else [m.name for m in part.modalities if m.name not in targets]
    )
    told = []
    for target, values in found.items():
        modality = fused.config.modality(target)
        written = generated.save(state.out, modality, part.names, values)
        scores = generated.score(fused, target, values, state.data.get(train))
        conditions = (
            f"{target.capitalize()} ({', '.join(modality.bands)}) of {len(part)} tiles of split {tiles!r} from "
            f"{', '.join(sources)}; {samples} samples, seed {how['seed']}."
        )
        items: list[Picture | Table] = [score_table(scores, conditions, modality.unit)] if scores else []
        items += generated.draw(modality, part.names, values, conditions)
        title = f"{target.capitalize()} from {', '.join(sources)}"
        state.sections.append(Section(title, f"Values in {modality.unit or 'the unit of the data'}: {written}.", items))
        if scores:
            state.metrics[f"{key}_{target}"] = scores | {"conditions": conditions}
        best = f", RMSE {scores['expectation']['rmse']:.3g} {modality.unit}".rstrip() if scores else ""
        told.append(f"{target} of {len(part)} tiles{best}")
    return "; ".join(told)


@renamed(given="conditioning")
def counterfactual(
    state: State,
    *,
    edit: Mapping[str, Any],
    target: str,
    conditioning: Sequence[str] | None = None,
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
    fused, part = require_token_fusion(state.model(model)), _some(state.split(tiles), most)
    if samples:
        how = {"seed": state.seed} | how
    change_by = edit_from(edit, fused.config.modalities)
    found = what_if.counterfactual(
        fused, _whole(part), change_by, target, conditioning=conditioning, samples=samples, **how
    )
    modality, told = fused.config.modality(target), _in_words(edit)
    kind = f"medians of {samples} samples" if samples else "expectations"
    conditions = f"{len(part)} tiles of split {tiles!r}; {kind} of {target}; edit: {told}."
    rows: dict[str, dict[str, float]] = {}
    items: list[Picture | Table] = []
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
    arrays: dict[str, Any] = {"before": found.before, "after": found.after, "days": found.days}
    np.savez_compressed(state.out / f"{key}.npz", names=np.array(part.names), unit=np.array(modality.unit), **arrays)
    changes = {name: getattr(found.change, name) for name in QUANTITIES}
    with open(state.out / f"{key}.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["tile", "band", *(f"change of {name}" for name in changes)])
        for i, name in enumerate(part.names):
            for c, band in enumerate(modality.bands):
                table.writerow([name, band, *(f"{values[i, c]:.6g}" for values in changes.values())])
    return ", ".join(f"{name} {row['mean']:+.3g}" for name, row in rows.items())


@renamed(given="conditioning")
def sensitivity(
    state: State,
    *,
    target: str | None = None,
    conditioning: Sequence[str] | None = None,
    measure: gradients.Measure = "gradient",
    per: gradients.Per = "token",
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
    if target is not None and head is None:
        answer: str | gradients.Answer = target
        what = f"the expected mean of {target}"
    elif head is not None and target is None:
        answer = gradients.head(head)
        what = "the prediction of the fine-tuned head"
    else:
        raise ValueError("sensitivity: give a target modality, or a fine-tuned model, and not both")
    fused, part = require_token_fusion(state.model(model)), _some(state.split(tiles), most)
    found = gradients.sensitivity(
        fused, model_batches(fused, part), answer, conditioning=conditioning, measure=measure, per=per
    )
    conditions = f"Of {what}, over {len(part)} tiles of split {tiles!r}; measure: {measure} per {per}."
    bands = {f"{name} {band}": share for name, shares in found.band.items() for band, share in shares.items()}
    state.metrics[key] = {name: {"share": share} for name, share in found.modality.items()} | {"conditions": conditions}
    state.metrics[f"{key}_bands"] = {name: {"share": share} for name, share in bands.items()}
    items: list[Picture | Table] = [
        Table(["modality", "share"], [[name, share] for name, share in found.modality.items()], conditions),
        sensitivity_bars(found.modality, found.band, conditions=conditions),
    ]
    arrays: dict[str, Any] = {
        "modality": np.array(list(found.modality)),
        "modality_share": np.array(list(found.modality.values())),
    }
    arrays |= {"band": np.array(list(bands)), "band_share": np.array(list(bands.values())), "token": found.token}
    if found.date:
        items.append(sensitivity_dates(found.date, conditions=conditions))
        for name, (days, shares) in found.date.items():
            arrays |= {f"{name}.days": days, f"{name}.shares": shares}
    state.sections.append(Section(f"What {what.removeprefix('the ')} hangs on", "", items))
    state.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(state.out / f"{key}.npz", **arrays)
    return ", ".join(f"{name} {share:.0%}" for name, share in found.modality.items())


def _some(dataset: TileDataset, most: int | None) -> TileDataset:
    """At most so many tiles, evenly spaced."""
    if most is None or most >= len(dataset):
        return dataset
    if most < 1:
        raise ValueError(f"at least one tile is wanted, not {most}")
    return dataset.subset(evenly_spaced(len(dataset), most))


def _whole(dataset: TileDataset) -> TileBatch:
    return collate([dataset[i] for i in range(len(dataset))], [m.name for m in dataset.modalities])


def _in_words(edit: Mapping[str, Any]) -> str:
    """``{"add": {"terrain": {"elevation": 300}}}`` as "add terrain elevation 300"."""

    def told(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {told(inner)}" for name, inner in value.items())
        return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return told(edit)
