"""What ninja is told: how a library is compiled and linked, and how many compilers may run at once."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

__all__ = ["jobs", "ninja_file"]


def ninja_file(name: str, sources: tuple[Path, ...], compile: dict[str, tuple[str, ...]], link: tuple[str, ...]) -> str:
    """What ninja is to do for the library ``name``.so, of the parts of a ``build.Library``, where it is called."""

    def quoted(words: tuple[str, ...]) -> str:
        return " ".join([words[0].replace("$", "$$"), *(_shell_word(w) for w in words[1:])])

    lines = []
    for suffix, command in compile.items():
        lines.append(f"rule compile{suffix}\n  command = {quoted(command)} -c $in -o $out")
    # Libraries come after the objects that need them.
    compiler, *options = link
    lines.append(f"rule link\n  command = {quoted((compiler,))} $in {quoted(('', *options))} -o $out")
    objects = []
    for number, source in enumerate(sources):
        objects.append(f"{number}-{source.stem}.o")
        escaped = str(source).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
        lines.append(f"build {objects[-1]}: compile{source.suffix} {escaped}")
    lines.append(f"build {name}.so: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


def _shell_word(word: str) -> str:
    return shlex.quote(word).replace("$", "$$")


def jobs() -> int:
    """One compiler for each core, as far as 2 GB of memory for each allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cores, _available() / 2e9)))


def _available(table: Path = Path("/proc/meminfo")) -> float:
    """Bytes that may be taken: what is free, and what keeps files that can be read again."""
    try:
        lines = dict(line.split(":", 1) for line in table.read_text().splitlines() if ":" in line)
        return 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # no Linux: as if there were enough
        return float("inf")
