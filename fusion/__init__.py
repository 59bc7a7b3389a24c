"""eo-fusion: fused kernels for multimodal Earth observation, and a compact package that trains with them."""

from typing import TYPE_CHECKING

from .lazy import lazily

if TYPE_CHECKING:
    from .arrays import load

__version__ = "0.1.0"

__all__ = ["__version__", "load"]

__getattr__ = lazily(__name__, {"load": "arrays"})  # with torch and xarray, when it is used
