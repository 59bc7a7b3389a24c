"""A folder of two scenes whose values tell where they are from, and its description."""

from __future__ import annotations

import copy

import h5py
import numpy as np

DATES = ["2020-01-10", "2020-03-01", "2020-06-15", "2021-02-01"]
DAYS = [9, 60, 166, 397]
SIDE = 8  # pixels of 10 m: 4 tiles of 40 m


def arrays(seed=0):
    """s2[t, c, y, x] = 1000 (t + 1) + 100 c + 8 y + x, so that every value tells where it is from."""
    t, c, y, x = np.ogrid[:4, :3, :SIDE, :SIDE]
    return {
        "s2": (1000 * (t + 1) + 100 * c + 8 * y + x + seed).astype(np.uint16),
        "dates": np.array(DATES, dtype="S10"),
        "cloud": np.zeros((4, SIDE, SIDE), dtype=np.uint8),
        "crop": np.repeat(np.repeat([[1, 2], [3, 2]], 4, 0), 4, 1).astype(np.int16),
        "agb": np.arange(64, dtype=np.float32).reshape(8, 8),
    }


DESCRIPTION = {
    "files": "{scene}.npz",
    "tile": 40,
    "patch": 20,
    "modalities": {
        "s2": {"variable": "s2", "bands": ["B02", "B04", "B08"], "resolution": 10, "dates": "dates", "unit": "dn"}
    },
}


def described(**changes):
    """The description with changes, ``s2__nodata=0`` meaning that of the modality."""
    description = copy.deepcopy(DESCRIPTION)
    for key, value in changes.items():
        where, _, inner = key.partition("__")
        if inner:
            description["modalities"][where][inner] = value
        else:
            description[where] = value
    return description


def rewrite(folder, scene="north", **changes):
    kept = {k: v for k, v in (arrays() | changes).items() if v is not None}
    np.savez(folder / f"{scene}.npz", **kept)


def write_hdf5(folder, values):
    with h5py.File(folder / "north.h5", "w") as file:
        for key, value in values.items():
            file[key] = value
        file["group/s2"] = values["s2"]
