"""``fusion build``: compiles the kernels now rather than on first use."""

from __future__ import annotations

__all__ = ["build"]


def build() -> int:
    """Compiles the C++ and CUDA kernels for this machine ahead of time; exits 1 if those for the CPU do not build."""
    from fusion.kernels.build import CPU, compile_all

    outcome = compile_all()
    width = max(map(len, outcome))
    for library, path in outcome.items():
        print(f"{library:{width}} {path}")
    return 1 if any(outcome[package].startswith("not built") for package in CPU) else 0
