"""Supervised models that papers compare with, each trained on labels from fresh weights.

Read in this order: ``config.py`` says what each is made of, ``base.py`` what a batch is to them; ``pixel_set.py`` is
PSE + L-TAE, ``utae.py`` the U-TAE, ``image.py`` a network for images, ``resnet.py`` and ``vit.py`` its backbones;
``maps.py`` is what the models that make maps of a tile have in common.
"""

from .config import BaselineConfig, ImageConfig, PseLtaeConfig, UtaeConfig
from .image import ImageModel
from .pixel_set import PseLtae
from .utae import Utae

__all__ = ["BaselineConfig", "ImageConfig", "ImageModel", "PseLtae", "PseLtaeConfig", "Utae", "UtaeConfig"]
