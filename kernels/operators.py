"""How an operator enters torch: defined once in Python, under the namespace ``fusion``.

C++ libraries only register implementations (``STABLE_TORCH_LIBRARY_IMPL``) for the ``*_cpp`` and ``*_cuda``
names declared here: two libraries that *define* one namespace kill the interpreter, two that *implement* it
only warn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .backends import choose

__all__ = ["declare_native", "define"]


def define(schema: str, *, fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """Defines ``fusion::<schema>``, run on CPU and CUDA by whichever backend :func:`choose` picks.

    ``fake`` gets the same arguments and returns empty tensors of the right shape and dtype.
    """
    name = schema.partition("(")[0]
    torch.library.define(f"fusion::{name}", schema.removeprefix(name), tags=torch.Tag.pt2_compliant_tag)

    def run(*args: Any) -> Any:
        return choose(name, *args)(*args)

    torch.library.impl(f"fusion::{name}", ("cpu", "cuda"), run)
    torch.library.register_fake(f"fusion::{name}", fake)
    return getattr(torch.ops.fusion, name).default


def declare_native(schema: str) -> None:
    """Declares ``fusion::<schema>``, which a compiled library implements."""
    name = schema.partition("(")[0]
    torch.library.define(f"fusion::{name}", schema.removeprefix(name))
