"""Writes the measured tables into the READMEs: ``python benchmarks/tables.py``.

A table stands between ``<!-- benchmark: OP [key=value ...] -->`` and ``<!-- end -->``; the filter chooses cases. It is
made from the newest ``results/<device>/<date>-<op>.json`` of every device that was measured.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
DOCUMENTS = (REPOSITORY / "README.md", Path(__file__).parent / "README.md")
OURS = "fusion"
MEASURED = ("contender", "median_ms", "p20_ms", "p80_ms", "peak_bytes", "ratio", "tflops", "matmul_tflops")
BLOCK = re.compile(r"(<!-- benchmark: (?P<what>[^>]+?) -->\n)(.*?)(<!-- end -->)", re.S)

Row = dict[str, Any]


def newest(op: str) -> list[tuple[dict[str, Any], list[Row]]]:
    """Conditions and rows of the last results of each device."""
    latest = {path.parent.name: path for path in sorted(RESULTS.glob(f"*/????-??-??-{op}.json"))}
    return [(table := json.loads(path.read_text()), table["rows"]) for path in latest.values()]


def render(op: str, wanted: dict[str, str]) -> str:
    """Markdown: a line of conditions and a table for each device."""
    parts = []
    for conditions, rows in newest(op):
        rows = [row for row in rows if all(str(row.get(key)) == value for key, value in wanted.items())]
        if not rows:
            continue
        version = f"torch {conditions['torch']}" + (f", driver {conditions['driver']}" if conditions["driver"] else "")
        parts.append(f"{conditions['device']}, {version}. Peers: our time, then how many times longer theirs is.\n")
        parts.append(_table(rows, hidden=set(wanted)))
    return "\n".join(parts) if parts else "No results yet.\n"


def _table(rows: list[Row], hidden: set[str]) -> str:
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        case = {k: v for k, v in row.items() if k not in MEASURED}
        cases.setdefault(json.dumps(case), {})[row["contender"]] = row
    keys = [k for k in dict.fromkeys(k for case in cases for k in json.loads(case)) if k not in hidden]
    peers = list(dict.fromkeys(name for found in cases.values() for name in found if name != OURS))
    lines = ["| " + " | ".join([*keys, "ours", "extra memory", *peers]) + " |"]
    lines.append("|" + "---|" * len(keys) + "--:|" * (2 + len(peers)))
    for case, found in cases.items():
        if OURS not in found:
            continue
        fields = json.loads(case)
        named = [_text(fields.get(key, "")) for key in keys]
        ours = [_time(found[OURS]["median_ms"]), _size(found[OURS])]
        theirs = [_peer(found[name]) if name in found else "" for name in peers]
        lines.append("| " + " | ".join([*named, *ours, *theirs]) + " |")
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, list) else str(value)


def _time(ms: float) -> str:
    if ms >= 1000:
        return f"{ms / 1000:.2f} s"
    return f"{ms:.1f} ms" if ms >= 1 else f"{1000 * ms:.0f} µs"


def _size(row: Row) -> str:
    return f"{row['peak_bytes'] / 2**20:.0f} MiB" if "peak_bytes" in row else ""


def _peer(row: Row) -> str:
    memory = f", {_size(row)}" if "peak_bytes" in row else ""
    return f"{row['ratio']:.1f}×{memory}"


def rewrite(text: str) -> str:
    """``text`` with all its tables made anew."""

    def fill(block: re.Match[str]) -> str:
        op, *filters = shlex.split(block["what"])
        return block[1] + render(op, dict(f.split("=", 1) for f in filters)) + block[4]

    return BLOCK.sub(fill, text)


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(rewrite(document.read_text()))
        print(f"wrote the tables of {document.relative_to(REPOSITORY)}")
