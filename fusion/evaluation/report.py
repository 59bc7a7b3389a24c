"""One self-contained HTML page: text, tables and pictures, with the conditions of every number beside it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fusion.training.files import write_atomically

__all__ = ["Item", "Picture", "Section", "Table", "write_report"]


class Item(Protocol):
    """What a section shows: a picture, a table, a map."""

    def html(self) -> str: ...


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows, under which conditions."""

    png: bytes
    caption: str

    def html(self) -> str:
        source = base64.b64encode(self.png).decode()
        caption = html.escape(self.caption)
        image = f'<img src="data:image/png;base64,{source}" alt="{caption}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


@dataclass(frozen=True)
class Table:
    """Rows of text or numbers under column names. ``best`` names columns whose largest number is set in bold,
    ``lowest`` those whose smallest is."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    best: Sequence[str] = ()
    lowest: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Table: {len(row)} cells for {len(self.columns)} columns {tuple(self.columns)}: {row}"
                )

    def html(self) -> str:
        strong = {k: self._winner(k) for k in range(len(self.columns))}
        head = "".join(f"<th>{html.escape(str(c))}</th>" for c in self.columns)
        body = "".join(
            "<tr>" + "".join(_cell(value, strong[k] == i) for k, value in enumerate(row)) + "</tr>"
            for i, row in enumerate(self.rows)
        )
        caption = f"<p class=caption>{html.escape(self.caption)}</p>" if self.caption else ""
        return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{caption}"

    def _winner(self, column: int) -> int | None:
        name = self.columns[column]
        if name not in self.best and name not in self.lowest:
            return None
        values = {i: number for i, row in enumerate(self.rows) if (number := _number(row[column])) is not None}
        if len(values) < 2:
            return None
        return (max if name in self.best else min)(values, key=lambda i: values[i])


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs (separated by empty lines), and tables, pictures and maps in order."""

    title: str
    text: str = ""
    items: Sequence[Item] = field(default_factory=tuple)

    def html(self) -> str:
        paragraphs = "".join(f"<p>{html.escape(p.strip())}</p>" for p in self.text.split("\n\n") if p.strip())
        return (
            f"<section><h2>{html.escape(self.title)}</h2>{paragraphs}{''.join(i.html() for i in self.items)}</section>"
        )


def write_report(
    path: Path | str,
    title: str,
    sections: Sequence[Section],
    *,
    summary: str = "",
    warnings: Sequence[str] = (),
    conditions: dict[str, Any] | None = None,
) -> Path:
    """Writes the page; it needs no other file and no network.

    Args:
        summary: the result in one or two sentences, under the title.
        warnings: what must not be missed, below the summary, one in a frame each.
        conditions: data, seeds, hardware, command: printed at the end of the page.

    Raises:
        RuntimeError: no space or no permission; a report that was there before is untouched.
    """
    links = "".join(f'<a href="#s{i}">{html.escape(s.title)}</a>' for i, s in enumerate(sections))
    body = "".join(s.html().replace("<section>", f'<section id="s{i}">', 1) for i, s in enumerate(sections))
    lead = f"<p class=lead>{html.escape(summary)}</p>" if summary else ""
    lead += "".join(f'<p class=warning role="note">{html.escape(warning)}</p>' for warning in warnings)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<header><h1>{html.escape(title)}</h1>{lead}<nav>{links}</nav></header><main>{body}</main>"
        f"<footer>{_conditions(conditions or {})}</footer></body></html>"
    )
    return write_atomically(path, page.encode())


def _conditions(conditions: dict[str, Any]) -> str:
    if not conditions:
        return ""
    rows = "".join(
        f"<dt>{html.escape(str(key))}</dt><dd>{html.escape(v if isinstance(v, str) else json.dumps(v))}</dd>"
        for key, v in conditions.items()
    )
    return f"<h2>Conditions</h2><dl>{rows}</dl>"


def _cell(value: Any, strong: bool) -> str:
    if isinstance(value, float):
        text = "–" if value != value else f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    else:
        text = str(value)
    number = _number(value) is not None or text == "–"
    text = f"<b>{html.escape(text)}</b>" if strong else html.escape(text)
    return f"<td class=number>{text}</td>" if number else f"<td>{text}</td>"


def _number(value: Any) -> float | None:
    """Of a number, or of a mean with its spread; None for text and NaN."""
    value = getattr(value, "mean", value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return float(value)


_STYLE = """
:root{--ink:#1d2733;--soft:#5b6875;--line:#dfe5ea;--accent:#1f6f54;--paper:#fff;--ground:#f3f6f4}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main,footer{max-width:68rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.5rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .5rem;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:0 0 .6rem;color:var(--accent)}
.lead{font-size:1.1rem;max-width:52rem;margin:.2rem 0 1rem}
.warning{background:#fff6e5;border-left:.3rem solid #b86e00;padding:.6rem .9rem;margin:.5rem 0;border-radius:.2rem}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;border-bottom:1px solid var(--line);padding-bottom:.8rem}
nav a{color:var(--soft);text-decoration:none;font-size:.92rem}
nav a:hover{color:var(--accent);text-decoration:underline}
section{background:var(--paper);border:1px solid var(--line);border-radius:.6rem;padding:1.3rem 1.5rem;margin:1.2rem 0}
section p{max-width:52rem;margin:.3rem 0 .8rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.93rem;margin:.4rem 0}
th{text-align:left;font-weight:600;color:var(--soft);border-bottom:2px solid var(--line);padding:.35rem 1rem .35rem 0}
td{border-bottom:1px solid var(--line);padding:.35rem 1rem .35rem 0;vertical-align:top}
td.number{font-variant-numeric:tabular-nums;white-space:nowrap}
td b{color:var(--accent)}
figure{margin:1rem 0 .4rem}
img{max-width:100%;height:auto;display:block}
figcaption,.caption{color:var(--soft);font-size:.88rem;max-width:52rem;margin-top:.35rem}
footer{color:var(--soft);font-size:.86rem;padding-bottom:3rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem}
dt{font-weight:600}
dd{margin:0;overflow-wrap:anywhere}
@media print{body{background:#fff}section{break-inside:avoid;border:0;padding:0}nav{display:none}}
""".replace("\n", "")
