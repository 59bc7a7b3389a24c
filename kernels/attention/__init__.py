"""Attention with a learned relative-position bias: the public function, its module and the iRPE bucket table."""

from .euclidean import euclidean_buckets
from .module import RelativeAttention
from .op import relative_attention

__all__ = ["RelativeAttention", "euclidean_buckets", "relative_attention"]
