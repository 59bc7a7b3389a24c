"""Parts of the year: what every pooling, control and view by season cuts dates by."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

__all__ = ["YEAR", "part_of_year"]

YEAR = 365.25  # days

Days = TypeVar("Days", np.ndarray, Tensor)


def part_of_year(days: Days, parts: int) -> Days:
    """Which of ``parts`` equal parts of the year whole days since a 1 January lie in, from 0, in whatever year; as
    floats, NaN of NaN."""
    return days % YEAR * parts // YEAR
