"""Quantization in Triton: ``launch`` has the operators and starts the kernels."""

from . import launch
from .bins import decode_kernel, decode_rows_kernel, encode_kernel, plan_kernel
from .codebook import columns_kernel, split_kernel
from .nearest import nearest_kernel
from .rows import commitment_kernel, rows_backward_kernel, rows_kernel
from .scalars import scalars_backward_kernel, scalars_kernel
from .statistics import add_kernel, finish_kernel, mark_kernel

__all__ = [
    "add_kernel",
    "columns_kernel",
    "commitment_kernel",
    "decode_kernel",
    "decode_rows_kernel",
    "encode_kernel",
    "finish_kernel",
    "launch",
    "mark_kernel",
    "nearest_kernel",
    "plan_kernel",
    "rows_backward_kernel",
    "rows_kernel",
    "scalars_backward_kernel",
    "scalars_kernel",
    "split_kernel",
]
