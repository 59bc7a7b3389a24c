from __future__ import annotations

import numpy as np
import pytest

from .described_folder import arrays


@pytest.fixture
def folder(tmp_path):
    for k, scene in enumerate(("north", "south")):
        np.savez(tmp_path / f"{scene}.npz", **arrays(seed=k))
    return tmp_path
