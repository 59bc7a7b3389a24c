"""Relative-position attention in Triton: ``launch`` starts the kernels of ``forward`` and ``backward``."""

from . import launch
from .backward import keys_kernel, queries_kernel, rows_kernel
from .forward import forward_kernel
from .primitives import block_kernel

__all__ = ["block_kernel", "forward_kernel", "keys_kernel", "launch", "queries_kernel", "rows_kernel"]
