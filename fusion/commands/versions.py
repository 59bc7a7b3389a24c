"""Which packages are installed, and whether they fit each other. Imports none of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

__all__ = ["Package", "installed", "mismatches"]


@dataclass(frozen=True)
class Package:
    """A package this one depends on; ``version`` is None where it is not installed."""

    name: str
    version: str | None
    extra: str | None  # the extra of eo-fusion that wants it; None: always needed


def installed(distribution: str = "eo-fusion", extras: tuple[str, ...] = ("train",)) -> list[Package]:
    """What ``distribution`` needs (always, or for one of ``extras``), in its own order, with the version found."""
    packages = []
    for requirement in metadata.requires(distribution) or []:
        what, _, marker = requirement.partition(";")
        found = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        extra = found.group(1) if found else None
        if extra is None or extra in extras:
            name = re.match(r"[\w.-]+", what.strip()).group()  # type: ignore[union-attr]
            packages.append(Package(name, _version(name), extra))
    return packages


def mismatches() -> list[str]:
    """Installed packages that were built for another torch than the one installed; a sentence each."""
    torch = _version("torch")
    problems = []
    for name in ("torchvision", "torchaudio"):
        version = _version(name)
        if version is None or torch is None:
            continue
        for requirement in metadata.requires(name) or []:
            built_for = re.match(r"torch\s*\(?==\s*([\w.+]+)\)?", requirement)
            if built_for and built_for.group(1).partition("+")[0] != torch.partition("+")[0]:
                problems.append(
                    f"{name} {version} was built for torch {built_for.group(1)}, and torch {torch} is installed. "
                    f"Importing it fails, and with it torchmetrics and lightning, which look for it. eo-fusion does "
                    f"not need it: pip uninstall {name}, or install the one that belongs to torch {torch}"
                )
    return problems


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
