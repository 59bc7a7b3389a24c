"""Arrays in, arrays out: trained models for people who hold their data as xarray, Dask or NumPy."""

from .model import ArrayModel, load

__all__ = ["ArrayModel", "load"]
