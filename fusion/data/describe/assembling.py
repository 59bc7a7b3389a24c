"""From modalities and labels to one description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .guess import Guess, Part, Question
from .sides import sides

__all__ = ["assemble"]

_SENSORS = ("s2", "hls", "landsat", "s1")


def assemble(
    folder: Path, parts: Sequence[Part], labels: Mapping[str, Any] | None = None,
    label_comments: Mapping[str, str] | None = None, questions: Sequence[Question] = (),
) -> Guess:  # fmt: skip
    """The description of modalities that lie in one folder.

    Args:
        labels: what stands under ``labels``.
        questions: of what is no modality.
    """
    parts = _distinct(_first_fine(parts))
    asked = list(dict.fromkeys([*(question for part in parts for question in part.questions), *questions]))
    resolutions = [part.source["resolution"] for part in parts if "resolution" in part.source]
    tile, patch, why = sides(resolutions or [10.0], [part.extent for part in parts if part.extent])
    comments: dict[tuple[str, ...], str] = {("tile",): why}
    description: dict[str, Any] = {"files": "", "tile": _plain(tile), "patch": _plain(patch)}
    asked += _scenes(parts, comments)
    align = next((f"{part.name}: {part.align}" for part in parts if part.align), "") or _elsewhere(parts)
    if align:
        description["align"], comments["align",] = True, align
    description["files"] = parts[0].source["files"]
    modalities: dict[str, Any] = {}
    for part in parts:
        modalities[part.name] = part.source
        comments |= {("modalities", part.name, key): said for key, said in part.comments.items()}
    if all(source["files"] == description["files"] for source in modalities.values()):
        shown = comments.get(("modalities", parts[0].name, "files"))
        for name, source in modalities.items():
            if "{date}" not in source["files"]:  # where dates come from the name the pattern stays with them
                source.pop("files")
                comments.pop(("modalities", name, "files"), None)
                if shown:
                    comments["files",] = shown
    description["modalities"] = modalities
    if labels:
        description["labels"] = dict(labels)
        comments |= {("labels", key): said for key, said in (label_comments or {}).items()}
    georeference = next((part.georeference for part in parts if part.georeference), None)
    if georeference:
        description["georeference"] = dict(georeference)
    return Guess(folder, description, comments, tuple(asked))


def _first_fine(parts: Sequence[Part]) -> list[Part]:
    """In the order of a model: series before images before weather, fine optical ones first. The first has the grid."""
    return sorted(parts, key=_rank)


def _rank(part: Part) -> tuple[bool, bool, int, float]:
    sensor = next((k for k, name in enumerate(_SENSORS) if part.name.split("-")[0] == name), len(_SENSORS))
    series = "time" in part.source.get("axes", ["time"])
    return part.extent is None, not series, sensor, part.source.get("resolution", 0)


def _distinct(parts: list[Part]) -> list[Part]:
    """Names that occur once."""
    taken: set[str] = set()
    for part in parts:
        name, number = part.name, 2
        while part.name in taken:
            part.name, number = f"{name}-{number}", number + 1
        taken.add(part.name)
    return parts


def _scenes(parts: Sequence[Part], comments: dict[tuple[str, ...], str]) -> list[Question]:
    """Makes modalities of the same place one scene, and those that some scenes lack optional."""
    named = [part for part in parts if "{scene}" in part.source["files"]]
    scenes = [set(part.scenes) for part in named]
    if len(named) < 2 or all(own == scenes[0] for own in scenes):
        return []
    if all(len(own) == 1 for own in scenes):
        for part in named:  # one place, called otherwise by every sensor
            for table in (part.source, part.source.get("mask") or {}):
                if "files" in table:
                    table["files"] = table["files"].replace("{scene}", "*")
        return []
    every = set().union(*scenes)
    if not set.intersection(*scenes):
        first, second = named[:2]
        return [
            Question(
                f"which scenes of {first.name} and {second.name} are the same place? {first.name} has "
                f"{sorted(first.scenes)[0]} and {second.name} has {sorted(second.scenes)[0]}; rename the files or "
                "describe them apart",
                needed=True,
            )
        ]
    for part, own in zip(named, scenes, strict=True):
        if own != every:
            part.source["optional"] = True
            comments["modalities", part.name, "optional"] = f"{len(every - own)} of {len(every)} scenes lack it"
    return []


def _elsewhere(parts: Sequence[Part]) -> str:
    """Why modalities need warping onto the first; empty if they do not."""
    first = next((part for part in parts if part.place and part.extent), None)
    for part in parts:
        if first is None or part.place is None or part.extent is None or first.place is None or first.extent is None:
            continue
        if set(part.scenes) != set(first.scenes) and "{scene}" in part.source["files"]:
            continue
        if part.place[0] != first.place[0]:
            return f"{part.name} has CRS {part.place[0]}, {first.name} {first.place[0]}"
        if part.place != first.place:
            return f"{part.name} begins at {_pair(part.place[1:])}, {first.name} at {_pair(first.place[1:])}"
        coarse = max(part.source.get("resolution", 0), first.source.get("resolution", 0))
        if any(abs(own - other) >= coarse for own, other in zip(part.extent, first.extent, strict=True)):
            return f"{part.name} covers {_pair(part.extent)} m, {first.name} {_pair(first.extent)} m"
    return ""


def _pair(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.10g}" for number in numbers)


def _plain(number: float) -> Any:
    number = round(number, 4)
    return int(number) if float(number).is_integer() else number
