"""What ninja is told: how a library is compiled and linked, and how many compilers may run at once."""

from __future__ import annotations

import shlex
from pathlib import Path

from . import machine

__all__ = ["jobs", "ninja_file"]


def ninja_file(name: str, sources: tuple[Path, ...], compile: dict[str, tuple[str, ...]], link: tuple[str, ...]) -> str:
    """What ninja is to do for the library ``name``.so, of the parts of an ``artifact.Library``, where it is called."""

    def quoted(words: tuple[str, ...]) -> str:
        return " ".join([words[0].replace("$", "$$"), *(_shell_word(w) for w in words[1:])])

    lines = []
    rules = {folder: f"compile{number}" for number, folder in enumerate(compile)}
    for folder, rule in rules.items():
        lines.append(f"rule {rule}\n  command = {quoted(compile[folder])} -c $in -o $out")
    # Libraries come after the objects that need them.
    compiler, *options = link
    lines.append(f"rule link\n  command = {quoted((compiler,))} $in {quoted(('', *options))} -o $out")
    objects = []
    for number, source in enumerate(sources):
        objects.append(f"{number}-{source.stem}.o")
        escaped = str(source).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
        lines.append(f"build {objects[-1]}: {rules[source.parent.name]} {escaped}")
    lines.append(f"build {name}.so: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


def _shell_word(word: str) -> str:
    return shlex.quote(word).replace("$", "$$")


def jobs() -> int:
    """One compiler for each core, as far as 2 GB of memory for each allows."""
    return max(1, min(machine.cores(), int(machine.available_memory() / 2e9)))
