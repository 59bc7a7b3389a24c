"""Looks at a folder or file and writes the YAML that describes it (:mod:`fusion.data.folder` reads it)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazily

if TYPE_CHECKING:
    from .guess import Guess, NotNeededError
    from .looking import describe

__all__ = ["Guess", "NotNeededError", "describe"]

__getattr__ = lazily(__name__, {"Guess": "guess", "NotNeededError": "guess", "describe": "looking"})
