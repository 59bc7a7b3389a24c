"""System 3: context-aware representation of Sentinel-1, Sentinel-2 and further sensors (Peters et al. 2025)."""

from .config import FusionConfig, SensorConfig, paper_scale
from .fuse import ContextFusion, Fused
from .objective import ContextObjective
from .sensor import SensorAutoencoder

__all__ = [
    "ContextFusion",
    "ContextObjective",
    "Fused",
    "FusionConfig",
    "SensorAutoencoder",
    "SensorConfig",
    "paper_scale",
]
