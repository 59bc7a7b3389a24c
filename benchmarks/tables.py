"""Writes the measured tables into the READMEs: ``python benchmarks/tables.py``.

A table stands between ``<!-- benchmark: OP [key=value ...] -->`` and ``<!-- end -->``; the filter chooses cases, and
``device=NAME`` a folder of results. ``<!-- headlines: DEVICE -->`` has one case an op. Tables are made from the newest
``results/<device>/<date>-<op>.json`` of every device that was measured and, where ``gpu_run.py`` ran, from
``results/<device>/timing.json``. Rows of an op that computed wrong numbers there are not shown.
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
MEASURED = frozenset(
    (
        *("contender", "median_ms", "p20_ms", "p80_ms", "graph_ms", "graph_refused", "host_ms", "peak_bytes", "ratio"),
        *(
            "tflops",
            "matmul_tflops",
            "share",
            "operations",
            "moved",
            "seconds",
            "op",
            "interpreted",
            "invalid",
            "refused",
            "commit",
        ),
    )
)
BLOCK = re.compile(r"(<!-- benchmark: (?P<what>[^>]+?) -->\n)(.*?)(<!-- end -->)", re.S)
HEADLINE_BLOCK = re.compile(r"(<!-- headlines: (?P<device>[^>]+?) -->\n)(.*?)(<!-- end -->)", re.S)

Row = dict[str, Any]


def newest(op: str) -> list[tuple[dict[str, Any], list[Row]]]:
    """Conditions and rows of the last results of each device."""
    latest = {path.parent.name: path for path in sorted(RESULTS.glob(f"*/????-??-??-{op}.json"))}
    latest |= {path.parent.name: path for path in sorted(RESULTS.glob("*/timing.json"))}
    tables = [json.loads(path.read_text()) | {"folder": device} for device, path in latest.items()]
    return [(table, [row for row in table["rows"] if shown(row) and row.get("op", op) == op]) for table in tables]


def shown(row: Row) -> bool:
    """Whether a row has a time that means something."""
    return "median_ms" in row and not row.get("invalid") and not row.get("interpreted")


def render(op: str, wanted: dict[str, str]) -> str:
    """Markdown: a line of conditions and a table for each device."""
    parts = []
    device = wanted.pop("device", None)
    for conditions, rows in newest(op):
        rows = [row for row in rows if all(str(row.get(key)) == value for key, value in wanted.items())]
        if not rows or device not in (None, conditions["folder"]):
            continue
        version = f"torch {conditions['torch']}" + (f", driver {conditions['driver']}" if conditions["driver"] else "")
        parts.append(f"{conditions['device']}, {version}. Peers: our time, then how many times longer theirs is.\n")
        parts.append(table(rows, hidden=set(wanted)))
    return "\n".join(parts) if parts else "No results yet.\n"


def table(rows: list[Row], hidden: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """A line for each case that ours ran: what identifies it, ours, and peers as multiples of ours.

    On a GPU also the time in a CUDA graph, which is the device's alone, the host's to issue a call, and the share of
    the measured roofline that the former is.
    """
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        case = {k: v for k, v in row.items() if k not in MEASURED}
        cases.setdefault(json.dumps(case), {})[row["contender"]] = row
    keys = [k for k in dict.fromkeys(k for case in cases for k in json.loads(case)) if k not in hidden]
    peers = list(dict.fromkeys(name for found in cases.values() for name in found if name != OURS))
    more = {k: title for k, title in _MORE.items() if any(k in row for row in rows if row["contender"] == OURS)}
    lines = ["| " + " | ".join([*keys, "ours", *more.values(), "extra memory", *peers]) + " |"]
    lines.append("|" + "---|" * len(keys) + "--:|" * (2 + len(more) + len(peers)))
    for case, found in cases.items():
        if OURS not in found:
            continue
        fields = json.loads(case)
        named = [_text(fields.get(key, "")) for key in keys]
        ours = [_time(found[OURS]["median_ms"]), *(_number(k, found[OURS]) for k in more), _size(found[OURS])]
        theirs = [_peer(found[name], found[OURS]) if name in found else "" for name in peers]
        lines.append("| " + " | ".join([*named, *ours, *theirs]) + " |")
    return "\n".join(lines) + "\n"


_MORE = {"graph_ms": "in a graph", "host_ms": "host", "share": "share"}


def _number(key: str, row: Row) -> str:
    if row.get(key) is None:
        return ""
    return f"{row[key]:.0%}" if key == "share" else _time(row[key])


def _text(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, list) else str(value)


def _time(ms: float) -> str:
    if ms >= 1000:
        return f"{ms / 1000:.2f} s"
    return f"{ms:.1f} ms" if ms >= 1 else f"{1000 * ms:.0f} µs"


def _size(row: Row) -> str:
    return f"{row['peak_bytes'] / 2**20:.0f} MiB" if "peak_bytes" in row else ""


def _peer(row: Row, ours: Row) -> str:
    memory = f", {_size(row)}" if "peak_bytes" in row else ""
    ratio = row.get("ratio", row["median_ms"] / ours["median_ms"])
    return f"{ratio:.1f}×{memory}"


# One case an op, at a size of the papers: what it is called, op, and the fields that choose its rows.
HEADLINES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "patch InfoNCE, 3 sensors × 128 tiles × 36 patches × 256 features",
        "patch_info_nce",
        {"shape": [3, 128, 36, 256], "pass": "both", "dtype": "float32"},
    ),
    (
        "relative-position attention, 16 heads × 3,073 tokens (PASTIS-HD)",
        "relative_attention",
        {"size": "pastis self", "pass": "both", "dtype": "float32"},
    ),
    (
        "nearest of 1,024 codes for 131,072 vectors of 64",
        "quantize",
        {"what": "look-up", "N": 131072, "K": 1024, "D": 64, "dtype": "float32"},
    ),
)


def headlines(device: str) -> str:
    """Markdown: a line for each op on ``device``, with plain PyTorch, its compilation, and the strongest other peer."""
    lines = ["| | ours | plain PyTorch | torch.compile | strongest peer |", "|---|--:|--:|--:|--:|"]
    for title, op, wanted in HEADLINES:
        (rows,) = (rows for conditions, rows in newest(op) if conditions["folder"] == device)
        found = {row["contender"]: row for row in rows if all(row.get(key) == value for key, value in wanted.items())}
        ours = found.pop(OURS)
        named = {name: _peer(found.pop(name), ours) for name in ("plain", "compile") if name in found}
        memory = f", {_size(ours)}" if "peak_bytes" in ours else ""
        name = min(found, key=lambda other: found[other]["median_ms"])
        cells = [f"{_time(ours['median_ms'])}{memory}", named.get("plain", ""), named.get("compile", "")]
        lines.append("| " + " | ".join([title, *cells, f"{name}: {_peer(found[name], ours)}"]) + " |")
    return "\n".join(lines) + "\n"


def rewrite(text: str) -> str:
    """``text`` with all its tables made anew."""
    text = HEADLINE_BLOCK.sub(lambda block: block[1] + headlines(block["device"]) + block[4], text)

    def fill(block: re.Match[str]) -> str:
        op, *filters = shlex.split(block["what"])
        return block[1] + render(op, dict(f.split("=", 1) for f in filters)) + block[4]

    return BLOCK.sub(fill, text)


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(rewrite(document.read_text()))
        print(f"wrote the tables of {document.relative_to(REPOSITORY)}")
