"""The backends that tests of the ops run on: those for the CPU, and in Triton's interpreter the GPU kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fusion.kernels import use_backend
from fusion.kernels.backends import unavailable

from .interpreted import interpreting


@pytest.fixture(params=["triton"] if interpreting() else ["cpp", "eager"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the backend in use."""
    name: str = request.param
    if reason := unavailable(name):
        pytest.skip(reason)
    with use_backend(name):
        yield name
