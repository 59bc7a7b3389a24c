"""The page beside a predicted map: the map itself, how right it is, and how much of what there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import TileDataset
from ..evaluation import AreaAccuracy, Section, Table, write_report
from ..evaluation.composite import label_classes, label_values, photograph, visible_bands
from ..evaluation.viewer import ClassLayer, Ground, Layer, QuantityLayer, Viewer
from .cautions import METRICS, few_labels, lost_pretraining
from .map_layers import MapFile, map_file, map_layers
from .map_scores import RunScores, areas_of, headline, probe_metrics, run_scores

__all__ = ["write_map_report"]

_PHOTO = 1024  # pixels on either side of the image below a map of fewer pixels


def write_map_report(
    map_path: Path | str,
    dataset: TileDataset | None = None,
    run: Path | str | None = None,
    *,
    labelled: TileDataset | None = None,
    out: Path | str | None = None,
) -> Path:
    """Writes a page that shows a map and says how right it is; it needs no other file and no network.

    Args:
        map_path: the GeoTIFF that :func:`fusion.embed.predict_map` wrote; probabilities and entropy are taken from the
            files beside it.
        dataset: the tiles that were mapped, for their image.
        run: run folder or checkpoint of the model, whose ``metrics.json`` tells the scores.
        labelled: tiles with labels on the same ground; ``dataset`` by default, if it has some.
        out: the page; the map's path with ``.html`` by default.

    Raises:
        ValueError: no map that ``fusion predict`` has written.
        RuntimeError: the page cannot be written; one that was there is untouched.
    """
    known = map_file(Path(map_path))
    scores = None if run is None else run_scores(Path(run), known)
    areas = None if scores is None else areas_of(scores, known)
    labelled = dataset if labelled is None and dataset is not None and dataset.task is not None else labelled
    sections = [_map_section(known, dataset, labelled), _scores_section(known, scores)]
    if known.areas:
        sections.append(_areas_section(known, scores, areas))
    if scores is not None and scores.counts is not None and scores.counts.ndim == 2:
        sections.append(_confusion_section(scores))
    warnings = _warnings(known, scores, run)
    target = Path(out) if out is not None else known.path.with_suffix(".html")
    title = f"Map of {', '.join(known.names) if known.task == 'regression' else f'{len(known.names)} classes'}"
    return write_report(
        target,
        f"{title}: {known.path.stem}",
        sections,
        summary=headline(known, scores, areas),
        warnings=warnings,
        conditions=_conditions(known, scores, run),
    )


def _map_section(known: MapFile, dataset: TileDataset | None, labelled: TileDataset | None) -> Section:
    layers = map_layers(known)
    if labelled is not None and (truth := _labels(known, labelled, layers[0])) is not None:
        layers.append(truth)
    text = "Choose a layer; compare it with the image below it by the slider; point at the map for what is there."
    if dataset is not None:
        photo = photograph(dataset, known.ground.finer(_detail(dataset, known.ground)))
        if photo is not None:
            layers.append(photo)
    rows, columns = known.ground.shape
    caption = f"{known.path.name}: {columns:,} x {rows:,} pixels are shown"
    with_all = _whole_size(known)
    caption += "." if with_all == (rows, columns) else f" of {with_all[1]:,} x {with_all[0]:,}; the file has them all."
    return Section("The map", text, [Viewer(known.ground, layers, caption)])


def _labels(known: MapFile, labelled: TileDataset, first: Layer) -> Layer | None:
    if known.task == "multiclass" and labelled.task == "multiclass":
        found = label_classes(labelled, known.ground, known.names)
        if found is None or (found[0] == 255).all():
            return None
        return ClassLayer("Labels", found[0], known.names, known.colours, note=found[1])
    same = known.task == labelled.task == "regression" and known.names[0] in labelled.classes
    if same and isinstance(first, QuantityLayer):
        measured = label_values(labelled, known.ground, labelled.classes.index(known.names[0]))
        if measured is None or not np.isfinite(measured[0]).any():
            return None
        return QuantityLayer("Labels", measured[0], known.unit, first.range(), note=measured[1])
    return None


def _detail(dataset: TileDataset, ground: Ground) -> int:
    """How many times finer than the map the image is shown: no finer than it is, and than a screen."""
    if ground.metres is None:
        return 1
    resolution = visible_bands(dataset.modalities).modality.resolution
    return max(1, min(round(min(ground.metres) / resolution), _PHOTO // max(ground.shape)))


def _whole_size(known: MapFile) -> tuple[int, int]:
    import rasterio

    with rasterio.open(known.path) as file:
        return int(file.height), int(file.width)


def _scores_section(known: MapFile, scores: RunScores | None) -> Section:
    title = "How right it is"
    if scores is None:
        return Section(
            title,
            "Nothing is known about how right this map is: no scores of this model were found in its run folder. "
            "`fusion evaluate RUN --data DATA` scores it on tiles with labels that it was not trained on, and writes "
            "them there; then make the map again.",
        )
    chance = scores.chance
    rows: list[list[Any]] = []
    for metric, told in METRICS.items():
        if metric not in scores.row or (metric == "micro_f1" and "accuracy" in scores.row):
            continue
        ends = scores.ends(metric)
        between = "–" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
        unit = f" ({known.unit})" if known.unit and metric in ("rmse", "mae") else ""
        rows.append([told + unit, float(scores.row[metric]), between, chance.scores.get(metric, float("nan"))])
    caption = f"Chance level: {chance.told}." if chance.told else ""
    table = Table(["score on the test tiles", "value", "95 % interval", "chance level"], rows, caption)
    text = "\n\n".join(part for part in (_test_set(scores), scores.conditions, scores.note) if part)
    return Section(title, text, [table])


def _test_set(scores: RunScores) -> str:
    if scores.counts is None:
        return ""
    counted = int(scores.counts.sum() if scores.counts.ndim == 2 else scores.counts[0].sum())
    return (
        f"Scored on {counted:,} labelled test {scores.counted}. {few_labels(scores.confusion, scores.counted)}".strip()
    )


def _areas_section(known: MapFile, scores: RunScores | None, areas: AreaAccuracy | None) -> Section:
    title = "How much there is of each class"
    unit, total = known.area_unit, sum(known.areas)
    if areas is None:
        rows = [[n, f"{a:,.1f}", f"{100 * a / total:.1f} %"] for n, a in zip(known.names, known.areas, strict=True)]
        text = "Areas as they are mapped. "
        if scores is None:
            text += "A map that confuses classes over- or underestimates them; by how much, test labels would tell."
        else:
            text += "They cannot be corrected by the test labels, whose classes are not those of this map."
        return Section(title, text, [Table(["class", f"mapped area ({unit})", "share of the map"], rows)])
    rows = [
        [name, f"{known.areas[k]:,.1f}", *_estimate(areas.areas[k]), *_shares(areas, k)]
        for k, name in enumerate(known.names)
    ]
    columns = ["class", f"mapped area ({unit})", f"estimated area ({unit})", f"standard error ({unit})"]
    columns += ["of what is mapped so, right", "of what is there, mapped so"]
    text = (
        "The mapped area counts pixels. The estimated area corrects it by what the test labels say the map confuses, "
        "with its standard error (Olofsson et al. 2014).\n\nThe estimate needs the test labels to be a random sample "
        "of the mapped area. If they are not, for example because they lie in one region, on large fields or where "
        "somebody could go, the estimated areas and their errors hold for ground like that of the labels, and may be "
        "wrong for the map."
    )
    if scores is not None and scores.counted == "pixels":
        text += (
            "\n\nEach test pixel is counted as an observation of its own here; neighbouring pixels are alike, so the "
            "standard errors are too small."
        )
    elif scores is not None and "blocks of ground" in scores.conditions:
        text += (
            "\n\nEach test tile is counted as an observation of its own here; the test tiles lie together in blocks of "
            "ground, so the standard errors are rather too small."
        )
    notes = " ".join(areas.notes)
    return Section(title, text, [Table(columns, rows, notes)])


def _estimate(estimate: Any) -> list[str]:
    return ["–" if np.isnan(v) else f"{v:,.1f}" for v in (estimate.value, estimate.standard_error)]


def _shares(areas: AreaAccuracy, k: int) -> list[str]:
    shares = areas.users[k].value, areas.producers[k].value
    return ["–" if np.isnan(share) else f"{100 * share:.0f} %" for share in shares]


def _confusion_section(scores: RunScores) -> Section:
    counts = scores.counts
    assert counts is not None  # asked before
    rows = [
        [name, *(int(n) for n in row), f"{100 * row[k] / row.sum():.0f} %" if row.sum() else "–"]
        for k, (name, row) in enumerate(zip(scores.classes, counts, strict=True))
    ]
    caption = f"Test {scores.counted}: a row is what was labelled so, a column what the model said."
    return Section("What it confuses", "", [Table(["labelled as", *scores.classes, "right"], rows, caption)])


def _warnings(known: MapFile, scores: RunScores | None, run: Path | str | None) -> Sequence[str]:
    found = [] if scores is None else lost_pretraining(scores.groups)
    if run is not None:
        found += lost_pretraining(probe_metrics(Path(run), known))
    return list(dict.fromkeys(found))


def _conditions(known: MapFile, scores: RunScores | None, run: Path | str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"Map": known.path.name}
    if run is not None:
        told["Model"] = f"{run} ({known.tags.get('FUSION_MODEL', 'unknown')})"
    for name, tag in (("System", "FUSION_SYSTEM"), ("Seen", "FUSION_MODALITIES"), ("Version", "FUSION_VERSION")):
        if tag in known.tags:
            told[name] = known.tags[tag]
    if scores is not None:
        told["Scores from"] = str(scores.path)
    return told
