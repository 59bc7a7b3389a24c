"""Settings that are one for all modalities, or a mapping by modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["of_modality"]


def of_modality(given: Any, name: str) -> Any:
    """What is given for a modality; None where a mapping has nothing for it."""
    return given.get(name) if isinstance(given, Mapping) else given
