"""What every system trains with: ``fit``, checkpoints, the memory estimate.

Names are imported when they are first used: checkpoints need torch alone, ``fit`` needs Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .checkpoints import Header, load_finetuned, load_model, read_header, save_model
    from .ensemble import Ensemble
    from .finetuning import Finetuning
    from .memory import MemoryEstimate, estimate_memory
    from .probed import Probed
    from .systems import SYSTEMS, System, register
    from .trainer import fit

_MODULES = {
    "checkpoints": ("Header", "load_finetuned", "load_model", "read_header", "save_model"),
    "ensemble": ("Ensemble",),
    "finetuning": ("Finetuning",),
    "memory": ("MemoryEstimate", "estimate_memory"),
    "probed": ("Probed",),
    "systems": ("SYSTEMS", "System", "register"),
    "trainer": ("fit",),
}

__all__ = [
    "SYSTEMS",
    "Ensemble",
    "Finetuning",
    "Header",
    "MemoryEstimate",
    "Probed",
    "System",
    "estimate_memory",
    "fit",
    "load_finetuned",
    "load_model",
    "read_header",
    "register",
    "save_model",
]

__getattr__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
