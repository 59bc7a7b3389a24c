"""What a run found, for people: ``summary.md``, and what only all parts together tell of the rows of the timing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..tables import shown, table
from .figures import FIGURES
from .rows import write

__all__ = ["summarise"]

Row = dict[str, Any]
PARTS = ("setup", "correctness", "conditions", "timing", "sweep")
# By which words of a test's name an op is told; the file's op where none fits.
_FILES = {"test_infonce": "patch_info_nce", "test_attention": "relative_attention", "test_quantize": "quantize"}
_LOOK_UPS = {"bins": "bins", "finite": "finite scalars", "statistics": "statistics", "nearest": "look-up"}


def summarise(folder: Path) -> None:
    """Writes ``summary.md``, and into ``timing.json`` each row's ratio, share of the roofline and validity."""
    parts = {name: json.loads(path.read_text()) for name in PARTS if (path := folder / f"{name}.json").exists()}
    if "timing" in parts:
        _complete(parts)
        write(folder / "timing.json", parts["timing"])
    lines = [line for name, content in parts.items() for line in (*_heading(content), *_SECTIONS[name](content))]
    write(folder / "summary.md", "\n".join(["# One run on a GPU", *_device(parts), *lines]))


def _rows(parts: dict[str, Any], name: str) -> list[Row]:
    return parts[name]["rows"] if name in parts else []


# ------------------------------------------------------------------------------------------- rows of the timing


def _complete(parts: dict[str, Any]) -> None:
    timing = parts["timing"]
    ended = {row["key"] for row in timing["rows"] if "key" in row and "begun" not in row}
    begun = [row["key"] for row in timing["rows"] if row.get("begun")]
    timing["unfinished"] = [*timing.get("unfinished", []), *(key for key in begun if key not in ended)]
    timing["rows"] = rows = [
        {k: v for k, v in row.items() if k != "key"} for row in timing["rows"] if "begun" not in row
    ]
    rates = {row["rate"]: row.get("flops") or row["bytes"] for row in _rows(parts, "setup") if "rate" in row}
    ours = {_case(row): row for row in rows if row["contender"] == "fusion" and "median_ms" in row}
    wrong = _wrong(_rows(parts, "correctness"))
    if "correctness" in parts:
        for row in rows:
            row.pop("invalid", None)
            if row["contender"].startswith("fusion") and "median_ms" in row and _voided(row, wrong):
                row["invalid"] = True
    for row in rows:
        if "median_ms" not in row:
            continue
        row.pop("ratio", None)
        if (base := ours.get(_case(row))) and not base.get("invalid"):
            row["ratio"] = row["median_ms"] / base["median_ms"]
        row["share"] = _share(row, rates)


def _case(row: Row) -> str:
    from ..tables import MEASURED

    return json.dumps({"op": row["op"], **{k: v for k, v in row.items() if k not in MEASURED}})


def _share(row: Row, rates: dict[str, float]) -> float | None:
    """Least time by the measured rates over the time taken (in a graph where there is one: the device's own).

    float32 products take the faster of two ways: the units of float32, or three products of 16 bits.
    """
    if not (row.get("operations") or row.get("moved")) or "copy" not in rates:
        return None
    seconds = [row["moved"] / rates["copy"]]
    if row["operations"]:
        ways = [rates.get(row["dtype"], 0)]
        if row["dtype"] == "float32":
            ways.append(rates.get("float16", 0) / 3)
        if not max(ways):
            return None
        seconds.append(row["operations"] / max(ways))
    return max(seconds) / (1e-3 * row.get("graph_ms", row["median_ms"]))


def _op_of(test: str) -> str:
    file, _, name = test.rpartition("::")[0].rpartition("/")[2].removesuffix(".py"), None, test.rpartition("::")[2]
    op = _FILES.get(file, file)
    return next((look_up for word, look_up in _LOOK_UPS.items() if word in name), op) if op == "quantize" else op


def _wrong(rows: list[Row]) -> set[tuple[str, str]]:
    """Ops, or kinds of look-ups, and dtypes of which a test found a wrong number; no dtype stands for all.

    What crashed is reported; it has no number.
    """
    failed = (row for row in rows if row.get("outcome") == "failed" and "AssertionError" in row["message"])
    return {(_op_of(row["test"]), _dtype_of(row["test"])) for row in failed}


def _dtype_of(test: str) -> str:
    named = re.search(r"torch\.(\w+)", test)
    return named[1] if named else ""


def _voided(row: Row, wrong: set[tuple[str, str]]) -> bool:
    return any(op in (row["op"], row.get("what")) and dtype in ("", row.get("dtype")) for op, dtype in wrong)


# ----------------------------------------------------------------------------------------------------- sections


def _device(parts: dict[str, Any]) -> list[str]:
    some = next(iter(parts.values()), {})
    names = ("device", "driver", "cuda", "torch", "triton", "python")
    return ["", ", ".join(f"{name} {some[name]}" for name in names if some.get(name))]


def _heading(content: dict[str, Any]) -> list[str]:
    dry = "; interpreted, its times mean nothing" if content["dry"] else ""
    return ["", f"## {content['part'].capitalize()}", "", f"{content['outcome']}, {content['seconds']} s{dry}.", ""]


def _setup(content: dict[str, Any]) -> Iterator[str]:
    for row in content["rows"]:
        if "gpu" in row:
            yield f"* {row['gpu']['name']}, {row['gpu']['multiprocessors']} multiprocessors, {row['gpu']['clocks']}"
        elif "rate" in row:
            rate = f"{row['flops'] / 1e12:.1f} TFLOP/s" if "flops" in row else f"{row['bytes'] / 1e12:.2f} TB/s"
            yield f"* {row['rate']}: {rate}"
        elif "build" in row:
            yield f"* {row['build']} library: {row['outcome'].splitlines()[0][:200]}, {row['seconds']} s"
        elif "backends" in row:
            for name in dict.fromkeys(r["backend"] for r in row["backends"]):
                own = [r for r in row["backends"] if r["backend"] == name]
                runs = [r["op"] for r in own if r["available"] == "yes"]
                yield f"* backend {name}: {len(runs)} of {len(own)} operators"


def _correctness(content: dict[str, Any]) -> Iterator[str]:
    tests = [row for row in content["rows"] if "test" in row]
    for run in dict.fromkeys(row["run"] for row in content["rows"]):
        own = [row for row in tests if row["run"] == run]
        counts = {o: sum(row["outcome"] == o for row in own) for o in ("passed", "failed", "skipped")}
        known = [row["collected"] for row in content["rows"] if row["run"] == run and "collected" in row]
        missing = sum(known) - len(own)
        left = f", {missing} did not run" if missing > 0 else ""
        yield f"{run}: " + ", ".join(f"{n} {o}" for o, n in counts.items()) + left
        yield ""
        for row in own:
            if row["outcome"] == "failed":
                yield f"* **failed** `{row['test']}`: {_last_line(row['message'])}"
    if wrong := _wrong(tests):
        named = sorted(f"{op} ({dtype})" if dtype else op for op, dtype in wrong)
        yield f"\nTimes of {', '.join(named)} are invalid."


def _last_line(message: str) -> str:
    lines = [line.removeprefix("E").strip() for line in message.splitlines() if line.startswith("E ")]
    return (lines or message.splitlines() or [""])[0][:300]


def _conditions(content: dict[str, Any]) -> Iterator[str]:
    rows = content["rows"]
    for name in dict.fromkeys(row["condition"] for row in rows):
        own = [row for row in rows if row["condition"] == name]
        good = sum(row["outcome"] == "passed" for row in own)
        skipped = sum(row["outcome"] == "skipped" for row in own)
        yield f"* {name}: {good} of {len(own)} passed" + (f", {skipped} skipped" if skipped else "")
        for row in own:
            if row["outcome"] == "failed":
                yield f"  * **failed**: {row['op']} {row.get('dtype', '')}: {row['detail']}"


def _timing(content: dict[str, Any]) -> Iterator[str]:
    rows = [row for row in content["rows"] if content["dry"] or shown(row)]
    yield from ("| figure | wanted | measured | |", "|---|--:|--:|---|", *(figure.line(rows) for figure in FIGURES))
    for op in dict.fromkeys(row["op"] for row in rows):
        for what in dict.fromkeys(row.get("what") for row in rows if row["op"] == op):
            own = [row for row in rows if row["op"] == op and row.get("what") == what and "median_ms" in row]
            if not any(row["contender"] == "fusion" for row in own):  # its times are wrong, and peers alone say nothing
                continue
            yield f"\n### {op}" + (f", {what}" if what else "") + "\n"
            yield table(own, hidden={"what"}).rstrip()
    refused = [row for row in content["rows"] if "refused" in row or "graph_refused" in row]
    if refused or content["unfinished"]:
        yield "\n### What did not run\n"
    for row in refused:
        what = "" if "refused" in row else "in a CUDA graph "
        yield f"* {what}{row['contender']} {_case(row)}: {row.get('refused') or row['graph_refused']}"
    yield from (f"* did not end: {key}" for key in content["unfinished"])


def _sweep(content: dict[str, Any]) -> Iterator[str]:
    rows = [row for row in content["rows"] if "table" in row]
    yield from ("| table | key | tile now | µs | best tile | µs | tried |", "|---|---|---|--:|---|--:|--:|")
    for table_, key in dict.fromkeys((row["table"], row["key"]) for row in rows):
        own = [row for row in rows if (row["table"], row["key"]) == (table_, key)]
        timed = [row for row in own if "microseconds" in row]
        if not timed:
            continue
        best = min(timed, key=lambda row: row["microseconds"])
        now = next((row for row in timed if row["now"]), None)
        current = f"{now['tile']} | {now['microseconds']:.1f}" if now else "not timed |"
        yield f"| {table_} | {key} | {current} | {best['tile']} | {best['microseconds']:.1f} | {len(own)} |"


_SECTIONS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    **{"setup": _setup, "correctness": _correctness, "conditions": _conditions},
    **{"timing": _timing, "sweep": _sweep},
}
