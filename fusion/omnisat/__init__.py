"""OmniSat: self-supervised fusion of the modalities of a place (Astruc et al., ECCV 2024, arXiv 2404.08351).

Read in this order: ``image.py`` and ``series.py`` turn patches into tokens and back, ``combiner.py`` joins the
tokens of all modalities, ``model.py`` puts them together, ``objectives.py`` says what is learned and
``module.py`` how.
"""

from .config import OmniSatConfig
from .model import Encoding, OmniSat
from .objectives import PretrainingObjective

__all__ = [
    "Encoding",
    "OmniSat",
    "OmniSatConfig",
    "OmniSatPretraining",
    "PretrainingObjective",
]


def __getattr__(name: str):  # Lightning takes seconds to import; the model does without
    if name == "OmniSatPretraining":
        from . import module

        return module.OmniSatPretraining
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
