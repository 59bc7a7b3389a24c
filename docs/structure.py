"""What imports what: counts, the table of docs/architecture.md, circles and imports that point upwards.

    python docs/structure.py            # prints everything
    python docs/structure.py --write    # and brings the table in docs/architecture.md up to date

Imports are read from the source, those inside functions included; nothing is run.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
SOURCES = {"fusion": ROOT / "fusion", "fusion.kernels": ROOT / "kernels"}

# From below to above: a package imports what stands before its own line, or beside it on that line itself.
LAYERS = (
    ("kernels",),
    ("lazy", "threads", "heap", "settings", "special_files", "yaml_loader", "layers", "data"),
    ("training",),
    ("tokenizers",),
    ("omnisat", "token_fusion", "context", "baselines"),
    ("compat", "embed", "evaluation", "export"),
    ("arrays", "selftest", "workflow"),
    ("adapters", "commands", "cli"),
    ("experiments",),
)
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
# These know nothing of each other although they stand on one line, and nothing imports the leaves.
APART = ("omnisat", "token_fusion", "context", "baselines")
LEAVES = ("experiments",)

Imports = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module by its import name."""
    found = {}
    for prefix, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([prefix, *(part for part in parts if part != "__init__")])] = path
    return found


def imports(known: dict[str, Path]) -> Imports:
    """By module, the modules of ours that it imports (a package's ``__init__`` where a name comes from there)."""
    return {name: set(_imported(name, path, known)) - {name} for name, path in known.items()}


def _imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]) if base else ".".join(above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in known:
                    yield inner
                elif base in known:
                    yield base


def package_of(module: str) -> str:
    """``fusion.data.open`` belongs to ``data``, ``fusion`` itself to ``fusion``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def between_packages(found: Imports) -> Imports:
    table: Imports = {}
    for module, targets in found.items():
        own = table.setdefault(package_of(module), set())
        own |= {package_of(target) for target in targets} - {package_of(module), "fusion"}
    return table


def circle(found: Imports) -> list[str]:
    """Modules that import each other in a circle; empty if there is none.

    A package's ``__init__`` lists its modules and is left out: they may name each other through it.
    """
    inner = {m: {t for t in targets if not _lists(t, found)} for m, targets in found.items() if not _lists(m, found)}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _lists(module: str, found: Imports) -> bool:
    return any(other.startswith(f"{module}.") for other in found)


def upward(table: Imports) -> list[str]:
    """Imports between packages that point upwards, across systems, or into a leaf."""
    wrong = []
    for package, targets in sorted(table.items()):
        for target in sorted(targets):
            across = package in APART and target in APART
            if package in LEVEL and (LEVEL[target] > LEVEL[package] or across or target in LEAVES):
                wrong.append(f"{package} imports {target}")
    return wrong


def markdown(table: Imports) -> str:
    lines = ["| package | imports |", "|---|---|"]
    for layer in LAYERS:
        for package in layer:
            if package in table:
                order = sorted(table[package], key=lambda name: (LEVEL[name], name))
                lines.append(f"| `{package}` | {', '.join(order) or '–'} |")
    return "\n".join(lines)


def rewritten(page: str, table: Imports) -> str:
    """The page with its table brought up to date."""
    new = f"<!-- structure -->\n{markdown(table)}\n<!-- end -->"
    return re.sub(r"<!-- structure -->\n.*?<!-- end -->", lambda _: new, page, flags=re.DOTALL)


def main() -> int:
    known = modules()
    found = imports(known)
    table = between_packages(found)
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in known.values()}
    longest = max(lengths, key=lambda path: lengths[path])
    crossing = sum(len(targets) for targets in table.values())
    print(f"{len(lengths)} Python files, {sum(lengths.values())} lines; the longest is {longest}, {lengths[longest]}")
    print(f"{crossing} imports between packages; circle: {' -> '.join(circle(found)) or 'none'}")
    print(f"upwards: {'; '.join(upward(table)) or 'none'}\n")
    print(markdown(table))
    if "--write" in sys.argv:
        PAGE.write_text(rewritten(PAGE.read_text(), table))
    return 1 if circle(found) or upward(table) else 0


if __name__ == "__main__":
    sys.exit(main())
