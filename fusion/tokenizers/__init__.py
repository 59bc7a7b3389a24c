"""Values to tokens and back: what every modality of a tile is tokenized by.

``base.py`` is the interface of all: ``values`` of a batch, ``fit``, ``encode``, ``decode`` and ``expected``.
``registry.py`` lists them by name and lets one add one's own. Bins (``bins.py``) and bins relative to a scale of the
series (``relative.py``) are found from statistics; codes of patches are learned (``image_patches.py`` with
``image_autoencoder.py`` and ``textons.py``; ``series_patches.py`` with ``series_autoencoder.py``).
"""

from .base import ModalityTokenizer, Places
from .calendar import Calendar
from .image_autoencoder import PatchAutoencoder
from .image_patches import LearnedPatchCodec, PatchCodec
from .registry import kinds, make_tokenizer, register_tokenizer
from .series_autoencoder import PatchTokenizer
from .textons import PatchTextons

__all__ = [
    "Calendar",
    "LearnedPatchCodec",
    "ModalityTokenizer",
    "PatchAutoencoder",
    "PatchCodec",
    "PatchTextons",
    "PatchTokenizer",
    "Places",
    "kinds",
    "make_tokenizer",
    "register_tokenizer",
]
