"""Starts a kernel without Triton's own search for what it compiled, which costs the host more than the launch does."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

__all__ = ["launch"]

# By kernel, device, kinds of arguments and constants: what was compiled, and its constants in the order of parameters.
_compiled: dict[Hashable, tuple[CompiledKernel, tuple[Any, ...]]] = {}
_MOST = 4096  # entries; numbers that change from call to call would add one each


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """``kernel[grid](*args, **constants)``, on the current device, which is that of the tensors.

    ``args`` are the parameters that are not ``tl.constexpr``, in order and all of them, a tensor first; ``constants``
    the others, with ``num_warps`` and ``num_stages``.

    Triton binds, classifies and prints all of them in every call. Here a call is told by what Triton compiles for: of
    a tensor its dtype and whether its address is a multiple of 16, of an integer its value (coarser than which Triton
    is: whether it is 1, a multiple of 16, or needs 64 bits), of other numbers their type.
    """
    # The interpreter; and on AMD's GPUs Triton also compiles for the sizes of tensors.
    if type(kernel) is not JITFunction or torch.version.hip:
        kernel[grid](*args, **constants)
        return
    key = (
        kernel.fn,
        args[0].get_device(),
        *[
            (a.dtype, a.data_ptr() % 16 == 0) if isinstance(a, Tensor) else a if type(a) is int else type(a)
            for a in args
        ],
        *constants.items(),
    )
    if (known := _compiled.get(key)) is not None:
        compiled, rest = known
        compiled[(*grid, 1, 1)](*args, *rest)
        return
    compiled = kernel[grid](*args, **constants)
    if isinstance(compiled, CompiledKernel):  # nothing where a hook of Triton's kept it from being compiled
        if len(_compiled) >= _MOST:
            _compiled.clear()
        _compiled[key] = compiled, tuple(constants[name] for name in kernel.arg_names[len(args) :])
