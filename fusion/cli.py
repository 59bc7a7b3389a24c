"""``fusion COMMAND``: runs a command of :mod:`fusion.commands` and tells errors in words."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

from .heap import keep_freed_memory
from .threads import share_cores

__all__ = ["main"]

# Exit codes: 0 done, 1 done and the answer is no, 2 could not be done, 130 interrupted.
_CANNOT, _INTERRUPTED = 2, 130
# What several processes do together, with the same result in each.
_TOGETHER = ("pretrain", "finetune")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code; errors of the package are told without a traceback."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    share_cores()
    keep_freed_memory()
    try:
        return _main(arguments)
    except KeyboardInterrupt:  # before there was a command
        print("\nfusion: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _main(arguments: Sequence[str]) -> int:
    try:
        from .commands.parser import parse
    except ModuleNotFoundError as error:
        return _main_without_parser(arguments, error)
    name, function, given = parse(arguments)
    try:
        with _one_speaks(name):
            return function(**given) or 0
    except KeyboardInterrupt as why:
        print(f"\nfusion {name}: {str(why) or 'interrupted'}", file=sys.stderr)
        return _INTERRUPTED
    except (ValueError, TypeError, RuntimeError, KeyError, OSError, ImportError, MemoryError) as error:
        if os.environ.get("FUSION_VERBOSE") == "1":
            traceback.print_exc()
        print(f"fusion {name}: {_in_words(error)}", file=sys.stderr)
        return _CANNOT


@contextmanager
def _one_speaks(command: str) -> Iterator[None]:
    """Of several processes that train one model the first prints; errors come from all."""
    if command not in _TOGETHER or os.environ.get("LOCAL_RANK", "0") == "0":
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _main_without_parser(arguments: Sequence[str], error: ModuleNotFoundError) -> int:
    """Who installed the op library alone can still build it and have it examined."""
    if list(arguments) == ["doctor"]:
        from .commands.doctor import doctor

        return doctor()
    if list(arguments) == ["build"]:
        from .commands.build import build

        return build()
    print(f"fusion: {_in_words(error)} (without it there are only `fusion doctor` and `fusion build`)", file=sys.stderr)
    return _CANNOT


def _in_words(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name!r} is not installed: pip install 'eo-fusion[train]'"
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])  # str(KeyError) would quote it
    return str(error) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
