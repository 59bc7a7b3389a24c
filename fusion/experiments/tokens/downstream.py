"""What the joint representation is worth with few labels, against training from scratch and single modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...data import TileDataset
from ...data import fraction as draw_labels
from ...evaluation import (
    Features,
    Picture,
    ProbeResult,
    Row,
    Section,
    Spread,
    Table,
    forest_probe,
    linear_probe,
    raw_statistics,
    score,
)
from ...evaluation.plots import COLOURS, observed_predicted, panels, picture
from ...settings import renamed
from ...token_fusion.generate import require_token_fusion
from ...token_fusion.heads import Tuning, regress, representation
from ...token_fusion.in_memory import tokenize
from ...token_fusion.pooling import Pooled
from ...training.systems import reinitialised
from ...workflow import scores
from ...workflow.kept import keep
from ...workflow.state import State

__all__ = ["downstream"]


@renamed(share="fraction")
def downstream(
    state: State,
    *,
    key: str = "downstream",
    model: str = "pretrained",
    modalities: Sequence[str] | None = None,
    fraction: float = 0.1,
    draws: int = 5,
    pooled: Pooled = "summary",
    tuning: Mapping[str, Any] | None = None,
    scratch: Mapping[str, Any] | None = None,
    labelled: str = "train",
    test: str = "test",
) -> str:
    """Regression of the tiles' target with a ``fraction`` of the labels, drawn ``draws`` times, scored on ``test``.

    Scores go to ``<key>.<row>.r2`` and so on: ``joint``, the pretrained model fine-tuned on all modalities;
    ``task_specific``, the same architecture and tokenizers, trained from scratch on the same labels;
    ``single_<modality>``, the pretrained model fine-tuned on one, and ``best_single``, the best of them on ``test``;
    ``probe``, a ridge regression on the frozen model; ``raw_ridge`` and ``raw_forest`` on band statistics; ``mean``,
    the mean of the labels. Later steps know the first fine-tuned module as ``<key>``.

    Args:
        modalities: those used; all that the model has by default.
        pooled: what ``probe`` sees of the frozen model, see :class:`~fusion.token_fusion.pooling.TokenFeatures`.
        tuning: fields of :class:`~fusion.token_fusion.heads.Tuning`; ``scratch`` what differs for the
            models trained from scratch, which may want longer.
    """
    fused = require_token_fusion(state.model(model))
    names = list(modalities or [m.name for m in fused.config.modalities])
    known, unseen = (state.split(split).with_modalities(names) for split in (labelled, test))
    seen, hidden = tokenize(fused, known), tokenize(fused, unseen)
    frozen = [
        _features(representation(fused, tokens, pooled), part) for tokens, part in ((seen, known), (hidden, unseen))
    ]
    raw = [raw_statistics(part, seasons=12) for part in (known, unseen)]
    target, truth = known.labels().numpy(), unseen.labels().numpy()
    recipe = dict(tuning or {})
    named: scores.Named = {}

    def add(row: str, seed: int, guess: np.ndarray, parts: Sequence[str] = ()) -> None:
        guess = guess.reshape(truth.shape)
        result = ProbeResult("finetune", score("regression", truth, guess), {}, truth, guess, len(few))
        named.setdefault(row, []).append(Row(row, tuple(parts), fraction, seed, result))

    for seed in range(state.seed, state.seed + draws):
        few = draw_labels(known, fraction, seed)
        tokens, own = seen.rows(torch.tensor(few)), target[few, 0]
        joint = regress(fused, tokens, own, Tuning(seed=seed, **recipe))
        state.models.setdefault(key, joint)
        add("joint", seed, joint.predict(hidden), names)
        torch.manual_seed(seed)
        fresh = regress(
            require_token_fusion(reinitialised(fused)), tokens, own, Tuning(seed=seed, **recipe | dict(scratch or {}))
        )
        add("task_specific", seed, fresh.predict(hidden), names)
        for name in names if len(names) > 1 else []:
            single = regress(fused, tokens.select([name]), own, Tuning(seed=seed, **recipe))
            add(f"single_{name}", seed, single.predict(hidden.select([name])), [name])
        for row, probe, (features, others) in (
            ("probe", linear_probe, frozen),
            ("raw_ridge", linear_probe, raw),
            ("raw_forest", forest_probe, raw),
        ):
            result = probe(features.subset(few), others, seed=seed)
            named.setdefault(row, []).append(Row(row, tuple(names), fraction, seed, result))
        add("mean", seed, np.full(truth.shape, own.mean()))

    found = scores.as_metrics(named)
    singles = [row for row in named if row.startswith("single_")]
    if singles:
        best = max(singles, key=lambda row: found[row]["r2"])
        found["best_single"] = found[best] | {"modality": best.removeprefix("single_")}
    conditions = scores.conditions(state, named["joint"], draws, labelled, test)
    state.metrics[key] = found | {"conditions": conditions}
    keep(state, key, named, unseen)
    first, name = named["joint"][0].result, unseen.classes[0]
    items: list[Picture | Table] = [
        scores.table(named, conditions),
        _bars(named, conditions),
        observed_predicted(first.target, first.prediction, name, conditions=f"joint, first draw. {conditions}"),
    ]
    text = (
        f"The target is {name}. Joint and task-specific fusion are one architecture with the same tokenizers: one "
        "starts from masked prediction of all modalities without labels, the other from random weights. Which single "
        "modality is the best was seen on the test tiles, in its favour."
    )
    state.sections.append(Section(f"{name.capitalize()} from {fraction:.0%} of the labels", text, items))
    return scores.summary(named, "r2")


def _features(x: np.ndarray, part: TileDataset) -> Features:
    return Features(x, part.labels().numpy(), tuple(part.names), part.task, part.classes)


def _bars(named: scores.Named, conditions: str) -> Picture:
    """R2 of every row, with its standard deviation over draws."""
    spreads = {name: Spread.of([row.result.scores["r2"] for row in rows]) for name, rows in named.items()}
    figure, (panel,) = panels(1, width=7, height=0.6 + 0.28 * len(spreads))
    colours = [
        COLOURS[0] if name == "joint" else COLOURS[1] if name == "task_specific" else "#999999" for name in spreads
    ]
    places = range(len(spreads))[::-1]
    panel.barh(
        places,
        [max(0.0, s.mean) for s in spreads.values()],
        xerr=[s.sd for s in spreads.values()],
        color=colours,
        error_kw={"linewidth": 1},
    )
    panel.set_yticks(places, list(spreads), fontsize=8)
    panel.set(xlabel="R² on unseen tiles", xlim=(0, 1))
    panel.grid(axis="x", alpha=0.25, linewidth=0.6)
    return picture(figure, f"R² with few labels; bars end at 0 where it is negative. {conditions}")
