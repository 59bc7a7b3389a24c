"""The figures to reach on a GPU, each computed from the rows of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["FIGURES", "Figure"]

Row = dict[str, Any]
Value = Callable[[list[Row]], float | None]  # of the rows of the timing; None: not measured


@dataclass(frozen=True)
class Figure:
    """Reached where the value is at least ``least``."""

    what: str
    least: float
    value: Value
    form: str = "{:.2f}x"

    def line(self, rows: list[Row]) -> str:
        value = self.value(rows)
        wanted = self.form.format(self.least)
        if value is None:
            return f"| {self.what} | {wanted} | | not measured |"
        return f"| {self.what} | {wanted} | {self.form.format(value)} | {self.outcome(value)} |"

    def outcome(self, value: float) -> str:
        return "reached" if value >= self.least else "**missed**"


def _cases(rows: list[Row], **wanted: Any) -> Iterable[Row]:
    return (row for row in rows if all(row.get(key) == value for key, value in wanted.items()))


def share(**case: Any) -> Value:
    """Least share of the roofline of ours."""
    return lambda rows: min(
        (r["share"] for r in _cases(rows, contender="fusion", **case) if r.get("share")), default=None
    )


def ratio(*peers: str, **case: Any) -> Value:
    """Least multiple of our time that any of the peers takes."""

    def value(rows: list[Row]) -> float | None:
        found = [r["ratio"] for peer in peers for r in _cases(rows, contender=peer, **case) if r.get("ratio")]
        return min(found, default=None)

    return value


def memory(**case: Any) -> Value:
    """Least multiple of our memory that plain takes."""

    def value(rows: list[Row]) -> float | None:
        ours = {r["dtype"]: r["peak_bytes"] for r in _cases(rows, contender="fusion", **case) if "peak_bytes" in r}
        plain = {r["dtype"]: r["peak_bytes"] for r in _cases(rows, contender="plain", **case) if "peak_bytes" in r}
        return min((plain[d] / ours[d] for d in plain.keys() & ours.keys() if ours[d]), default=None)

    return value


_LOSS: dict[str, Any] = {"op": "patch_info_nce", "pass": "both", "exclude": "tile"}
_ATTENTION: dict[str, Any] = {"op": "relative_attention", "pass": "both", "masked": False, "dtype": "bfloat16"}
_LOOK_UP: dict[str, Any] = {"op": "quantize", "what": "look-up"}
_STEP: dict[str, Any] = {"op": "training_step", "part": "whole step"}
_TREE, _TWICE = [3, 128, 36, 256], [3, 256, 36, 256]

FIGURES = [
    *(
        figure
        for shape in (_TREE, _TWICE)
        for figure in (
            Figure(
                f"InfoNCE {shape} bfloat16, share of the roofline",
                *(0.5, share(**_LOSS, shape=shape, dtype="bfloat16"), "{:.0%}"),
            ),
            Figure(
                f"InfoNCE {shape} bfloat16 against torch.compile",
                3,
                ratio("compile", **_LOSS, shape=shape, dtype="bfloat16"),
            ),
            Figure(
                f"InfoNCE {shape} float32 against torch.compile",
                2,
                ratio("compile", **_LOSS, shape=shape, dtype="float32"),
            ),
        )
    ),
    Figure(
        "InfoNCE at the sizes of triton #6605 against PyTorch, the worst",
        *(1, ratio("plain", op="patch_info_nce", exclude="modality")),
    ),
    *(
        figure
        for size in ("pastis self", "pastis cross")
        for figure in (
            Figure(
                f"attention {size} bfloat16 against SDPA without any bias",
                *(1 / 1.3, ratio("sdpa without bias", **_ATTENTION, size=size)),
            ),
            Figure(f"attention {size} bfloat16 against FlexAttention", 1, ratio("flex", **_ATTENTION, size=size)),
        )
    ),
    *(
        Figure(f"attention {size} bfloat16 against SDPA with mask", 1, ratio("sdpa with mask", **_ATTENTION, size=size))
        for size in ("treesatai self", "treesatai cross")
    ),
    Figure("nearest_code bfloat16 against cdist and argmin", 3, ratio("plain", **_LOOK_UP, dtype="bfloat16")),
    Figure("nearest_code against chunked addmm and argmax, the worst", 1, ratio("addmm", **_LOOK_UP)),
    *(
        Figure(f"{kind} bins, share of the bandwidth", 0.7, share(op="quantize", what=f"{kind} bins"), "{:.0%}")
        for kind in ("equal", "unequal")
    ),
    *(
        Figure(f"OmniSat step {data} {dtype} against plain", least, ratio("plain", **_STEP, data=data, dtype=dtype))
        for data in ("treesatai", "pastis-hd")
        for dtype, least in (("bfloat16", 1.5), ("float32", 1.3))
    ),
    *(
        Figure(f"OmniSat step {data}, memory of plain against ours", 2, memory(**_STEP, data=data))
        for data in ("treesatai", "pastis-hd")
    ),
]
