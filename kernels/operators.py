"""How an operator enters torch: defined once in Python, under the namespace ``fusion``.

C++ libraries only register implementations (``STABLE_TORCH_LIBRARY_IMPL``) for the ``*_cpp`` and ``*_cuda``
names declared here: two libraries that *define* one namespace kill the interpreter, two that *implement* it
only warn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad

from .backends import choose
from .memory import transforming

__all__ = [
    "autocast_is_on",
    "call",
    "declare_native",
    "define",
    "differentiable",
    "not_differentiable_twice",
    "replaced",
    "under_autocast",
]

_new_library: Callable[..., Any] = torch.library.Library  # which torch does not annotate
_library = _new_library("fusion", "FRAGMENT")
_runs: dict[torch._ops.OpOverload, Callable[..., Any]] = {}
_replaced: list[Mapping[torch._ops.OpOverload, Callable[..., Any]]] = []
_functions: dict[torch._ops.OpOverload, Any] = {}  # by operator its torch.autograd.Function, if it has a gradient


def define(schema: str, *, fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """Defines ``fusion::<schema>``, run on every device by whichever backend :func:`choose` picks.

    ``fake`` gets the same arguments and returns empty tensors of the right shape and dtype. Under ``torch.vmap`` the
    operator runs once for every member of the batch.
    """
    name = schema.partition("(")[0]
    torch.library.define(f"fusion::{name}", schema.removeprefix(name), tags=torch.Tag.pt2_compliant_tag)

    def run(*args: Any) -> Any:
        device = _other_gpu(args)
        if device is None:
            return choose(name, *args)(*args)
        with torch.cuda.device(device):  # Triton and CUDA C++ launch on the current one, whatever the tensors' is
            return choose(name, *args)(*args)

    # For every device, not for CPU and CUDA alone: the eager backend is right on all of them.
    torch.library.impl(f"fusion::{name}", "default", run)
    torch.library.register_fake(f"fusion::{name}", fake)
    operator: torch._ops.OpOverload = getattr(torch.ops.fusion, name).default
    torch.library.register_vmap(f"fusion::{name}", _one_by_one(operator))
    _runs[operator] = run
    return operator


def _one_by_one(operator: torch._ops.OpOverload) -> Callable[..., Any]:
    """The rule of ``torch.vmap`` for ``operator``: members of the batch one after the other, then stacked."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        def member(i: int) -> list[Any]:
            pairs = zip(args, in_dims, strict=True)
            return [a.select(d, i) if isinstance(a, torch.Tensor) and d is not None else a for a, d in pairs]

        results = [call(operator, *member(i)) for i in range(info.batch_size)]
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


def call(operator: torch._ops.OpOverload, *args: Any) -> Any:
    """What ``operator(*args)`` returns, without torch's dispatcher where it has nothing to add.

    Every pass through the dispatcher converts all arguments to C++ and back, which costs the host as much as several
    launches. A compiler, autocast, a mode, a transform, a tracer, or a tensor of another class or that is a view which
    torch negates when it is read, get the operator itself.
    """
    if not _plain(args):
        return _replaced[-1].get(operator, operator)(*args) if _replaced else operator(*args)
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
        function = _functions.get(operator)
        return operator(*args) if function is None else function.apply(*args, None)
    return _runs[operator](*args)


@contextlib.contextmanager
def replaced(by: Mapping[torch._ops.OpOverload, Callable[..., Any]]) -> Iterator[None]:
    """Inside the block, in every thread, :func:`call` runs other functions in the place of operators where something
    looks on: a tracer, a compiler, a mode, a transform. They take the same arguments."""
    _replaced.append(by)
    try:
        yield
    finally:
        _replaced.pop()


def _plain(args: tuple[Any, ...]) -> bool:
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or transforming()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    ):
        return False
    device = ""
    for a in args:
        if isinstance(a, torch.Tensor):
            if type(a) is not torch.Tensor and type(a) is not torch.nn.Parameter:
                return False
            if a.is_neg() or torch._C._functorch.is_legacy_batchedtensor(a):  # the latter: grad(is_grads_batched=True)
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
    operator: torch._ops.OpOverload,
    *,
    save: Callable[..., None],
    gradients: Callable[..., tuple[Any, ...]],
    forward_mode: str,
) -> None:
    """Gives an operator its gradient: ``save(ctx, inputs, output)`` and ``gradients(ctx, *grads)``, one an argument.

    Reverse mode only: whoever asks for a forward-mode derivative gets a RuntimeError with ``forward_mode``.

    What ``torch.library.register_autograd`` does, but for the filling-in of default arguments (there are none), which
    costs the host more in every call than the launches.
    """

    def redispatch(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def forward(ctx: Any, *args: Any) -> Any:
        *inputs, keyset = args
        if keyset is None:  # called past the dispatcher
            output = _runs[operator](*inputs)
        elif transforming():  # the transforms outside this one differentiate, too, which Function.apply turned off
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                output = redispatch(keyset, *inputs)
        else:
            output = redispatch(keyset, *inputs)
        save(ctx, inputs, output)
        return output

    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[Any, ...]:
        return *gradients(ctx, *grads), None

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(f"{operator._opname}_with_gradient", (torch.autograd.Function,), members)

    def run(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        _refuse_tangents(args, forward_mode)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            if not transforming():
                return function.apply(*args, keyset)
            # One level of torch.func's transforms is being differentiated, as autograd differentiates torch's own
            # operators there: what Function.apply adds to that, a rule for all levels at once, is not asked for.
            with enable_single_level_autograd_function():
                return super(torch.autograd.Function, function).apply(*args, keyset)
        return redispatch(keyset, *args)

    _functions[operator] = function
    _library.impl(operator._opname, run, "Autograd", with_keyset=True)


def _refuse_tangents(args: tuple[Any, ...], message: str) -> None:
    """A RuntimeError where a forward-mode derivative is asked for, which would else be 0 without a word."""
    if forward_ad._current_level < 0:
        return
    for a in args:
        if isinstance(a, torch.Tensor) and a.is_floating_point() and forward_ad.unpack_dual(a).tangent is not None:
            raise RuntimeError(message)


def not_differentiable_twice(operator: torch._ops.OpOverload, message: str) -> None:
    """Has whoever differentiates ``operator``, a backward pass itself, get a RuntimeError with ``message``."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing: there is no gradient."""

    def gradients(ctx: Any, *grads: torch.Tensor | None) -> NoReturn:
        raise RuntimeError(message)

    differentiable(operator, save=save, gradients=gradients, forward_mode=message)


def under_autocast(operator: torch._ops.OpOverload, *, casts: int) -> None:
    """Inside autocast the first ``casts`` arguments take its dtype (float64 keeps its own), the others theirs."""

    def register(device: str) -> None:
        key = next(k for k in dir(torch._C.DispatchKey) if k.lower() == f"autocast{device}")
        autocast = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

        def run(*args: Any) -> Any:
            dtype = torch.get_autocast_dtype(_AUTOCAST[device])
            cast = (a if a.dtype == torch.float64 else a.to(dtype) for a in args[:casts])
            with torch._C._ExcludeDispatchKeyGuard(autocast):
                return operator(*cast, *args[casts:])

        torch.library.impl(f"fusion::{operator._opname}", key, run)

    for device in _AUTOCAST:
        register(device)


def autocast_is_on(device: str) -> bool:
    """Whether autocast is on for ``device``; of some, as ``meta``, torch refuses to say.

    ``torch.amp.is_autocast_available`` would tell which, but Dynamo of torch 2.11 cannot trace it.
    """
    return device in _AUTOCAST.values() and torch.is_autocast_enabled(device)


# Devices that autocast serves by a dispatch key: as in the key's name, and as torch calls the device.
_AUTOCAST = {d: d for d in ("cpu", "cuda", "mps", "xpu", "hpu")} | {"privateuse1": "privateuseone"}
