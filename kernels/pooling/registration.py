"""Pooling of dates as an operator in torch: schema, backends and autocast. It has no gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..arguments import working_dtype
from ..backends import implement
from ..operators import define, under_autocast
from . import eager, native  # noqa: F401  (native registers its implementation)

__all__ = ["pool"]


def _fake(values: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    query, dtype = args[-3], working_dtype(values)
    tiles, patches, dates, dim = values.shape
    shapes = (tiles, patches, dim), (tiles, patches, dates, query.shape[0])
    pooled, attention = (values.new_empty(shape, dtype=dtype) for shape in shapes)
    return pooled, attention


pool = define(
    "pool_dates(Tensor values, Tensor? bias, Tensor? valid, Tensor? norm_weight, Tensor? norm_bias, int groups, "
    "float eps, Tensor query, Tensor offset, Tensor positions) -> (Tensor, Tensor)",
    fake=_fake,
)
implement("pool_dates", "eager")(eager.pool_dates)
under_autocast(pool, casts=0)  # it computes in float32 whatever the values are
