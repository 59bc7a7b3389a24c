"""The labels of all tiles, whatever the description says they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .drawing import draw
from .features import read_features
from .labels import Labelled, label_blocks, reduce_map
from .opening import Opener
from .placed import TableLabels, VectorLabels
from .scene import Scene
from .values import valued
from .years import other_years

__all__ = ["Labelled", "label_tiles"]


def label_tiles(scenes: Sequence[Scene], opener: Opener) -> Labelled | None:
    """Labels of the tiles of all scenes; None where the description has none. What is to be known of them goes to the
    remarks of the opener.

    Raises:
        ValueError: labels that cannot be used, or none of the tiles has one.
    """
    labels = opener.description.labels
    if labels is None:
        return None
    if isinstance(labels, VectorLabels | TableLabels):
        features = read_features(labels, opener.folder)
        found = draw(labels, valued(labels, features), scenes, opener.description)
        opener.remarks.update(features.remarks)
        apart = other_years(labels.file, features.years, scenes)
        if apart:
            opener.remarks["years"] = apart
        return found
    values, enough = reduce_map(labels, label_blocks(labels, scenes, opener))
    if not enough.any():
        raise ValueError(
            f"{opener.folder}: none of {len(enough)} tiles has {labels.min_labelled:.0%} labelled pixels; check "
            "classes, nodata and min_labelled of the labels"
        )
    return Labelled(labels, values[enough], enough, np.empty((2, 0), dtype=np.int64))
