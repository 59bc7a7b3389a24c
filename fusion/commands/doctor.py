"""``fusion doctor``: what is here, what runs where and why, and whether it computes the right numbers."""

from __future__ import annotations

import os
import platform
import textwrap

__all__ = ["doctor"]


def doctor(*, test: bool = True) -> int:
    """Shows versions, hardware and which backend runs each op, and tests every op; exits 1 if something is broken.

    Args:
        test: run each op in each backend here against its float64 definition.
    """
    from .versions import installed, mismatches

    problems = mismatches()
    problems += [f"{p.name} is not installed: pip install {p.name}" for p in installed() if not (p.version or p.extra)]
    _show_versions()
    if not problems:  # a mismatched torch may crash where a sentence would help
        _show_hardware()
        problems += _show_backends()
        if test:
            problems += _run_self_test()
    for problem in problems:
        print(f"\nPROBLEM: {problem}")
    print(f"\n{len(problems) or 'no'} problem{'s' if len(problems) != 1 else ''} found")
    return 1 if problems else 0


def _show_versions() -> None:
    import fusion

    from .versions import installed

    print(f"eo-fusion {fusion.__version__}, Python {platform.python_version()}, {platform.platform()}")
    packages = installed()
    for title, extra in (("needed:   ", None), ("training: ", "train")):
        listed = ", ".join(f"{p.name} {p.version or '(not installed)'}" for p in packages if p.extra == extra)
        print(textwrap.fill(listed, 118, initial_indent=title, subsequent_indent=" " * len(title)))
    if any(p.version is None for p in packages if p.extra):
        print("          what is not installed comes with: pip install 'eo-fusion[train]'")


def _show_hardware() -> None:
    import torch

    from fusion.kernels import build, toolchain
    from fusion.layers.autocast import bfloat16_unavailable

    try:
        compiler = toolchain.version(toolchain.cxx()).splitlines()[0]
    except toolchain.ToolchainError as error:
        compiler = str(error)
    print(f"CPU:      {toolchain.cpu_level()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    reason = bfloat16_unavailable("cpu")
    print(f"bfloat16: {reason or 'calculated in; --training.precision auto tries whether a step is faster by it'}")
    print(f"compiler: {compiler}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            print(textwrap.fill(f"GPU {i}:    {_describe_gpu(i)}", 118, subsequent_indent=10 * " "))
    else:
        print(
            f"GPU:      none visible (torch {torch.__version__}, built for CUDA {torch.version.cuda or 'no version'})"
        )
    print(textwrap.fill(f"triton:   {_describe_triton()}", 118, subsequent_indent=10 * " "))
    settings = {k: v for k, v in sorted(os.environ.items()) if k.startswith("FUSION_")}
    print("settings: " + (", ".join(f"{k}={v}" for k, v in settings.items()) or "no FUSION_* variable is set"))
    try:
        print(f"compiled: kept in {build.cache_folder()}")
    except OSError as error:
        print(f"compiled: there is no folder for what is compiled: {error}")


def _describe_gpu(index: int) -> str:
    """What it is, whether Triton's kernels run on it, by whose tiles, and whether they were timed there."""
    import torch

    from fusion.kernels._triton.device import MEASURED, OLDEST, SHARED_MEMORY, nearest, shared_memory, tiles_of

    gpu = torch.cuda.get_device_properties(index)
    own = 10 * gpu.major + gpu.minor
    text = f"{gpu.name}, sm_{own}, {gpu.total_memory / 2**30:.0f} GiB"
    if (gpu.major, gpu.minor) < OLDEST:
        return f"{text}; the Triton kernels need sm_{OLDEST[0]}{OLDEST[1]} or above and do not run on it"
    alike = nearest((gpu.major, gpu.minor), shared_memory(index))
    if own not in SHARED_MEMORY:
        text += f"; sm_{own}: not listed, takes the tiles of sm_{alike}"
    elif tiles_of(own) != own:
        text += f"; takes the tiles of sm_{tiles_of(own)} where it has none of its own"
    if gpu.name in MEASURED:
        return f"{text}; kernels were measured on this GPU"
    return f"{text}; kernels were measured on {', '.join(MEASURED)}, not on this GPU"


def _describe_triton() -> str:
    """Its version, and what stands against its use."""
    from fusion.kernels.backends import unavailable, untested

    try:
        import triton
    except ImportError:
        return "not installed; it comes with CUDA builds of torch"
    return triton.__version__ + "".join(f"; {why}" for why in (unavailable("triton") or untested("triton"),) if why)


def _show_backends() -> list[str]:
    """Prints the table op x backend; returns what is broken rather than merely absent."""
    from fusion.kernels import backends, build, toolchain

    rows = backends()
    names = list(dict.fromkeys(row["backend"] for row in rows))
    ops = list(dict.fromkeys(row["op"] for row in rows))
    width = max(map(len, ops))
    print(f"\n{'operator':{width}}  " + "".join(f"{name:8}" for name in names) + "reason")
    for op in ops:
        own = [row for row in rows if row["op"] == op]
        why: dict[str, list[str]] = {}
        for row in own:
            if row["reason"]:
                why.setdefault(row["reason"].splitlines()[0], []).append(row["backend"])
        reasons = "; ".join(f"{', '.join(who)}: {reason}" for reason, who in why.items())
        print(f"{op:{width}}  " + "".join(f"{row['available']:8}" for row in own) + reasons)
    if os.environ.get("FUSION_DISABLE_JIT") == "1":
        return []
    try:
        toolchain.cxx()
        build.load("cpu")
    except toolchain.ToolchainError:
        pass  # without a compiler the eager backend serves: slower, not broken
    except build.BuildError as error:
        return [f"the CPU kernels do not build although there is a compiler: {error}"]
    return []


def _run_self_test() -> list[str]:
    from fusion.selftest import self_test

    print("\nself-test, float32, results and gradients:")
    problems = []
    for outcome in self_test():
        print(f"  {outcome}", flush=True)
        if not outcome.passed:
            problems.append(
                f"{outcome.op} computes wrong numbers in backend {outcome.backend} "
                f"({outcome.failure or f'error {outcome.error:.1e}'}); until it is mended set FUSION_BACKEND=eager"
            )
    return problems
