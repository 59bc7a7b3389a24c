"""Relative-position attention in Triton: ``launch`` starts the kernels."""

from . import launch
from .backward import keys_kernel, queries_kernel
from .blocks import kinds_kernel, order_kernel
from .forward import forward_kernel
from .rows import rows_kernel, table_kernel

__all__ = [
    "forward_kernel",
    "keys_kernel",
    "kinds_kernel",
    "launch",
    "order_kernel",
    "queries_kernel",
    "rows_kernel",
    "table_kernel",
]
