"""A monthly cube embedded densely: what it takes in time and memory, and how that grows with the area."""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....context import ContextFusion
from ....context.samples import ContextSamples
from ....context.two_stage import Recipe, TwoStages, held_out, sensor
from ....data import Cube
from ....data.cubes import observed_statistics
from ....embed import embed_cube, open_embeddings
from ....evaluation import Picture, Section, Table, embedding_plots
from ....workflow.state import State

__all__ = ["dense"]

_MONTH = 31  # days that a sensor's date may be away from the reference's, of monthly composites


def dense(
    state: State,
    *,
    window: int,
    sensors: Mapping[str, Mapping[str, Any]],
    samples: int,
    recipe: Mapping[str, Any],
    fusion: Mapping[str, Any] | None = None,
    block: int = 32,
) -> str:
    """Trains briefly on the monthly cube (nine bands, no labels) and embeds all of it: ``monthly.zarr``, GeoTIFFs."""
    cubes: list[Cube] = state.data["monthly"]
    if not cubes:
        return "no monthly cube (*_monthly_*.npz) in the folder: nothing embedded densely"
    configs = [sensor(observed_statistics(cubes, cubes[0].sensors[n].modality), window, f) for n, f in sensors.items()]
    train, validation = (
        ContextSamples(cubes, configs, stride=5, limit=n, seed=state.seed + k, longest_gap=_MONTH)
        for k, n in enumerate((samples, held_out(samples)))
    )
    stages = TwoStages(
        train, validation, state.out / "monthly-train", Recipe.of(recipe), seed=state.seed, progress=state.progress
    )
    model = stages.train_all(configs, fusion)
    cube, store = cubes[0], state.out / "monthly.zarr"
    growth = _growth(model, cube, block)
    shutil.rmtree(store, ignore_errors=True)  # of an earlier run: what is measured here is making it
    started = time.perf_counter()
    result = embed_cube(model, cube, store, block=block, longest_gap=_MONTH)
    seconds = time.perf_counter() - started
    growth[int(np.prod(cube.shape))] = result.seconds
    exponent = float(np.polyfit(np.log(list(growth)), np.log(list(growth.values())), 1)[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    state.metrics["dense"] = {
        "seconds": seconds,
        "pixels_per_second": result.rate,
        "peak_mib_of_process": peak,
        "threads": torch.get_num_threads(),
        "seconds_by_area": {str(area): s for area, s in growth.items()},
        "exponent_of_area": exponent,
    }
    data = open_embeddings(result.path)
    values = data.embedding.values
    text = (
        f"{result}\nAll of it, rasters included, took {seconds:.1f} s; the process never held more than {peak:.0f} MiB."
    )
    rows = [[area, s, s / area * 1e3] for area, s in growth.items()]
    cost = Table(
        ["pixels of ground", "seconds", "ms a pixel"],
        rows,
        f"What a growing part of the cube costs, without rasters: seconds grow as area to the power of {exponent:.2f}.",
    )
    where = f"Monthly cube of {cube.shape[0]} x {cube.shape[1]} pixels."
    items: list[Picture | Table] = [cost, embedding_plots.pca_maps(values, list(result.dates), where)]
    state.sections.append(Section("A cube embedded densely", text, items))
    size = " x ".join(map(str, result.shape[2:]))
    return (
        f"{result.shape[0]} dates of {size} pixels in {seconds:.1f} s, peak {peak:.0f} MiB, cost ~ area^{exponent:.2f}"
    )


def _growth(model: ContextFusion, cube: Cube, block: int) -> dict[int, float]:
    """Seconds that corners of the cube take, by their pixels; the first one of all only wakes the libraries up."""
    found = {}
    for side in (block, block, 2 * block):
        corner = np.s_[..., slice(0, side), slice(0, side)]
        sensors = {
            name: replace(s, values=s.values[corner], clear=None if s.clear is None else s.clear[corner])
            for name, s in cube.sensors.items()
        }
        with tempfile.TemporaryDirectory() as folder:
            part = Cube(cube.name, sensors, cube.geo)
            result = embed_cube(model, part, Path(folder) / "e.zarr", block=block, longest_gap=_MONTH, rasters=False)
        found[side**2] = result.seconds
    return found
