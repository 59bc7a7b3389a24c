"""Maps of the patches: colours over time, similarity, seasons."""

from __future__ import annotations

from typing import cast

import numpy as np

from ....context import ContextFusion
from ....data import Cube
from ....data.spacing import evenly_spaced
from ....embed.dense import BlockEncoder
from ....evaluation import Section, embedding_plots
from ....workflow.state import State

__all__ = ["maps"]


def maps(state: State, *, patch: int = 1, dates: int = 24) -> str:
    """Colours over time, similarity to one pixel, the season of single pixels, of one patch."""
    cube: Cube = state.data["all"][min(patch, len(state.data["all"]) - 1)]
    model = cast(ContextFusion, state.model("pretrained"))
    labels, classes = state.data["labels"]["crop type"]
    usable = np.flatnonzero(cube.sensors["s2"].observed_share() > 0.9)
    chosen = usable[evenly_spaced(len(usable), dates)]
    encoder = BlockEncoder(model, cube, dates=chosen)
    embedding = encoder(*cube.whole)
    iso = encoder.dates.astype(str).tolist()
    where = f"Patch {cube.name}, test stripes included."
    pixels = {}
    for k, name in enumerate(classes):
        found = np.argwhere(labels[cube.name] == k)
        if len(found):
            pixels[name] = tuple(found[len(found) // 2])
    middle = len(iso) // 2
    items = [
        embedding_plots.pca_maps(embedding, iso, where),
        embedding_plots.similarity(embedding[middle], next(iter(pixels.values())), iso[middle], where),
        embedding_plots.seasonal_curves(embedding, encoder.dates, pixels, where),
    ]
    state.sections.append(Section("What the embeddings look like", "", items))
    return f"{len(iso)} dates of patch {cube.name}"
