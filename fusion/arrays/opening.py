"""Arrays opened as a scene: by the code that opens files, with the same checks of place, axes, packing and nodata."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from ..data.files import reading
from ..data.folder import Description, Source
from ..data.folder.containers import Arrays
from ..data.folder.formats import Container, XarrayContainer
from ..data.folder.opening import Opener
from ..data.folder.patterns import File
from ..data.folder.place import locate
from ..data.folder.scene import Scene, open_scene
from .given import Given

__all__ = ["describe", "open_arrays"]


class _InMemory(Arrays):
    """Variables of data sets of xarray, by the name of the modality in the place of a file."""

    def __init__(self, given: Mapping[str, Given]) -> None:
        lazy = any(one.lazy for one in given.values())
        super().__init__(0 if lazy else 1 << 30)  # what Dask has not computed is read by window
        self._datasets = {Path(name): one.dataset for name, one in given.items()}

    def reading(self, path: Path) -> AbstractContextManager[None]:
        """Begins with the file that xarray read it from, where it has kept that, else with the modality."""
        dataset = self._datasets[path]
        sources = (one.encoding.get("source") for one in (dataset, *dataset.data_vars.values()))
        return reading(Path(next(filter(None, sources), path)), chunks=True)

    def container(self, path: Path) -> Container:
        return XarrayContainer(lambda group: self._datasets[path])


def describe(given: Mapping[str, Given], tile: float, patch: float, *, max_cloud: float = 0.5) -> Description:
    """What the arrays are, as a description of files would say it.

    Args:
        tile, patch: sides in metres.
        max_cloud: largest share of missing pixels of a date that is used.
    """
    sources = {name: _source(one, max_cloud) for name, one in given.items()}
    return Description(files="", tile=tile, patch=patch, modalities=sources)


def _source(one: Given, max_cloud: float) -> Source:
    modality, axes = one.modality, one.axes
    variable: tuple[str, ...] | str = one.variables[0]
    if len(one.variables) > 1 or (variable != "values" and "band" not in axes):
        variable = one.variables
    return Source(
        bands=modality.bands,
        variable=variable,
        axes=axes,
        resolution=modality.resolution if "y" in axes else None,
        unit=modality.unit,
        dates=tuple(map(str, one.dates)) or None,
        max_cloud=max_cloud,
    )


def open_arrays(given: Mapping[str, Given], description: Description) -> Scene:
    """The scene that the arrays are.

    Raises:
        ValueError: arrays of different places, pixels of another size than the model's, coordinates that are none; the
            message begins with the modality.
    """
    given = {name: _without_single(one) for name, one in given.items()}
    arrays = _InMemory(given)
    for name, one in given.items():
        if "y" in one.axes:
            _check_pixels(name, one, arrays)
    opener = Opener(Path(), description, arrays)
    return open_scene("arrays", {name: [File(Path(name))] for name in given}, {}, opener)


def _without_single(one: Given) -> Given:
    """Without coordinates that do not tell how large a pixel is."""
    axes = [one.dimension(axis) for axis in ("y", "x") if axis in one.axes]
    alone = any(one.dataset.sizes[axis] < 2 for axis in axes)
    return replace(one, dataset=one.dataset.drop_vars(axes, errors="ignore")) if alone else one


def _check_pixels(name: str, one: Given, arrays: Arrays) -> None:
    """In words of arrays; the reader of files, which would refuse them too, speaks of descriptions."""
    modality, variable = one.modality, arrays.get(Path(name), one.variables[0])
    grid, _ = locate({}, variable, one.axes, arrays, modality.resolution, first=True)
    metres = None if grid is None else grid.metres
    if grid is None or metres is None:
        return
    height = metres * grid.pixel_height / grid.pixel_width
    if max(abs(own / modality.resolution - 1) for own in (metres, height)) > 0.01:
        raise ValueError(
            f"{name}: pixels of {metres:g} x {height:g} m, the model was trained on {modality.resolution:g} m; "
            f"resample the array, e.g. x.rio.reproject(x.rio.crs, resolution={modality.resolution:g})"
        )
