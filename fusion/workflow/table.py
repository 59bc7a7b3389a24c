"""Finished experiments side by side, by data set, beside what others published.

An experiment's ``row`` says where its scores belong::

    row:
      dataset: TreeSatAI-TS
      modalities: all
      metric: weighted_f1                              # of each line
      lines: {"OmniSat, pretrained": finetune.pretrained}   # method: group and row of metrics.json
      labels: 20                                       # per cent, where the experiment does not say it itself

With several fractions of the labels a row of ``metrics.json`` ends in the percentage (``pretrained_10``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.yaml_loader import load_yaml

__all__ = ["Line", "finished", "markdown", "published"]

_PUBLISHED = Path(__file__).parent.parent / "presets" / "published"
_METRICS = {
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "macro_f1_all": "macro F1 over all classes",
    "miou": "mean IoU",
}


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        scores: per cent, as text, by per cent of the labels.
        origin: the folder of a run of ours, or who published it.
        ours: whether it was run here.
    """

    dataset: str
    metric: str
    modalities: str
    method: str
    scores: Mapping[int, str]
    origin: str
    ours: bool


def finished(folders: Sequence[str | Path]) -> list[Line]:
    """The lines of all finished experiments with a ``row`` in or below the folders.

    Raises:
        ValueError: none there, or a ``metrics.json`` without the scores that its row names.
    """
    paths = sorted({path for folder in folders for path in Path(folder).rglob("metrics.json")})
    read = {path: json.loads(path.read_text()) for path in paths}
    averaged = [path.parent / part for path, metrics in read.items() for part in metrics.get("repeats", ())]
    lines = [
        line
        for path, metrics in read.items()
        if metrics.get("row") and path.parent not in averaged  # a repetition counts in the mean alone
        for line in _lines(path, metrics)
    ]
    if not lines:
        where = ", ".join(map(str, folders))
        raise ValueError(
            f"no finished experiment with a row in a table under {where}; run one, e.g. fusion experiment "
            "omnisat-pastis-all --data DIR"
        )
    return lines


def _lines(path: Path, metrics: Mapping[str, Any]) -> Iterable[Line]:
    row = metrics["row"]
    for method, place in row["lines"].items():
        group, _, name = place.partition(".")
        found = {}
        for key, scores in metrics.get(group, {}).items():
            match = re.fullmatch(rf"{re.escape(name)}(?:_(\d+))?", key)
            if match and isinstance(scores, Mapping) and row["metric"] in scores:
                spread = scores.get(f"{row['metric']}_sd")
                text = f"{100 * scores[row['metric']]:.1f}"
                text += "" if spread is None else f" ± {100 * spread:.1f}"
                found[int(match[1] or row.get("labels", 100))] = text
        if not found:
            raise ValueError(f"{path}: no {row['metric']} of {place}, which its row names; run the experiment again")
        note = f", {row['note']}" if "note" in row else ""
        yield Line(
            row["dataset"], row["metric"], str(row["modalities"]), method, found, f"{path.parent}{note}", ours=True
        )


def published(name: str = "omnisat") -> list[Line]:
    """What others published, as far as it ships with the package."""
    table = load_yaml(_PUBLISHED / f"{name}.yaml")
    return [
        Line(
            part["dataset"],
            part["metric"],
            value["modalities"],
            value["method"],
            {fraction: f"{score:.1f}" for fraction, score in value["labels"].items()},
            table["sources"][value["source"]] + (", from differences given there" if value.get("derived") else ""),
            ours=False,
        )
        for part in table["rows"]
        for value in part["values"]
    ]


def markdown(ours: Sequence[Line], others: Sequence[Line]) -> str:
    """A table for each data set and metric that ours have, ours first; published lines say that they are not ours."""
    tables = []
    for dataset, metric in dict.fromkeys((line.dataset, line.metric) for line in ours):
        lines = [line for line in [*ours, *others] if (line.dataset, line.metric) == (dataset, metric)]
        shares = sorted({share for line in lines for share in line.scores})
        order = list(dict.fromkeys(line.modalities for line in lines))
        heads = ["modalities", "method", *(f"{share} % of labels" for share in shares), "from"]
        rows = [
            [
                line.modalities,
                line.method,
                *(line.scores.get(share, "–") for share in shares),
                f"`{line.origin}`" if line.ours else f"published, not ours: {line.origin}",
            ]
            for line in sorted(lines, key=lambda line: order.index(line.modalities))
        ]
        text = [f"### {dataset}, {_METRICS.get(metric, metric)} in per cent", ""]
        text += [f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows]]
        tables.append("\n".join(text))
    return "\n\n".join(tables) + "\n"
