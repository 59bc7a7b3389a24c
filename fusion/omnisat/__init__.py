"""OmniSat: self-supervised fusion of the modalities of a place (Astruc et al., ECCV 2024, arXiv 2404.08351).

Read in this order: ``image.py`` and ``series.py`` turn patches into tokens and back, ``combiner.py`` joins the
tokens of all modalities, ``model.py`` puts them together, ``objectives.py`` (the paper's) and
``masked_dates.py`` (ours) say what is learned and ``module.py`` how.
"""

from ..lazy import lazily
from .config import OmniSatConfig
from .masked_dates import MaskedDatesObjective
from .model import Encoding, OmniSat
from .objectives import PretrainingObjective

__all__ = [
    "Encoding",
    "MaskedDatesObjective",
    "OmniSat",
    "OmniSatConfig",
    "OmniSatPretraining",
    "PretrainingObjective",
]

# Lightning takes seconds to import; the model does without.
__getattr__ = lazily(__name__, {"OmniSatPretraining": "module"})
