"""eo-fusion: fused kernels for multimodal Earth observation, and a compact package that trains with them."""

__version__ = "0.1.0"
