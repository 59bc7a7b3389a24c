"""3x3 convolutions of many small maps: the blocks of OmniSat's image encoder and decoder."""

from .op import convolution_3x3, convolution_3x3_backward

__all__ = ["convolution_3x3", "convolution_3x3_backward"]
