"""eo-fusion: fused kernels for multimodal Earth observation, and the package that trains and evaluates with them."""

__version__ = "0.1.0"
