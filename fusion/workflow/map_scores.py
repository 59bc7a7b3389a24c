"""What the run of a fine-tuned model knows of how right its predictions are, and that in plain words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..evaluation.areas import AreaAccuracy, area_accuracy
from ..evaluation.chance import Chance, chance_scores
from .cautions import METRICS, shown_metric
from .map_layers import MapFile

__all__ = ["RunScores", "areas_of", "headline", "probe_metrics", "run_scores"]

Counted = Literal["tiles", "pixels"]


@dataclass(frozen=True)
class RunScores:
    """The scores of one fine-tuned model on tiles that it has not seen.

    Attributes:
        path: the ``metrics.json`` they come from.
        row: metrics by name, with ``intervals`` and so on.
        counts: (K, K) with the reference in rows, or (K, 2, 2); None of quantities and where they were not kept.
        classes: K names.
        counted: what ``counts`` are of.
        conditions: how they were made.
        groups: all that the file holds.
        targets: how many quantities.
        note: what differs between the map and what was scored; empty if nothing does.
    """

    path: Path
    row: Mapping[str, Any]
    counts: np.ndarray | None
    classes: tuple[str, ...]
    counted: Counted
    conditions: str
    groups: Mapping[str, Any] = field(default_factory=dict)
    targets: int = 1
    note: str = ""

    @property
    def chance(self) -> Chance:
        reached = {name: value for name, value in self.row.items() if isinstance(value, int | float)}
        if self.counts is None and "r2" not in reached:
            return Chance({}, "")
        return chance_scores(self.counts, self.classes, reached, self.targets)

    @property
    def confusion(self) -> dict[str, Any] | None:
        """As in ``metrics.json``, of the run that made the map."""
        return None if self.counts is None else {"classes": self.classes, "counts": self.counts}

    def ends(self, metric: str) -> tuple[float, float] | None:
        """Of the interval of a metric."""
        found = self.row.get("intervals", {}).get(metric)
        return None if found is None else (float(found[0]), float(found[1]))


def run_scores(run: Path, known: MapFile) -> RunScores | None:
    """Finds the scores of a run: those of ``fusion finetune`` in its folder or the one above it, else those of ``fusion
    evaluate`` in its folder; None where there are none.

    Args:
        run: run folder or checkpoint of a fine-tuned model.
        known: the map, which says what modalities it was made of.
    """
    folder = run if run.is_dir() else run.parent
    used = re.findall(r"([^\s,]+) \(", known.tags.get("FUSION_MODALITIES", ""))
    for path, key, name, draw in _candidates(folder):
        groups = _read(path)
        group = groups.get(key)
        if not isinstance(group, Mapping):
            continue
        alone = name.removesuffix("all") if key == "evaluate" else f"{name}_"
        singles = [n for n in group if n != name and n.startswith(alone) and isinstance(group[n], Mapping)]
        row, note = group.get(name), ""
        if len(used) == 1 and f"{alone}{used[0]}" in group:
            row = group[f"{alone}{used[0]}"]
        elif used and len(used) < len(singles):
            note = f"The scores are of all modalities together, the map is of {', '.join(used)} alone."
        if shown_metric(row) is None or row is None:
            continue
        confusion, conditions = row.get("confusion", {}), str(group.get("conditions", ""))
        draws = confusion.get("draws", [confusion["counts"]] if "counts" in confusion else [])
        counts = np.asarray(draws[draw if draw < len(draws) else 0]) if draws else None
        counted = confusion.get("counted", "pixels" if "the pixels of the" in conditions else "tiles")
        named, targets = tuple(confusion.get("classes", ())), len(known.names)
        return RunScores(path, row, counts, named, counted, conditions, groups, targets, note)
    return None


def probe_metrics(run: Path, known: MapFile) -> Mapping[str, Any]:
    """What ``fusion probe`` has found with the same labels of the encoder that the run began with, where both lie in
    the folder of the encoder, as they do by default; else nothing."""
    folder = (run if run.is_dir() else run.parent).resolve()
    for place in [folder, *folder.parents][:3]:
        groups = _read(place / "probe" / "metrics.json") if (place / "metrics.csv").is_file() else {}
        if groups:
            return {name: group for name, group in groups.items() if _of_labels(group, known)}
    return {}


def _of_labels(group: Any, known: MapFile) -> bool:
    """Whether scores are of the classes of a map, or of a quantity as it is one."""
    row = group.get("pretrained", {}) if isinstance(group, Mapping) else {}
    if known.task == "regression":
        return "r2" in row
    return tuple(row.get("confusion", {}).get("classes", ())) == known.names


def areas_of(scores: RunScores, known: MapFile) -> AreaAccuracy | None:
    """Accuracy by mapped area and areas on the ground, in the unit of the map's areas; None where the test labels and
    the map do not belong together.
    """
    if scores.counts is None or scores.counts.ndim != 2 or not scores.counts.any() or not sum(known.areas) > 0:
        return None
    if scores.classes != known.names:
        return None
    try:
        return area_accuracy(scores.counts.T, known.areas, known.names)
    except ValueError:  # test labels that are mapped as a class of which this map has no area
        return None


def headline(known: MapFile, scores: RunScores | None, areas: AreaAccuracy | None) -> str:
    """The result in one or two sentences without names of code."""
    what = _named(known)
    if scores is None:
        return (
            f"A map of {what}. How right it is, nothing is known: no scores of this model on labelled tiles lie in its "
            "run folder. The command `fusion evaluate` makes them."
        )
    begin = f"Predicts {what} on ground it has not seen: "
    metric = shown_metric(scores.row)
    if "r2" in scores.row:
        unit = f" {known.unit}" if known.unit else ""
        text = f"{begin}within {scores.row['mae']:.3g}{unit} on average (mean absolute error), R² "
        text += f"{scores.row['r2']:.2f}{_between(scores.ends('r2'))}; always saying the mean has R² 0."
    elif areas is not None and not np.isnan(areas.overall.value):
        own = areas.overall
        text = f"{begin}{100 * own.value:.0f} % of the area right"
        # Pixels beside each other are no observations of their own: of them the formula's interval is too narrow.
        if scores.counted == "tiles" and not np.isnan(own.half_width):
            text += f", 95 % interval {100 * own.low:.0f} to {100 * own.high:.0f} %"
        text += _against(scores)
    elif "accuracy" in scores.row:
        ends = scores.ends("accuracy")
        told = "" if ends is None else f", 95 % interval {100 * ends[0]:.0f} to {100 * ends[1]:.0f} %"
        text = f"{begin}{100 * scores.row['accuracy']:.0f} % of the test {scores.counted} right{told}{_against(scores)}"
    else:
        assert metric is not None  # of every row that was found
        chance = scores.chance.scores.get(metric)
        against = "" if chance is None else f"; without any knowledge {chance:.2f}"
        text = f"{begin}{METRICS[metric]} {scores.row[metric]:.2f}{_between(scores.ends(metric))}{against}."
    covered = scores.row.get("interval_coverage")
    if known.level and isinstance(covered, int | float):
        text += f" The {100 * known.level:g} % interval held the truth in {100 * covered:.0f} % of test "
        text += f"{scores.counted}."
    return text


def _candidates(folder: Path) -> Iterator[tuple[Path, str, str, int]]:
    """Where scores may lie: file, group, row, and which draw of the labels."""
    inner = [child for child in sorted(folder.iterdir()) if _run_name(child)] if folder.is_dir() else []
    own = folder if _run_name(folder) else inner[0] if len(inner) == 1 else None
    if own is not None and (parts := _run_name(own)):
        start, fraction, seed = parts
        above = own.parent
        seeds = sorted(int(p[2]) for c in above.iterdir() if (p := _run_name(c)) and p[:2] == parts[:2])
        for path, key in ((above, "finetune"), (above, above.name), (above.parent, above.name)):
            for name in (start, f"{start}_{100 * float(fraction):g}"):
                yield path / "metrics.json", key, name, seeds.index(int(seed))
    for place in dict.fromkeys((folder, own or folder)):
        yield place / "evaluate" / "metrics.json", "evaluate", "all", 0


def _run_name(folder: Path) -> tuple[str, str, str] | None:
    """Start, fraction of the labels and seed of a run that was fine-tuned."""
    found = re.fullmatch(r"(pretrained|frozen|scratch)-([\d.e-]+)-(\d+)", folder.resolve().name)
    return None if found is None else (found[1], found[2], found[3])


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}; move it away, or score the model anew") from error
    return found if isinstance(found, Mapping) else {}


def _named(known: MapFile) -> str:
    names = known.names
    if known.task == "regression":
        return " and ".join(names) if len(names) < 3 else f"{len(names)} quantities"
    if len(names) <= 3:
        return _listed(names)
    return f"{len(names)} classes ({', '.join(names[:3])}, ...)"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _between(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f" (95 % interval {ends[0]:.2f} to {ends[1]:.2f})"


def _against(scores: RunScores) -> str:
    chance = scores.chance
    if "accuracy" not in chance.scores:
        return "."
    said = chance.told.removeprefix("always ").split(", ")[0]
    share = 100 * chance.scores["accuracy"]
    return f". Always saying {said} would be right for {share:.0f} % of the test {scores.counted}."
