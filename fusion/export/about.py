"""What an exported file says about itself, as JSON inside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from .. import __version__
from ..context import ContextFusion
from ..embed.map import fingerprint
from ..training.systems import config_of, system_of
from .plain import PlainEncoder
from .signature import Input

__all__ = ["FILE", "about"]

FILE = "fusion.json"  # among the extra files of a program; the key of a compiled one's metadata
FORMAT = 1

_DAYS = "whole days since 1 January of the year in which the series of the tile begin; 0 is that day (int64)"
_VALID = "bool: which dates (B, L), or of an image which tiles (B,), may be used; False for all that a tile lacks"
_VALUES = "float32 in the unit of the training; NaN where a pixel was not observed"
_WINDOWS = (
    "a row is one pixel on one date of {reference}: of each sensor the window around it on the dates nearest to that "
    "on which it was observed, as many before as after, ascending; the middle one is the embedded date"
)


def about(
    encoder: nn.Module,
    module: nn.Module,
    inputs: Sequence[Input],
    program: ExportedProgram,
    *,
    aot: bool,
    device: torch.device,
) -> dict[str, Any]:
    """Plain types alone. Sizes that may be of any length are letters: B tiles, L dates.

    Args:
        module: what was traced.
        aot: whether it was compiled, for ``device``.
    """
    found: dict[str, Any] = {
        "format": FORMAT,
        "program": "compiled by AOTInductor" if aot else "torch.export",
        "eo-fusion": __version__,
        "torch": torch.__version__,
        "device": str(device),
        "system": system_of(encoder),
        "model": fingerprint(encoder),
        "call": "program(values, days, valid): mappings by the names of the inputs; days of series alone",
        "inputs": [_input(one) for one in inputs],
        "values": _VALUES,
        "days": _DAYS,
        "valid": _VALID,
        "output": _output(module, program),
    }
    if isinstance(encoder, ContextFusion):
        found["windows"] = _WINDOWS.format(reference=encoder.config.reference.modality.name)
    else:
        found["grid"] = list(config_of(encoder).grid)
    return found


def _input(one: Input) -> dict[str, Any]:
    modality = one.modality
    return {
        "name": modality.name,
        "kind": modality.kind,
        "shape": list(one.shape("B", "L")),
        "bands": list(modality.bands),
        "unit": modality.unit,
        "resolution": modality.resolution,
        "patch_size": modality.patch_size,
    }


def _output(module: nn.Module, program: ExportedProgram) -> dict[str, Any]:
    (result,) = program.graph.output_node().args[0]
    shape = ["B", *(int(size) for size in result.meta["val"].shape[1:])]
    if isinstance(module, PlainEncoder):
        return {"kind": "embedding", "axes": ["tile", "patch", "feature"], "shape": shape, "grid": list(module.grid)}
    head: Any = module.module
    kind = "value" if head.task == "regression" else "probability"
    axes = ["tile", "label", "row", "column"][: len(shape)]
    return {"kind": kind, "axes": axes, "shape": shape, "task": head.task, "classes": list(head.classes)}
