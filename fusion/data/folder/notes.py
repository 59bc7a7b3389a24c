"""What should be known about the scenes of a described folder before anybody trusts them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..spacing import evenly_spaced
from .bands import other_bands
from .layer import Layer
from .opening import Opener
from .pixels import Pixels
from .scene import Scene

__all__ = ["notes_of"]

_SCENES = 50  # of which pixels are looked at; headers of all
_SIDE = 64  # pixels of a central window, where reading costs time


def notes_of(scenes: Sequence[Scene], modalities: Sequence[str], opener: Opener) -> list[str]:
    """One sentence for each thing to know."""
    found = [f"{what}: {files} files warped onto the grid of the tiles" for what, files in opener.aligned.items()]
    found += [
        f"{what}: {files} file(s) of another CRS, origin, pixel size or extent laid onto the pixels of the tiles (the "
        "nearest pixel of each)"
        for what, files in opener.laid.items()
    ]
    found += [*opener.resampled.told(), *opener.absent.told(), *opener.remarks.values()]
    side = opener.description.tile
    small = [scene.name for scene in scenes if min(scene.extent) < side - 1e-6]
    if small:
        found.append(f"{len(small)} of {len(scenes)} scenes are smaller than a tile of {side:g} m, e.g. {small[0]}")
    looked = [scenes[int(i)] for i in evenly_spaced(len(scenes), min(_SCENES, len(scenes)))]
    for name in modalities:
        lacking = [scene.name for scene in scenes if name not in scene.layers]
        if lacking:
            found.append(f"{name}: not in {len(lacking)} of {len(scenes)} scenes, e.g. {lacking[0]}")
        layers = {scene.name: scene.layers[name] for scene in scenes if name in scene.layers}
        found += _both(name, layers) + _types(name, layers)
        for scene in looked:
            if scene.name in layers:
                found += _of_pixels(name, scene.name, layers[scene.name])
    return found


def _both(name: str, layers: dict[str, Layer]) -> list[str]:
    """What the files say and the description overrides, and nodata that the files cannot hold."""
    told: dict[str, str] = {}
    for scene, layer in layers.items():
        source = layer.source
        overriding = {
            "nodata": source.nodata is not None,
            "range": source.range is not None,
            "scale": source.packing is not None,
        }
        for part in layer.pixels.of_files:
            if isinstance(source.bands, tuple) and other_bands(part.band_names, source.bands):
                told.setdefault(
                    "bands",
                    f"{name}: the files name their bands {', '.join(part.band_names)}, e.g. {scene}, and the "
                    f"description {', '.join(source.bands)}: bands go by position",
                )
            for key, said in part.conventions.said().items():
                if overriding[key] and not _agrees(key, layer, part):
                    told.setdefault(
                        key, f"{name}: the files say {said}, e.g. {scene}; {key} of the description replaces it"
                    )
                elif key == "scale":
                    told.setdefault(key, f"{name}: the files say {said}, e.g. {scene}, which is applied")
        impossible = [value for value in source.nodata or () if not _holds(layer.pixels.dtype, value)]
        if impossible:
            told.setdefault(
                "impossible",
                f"{name}: nodata {', '.join(f'{v:g}' for v in impossible)} cannot occur in {layer.pixels.dtype} files",
            )
    return list(told.values())


def _types(name: str, layers: dict[str, Layer]) -> list[str]:
    """Files that differ in integers and fractions, which are mostly of another unit."""
    first: dict[str, str] = {}
    for layer in layers.values():
        for part in layer.pixels.of_files:
            first.setdefault("f" if part.dtype.kind == "f" else "i", f"{part.path.name} {part.dtype}")
    if len(first) < 2:
        return []
    return [f"{name}: files differ in their type of numbers, e.g. {' and '.join(first.values())}: check their units"]


def _agrees(key: str, layer: Layer, part: Pixels) -> bool:
    """Whether the description says the same as the file."""
    ours, theirs = layer.source.override(part.conventions), part.conventions
    if key == "nodata":
        return set(theirs.nodata) <= set(ours.nodata)
    if key == "range":
        return (ours.low, ours.high) == (theirs.low, theirs.high)
    return bool(np.all(ours.scale == theirs.scale) and np.all(ours.offset == theirs.offset)) and layer.offsets is None


def _holds(dtype: np.dtype, value: float) -> bool:
    if dtype.kind not in "iu" or value != value:
        return dtype.kind == "f"
    return float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def _of_pixels(name: str, scene: str, layer: Layer) -> list[str]:
    """Dates without data, and infinite values; of a central window, where the array is not in memory."""
    height, width = layer.pixels.sizes.get("y", 1), layer.pixels.sizes.get("x", 1)
    window = (0, 0, height, width)
    if not layer.pixels.in_memory:
        side = min(_SIDE, height, width)
        window = ((height - side) // 2, (width - side) // 2, side, side)
    empty = infinite = 0
    steps: list[np.ndarray | None] = [np.array([k]) for k in range(len(layer.dates))]
    for step in steps or [None]:
        codes, _ = layer.pixels.codes(step, window, layer.bands)
        infinite += int(np.isinf(codes).sum()) if codes.dtype.kind == "f" else 0
        empty += step is not None and bool(np.isnan(layer.values(step, window)).mean() >= 0.95)
    found = []
    if empty:
        found.append(
            f"{name}: {empty} of {len(layer.dates)} dates of {scene} have no data (95 % or more of the pixels) and are "
            "masked"
        )
    if infinite:
        found.append(
            f"{name}: {infinite} infinite values in {scene} are taken as not observed (the logarithm of 0, or an "
            "overflow)"
        )
    return found
