"""Dates of patches pooled by attention with learned queries, for encoders that are not being trained."""

from .op import pool_dates

__all__ = ["pool_dates"]
