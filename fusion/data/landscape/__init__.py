"""The built-in synthetic landscape: honest ground truth where there is no data."""

from .scene import Landscape
from .tiles import LandscapeTiles
from .vegetation import CLASSES

__all__ = ["CLASSES", "Landscape", "LandscapeTiles"]
