"""How an operator enters torch: defined once in Python, under the namespace ``fusion``.

C++ libraries only register implementations (``STABLE_TORCH_LIBRARY_IMPL``) for the ``*_cpp`` and ``*_cuda``
names declared here: two libraries that *define* one namespace kill the interpreter, two that *implement* it
only warn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from .backends import choose

__all__ = ["call", "declare_native", "define", "differentiable", "not_differentiable_twice", "under_autocast"]

_new_library: Callable[..., Any] = torch.library.Library  # which torch does not annotate
_library = _new_library("fusion", "FRAGMENT")
_runs: dict[torch._ops.OpOverload, Callable[..., Any]] = {}
_functions: dict[torch._ops.OpOverload, Any] = {}  # by operator its torch.autograd.Function, if it has a gradient


def define(schema: str, *, fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """Defines ``fusion::<schema>``, run on CPU and CUDA by whichever backend :func:`choose` picks.

    ``fake`` gets the same arguments and returns empty tensors of the right shape and dtype.
    """
    name = schema.partition("(")[0]
    torch.library.define(f"fusion::{name}", schema.removeprefix(name), tags=torch.Tag.pt2_compliant_tag)

    def run(*args: Any) -> Any:
        device = _other_gpu(args)
        if device is None:
            return choose(name, *args)(*args)
        with torch.cuda.device(device):  # Triton and CUDA C++ launch on the current one, whatever the tensors' is
            return choose(name, *args)(*args)

    torch.library.impl(f"fusion::{name}", ("cpu", "cuda"), run)
    torch.library.register_fake(f"fusion::{name}", fake)
    operator: torch._ops.OpOverload = getattr(torch.ops.fusion, name).default
    _runs[operator] = run
    return operator


def call(operator: torch._ops.OpOverload, *args: Any) -> Any:
    """What ``operator(*args)`` returns, without torch's dispatcher where it has nothing to add.

    Every pass through the dispatcher converts all arguments to C++ and back, which costs the host as much as several
    launches. A compiler, autocast, a mode, a transform or a tensor of another class get the operator itself.
    """
    if not _plain(args):
        return operator(*args)
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
        function = _functions.get(operator)
        return operator(*args) if function is None else function.apply(*args, None)
    return _runs[operator](*args)


def _plain(args: tuple[Any, ...]) -> bool:
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
    ):
        return False
    device = ""
    for a in args:
        if isinstance(a, torch.Tensor):
            if type(a) is not torch.Tensor and type(a) is not torch.nn.Parameter:
                return False
            device = device or a.device.type
    return device in ("cpu", "cuda") and not torch.is_autocast_enabled(device)


def _other_gpu(args: tuple[Any, ...]) -> int | None:
    """The GPU of the first tensor that is on one, unless it is the current one."""
    for a in args:
        if isinstance(a, torch.Tensor) and a.is_cuda:
            index = a.get_device()
            return None if index == torch.cuda.current_device() else index
    return None


def declare_native(schema: str) -> Any:
    """Declares ``fusion::<schema>``, which a compiled library implements, and returns it as a function."""
    name = schema.partition("(")[0]
    torch.library.define(f"fusion::{name}", schema.removeprefix(name))
    return getattr(torch.ops.fusion, name).default


def differentiable(
    operator: torch._ops.OpOverload, *, save: Callable[..., None], gradients: Callable[..., tuple[Any, ...]]
) -> None:
    """Gives an operator its gradient: ``save(ctx, inputs, output)`` and ``gradients(ctx, *grads)``, one an argument.

    What ``torch.library.register_autograd`` does, but for the filling-in of default arguments (there are none), which
    costs the host more in every call than the launches.
    """

    def forward(ctx: Any, *args: Any) -> Any:
        *inputs, keyset = args
        if keyset is None:  # called past the dispatcher
            output = _runs[operator](*inputs)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                output = operator.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)
        save(ctx, inputs, output)
        return output

    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[Any, ...]:
        return *gradients(ctx, *grads), None

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(f"{operator._opname}_with_gradient", (torch.autograd.Function,), members)

    def run(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return function.apply(*args, keyset)
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    _functions[operator] = function
    _library.impl(operator._opname, run, "Autograd", with_keyset=True)


def not_differentiable_twice(operator: torch._ops.OpOverload, message: str) -> None:
    """Has whoever differentiates ``operator``, a backward pass itself, get a RuntimeError with ``message``."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing: there is no gradient."""

    def gradients(ctx: Any, *grads: torch.Tensor | None) -> NoReturn:
        raise RuntimeError(message)

    differentiable(operator, save=save, gradients=gradients)


def under_autocast(operator: torch._ops.OpOverload, *, casts: int) -> None:
    """Inside autocast the first ``casts`` arguments take its dtype (float64 keeps its own), the others theirs."""

    def register(device: str) -> None:
        key = f"Autocast{device.upper()}"
        autocast = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

        def run(*args: Any) -> Any:
            dtype = torch.get_autocast_dtype(device)
            cast = (a if a.dtype == torch.float64 else a.to(dtype) for a in args[:casts])
            with torch._C._ExcludeDispatchKeyGuard(autocast):
                return operator(*cast, *args[casts:])

        torch.library.impl(f"fusion::{operator._opname}", key, run)

    register("cpu")
    register("cuda")
