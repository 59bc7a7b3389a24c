"""Trained models and data in the forms of other libraries; each is imported only where it is used.

* :mod:`fusion.adapters.sklearn`: a transformer of scikit-learn,
* :mod:`fusion.adapters.torchgeo`: samples of torchgeo as tiles, a model as a backbone,
* :mod:`fusion.adapters.terratorch`: a model in terratorch's registry of backbones.
"""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .backbone import Backbone
    from .sklearn import Embedder
    from .terratorch import register_backbone
    from .torchgeo import TorchgeoTiles

__all__ = ["Backbone", "Embedder", "TorchgeoTiles", "register_backbone"]

__getattr__ = lazily(
    __name__,
    {
        "Backbone": "backbone",
        "Embedder": "sklearn",
        "TorchgeoTiles": "torchgeo",
        "register_backbone": "terratorch",
    },
)
