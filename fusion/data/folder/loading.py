"""Reads the YAML that describes a folder, and says by file, section and key what cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from ...yaml_loader import load_yaml
from .description import Description, Labels, Mask, Source
from .entries import entry, number
from .placed import TableLabels, VectorLabels

__all__ = ["load_description"]

Part = TypeVar("Part")
PRESETS = Path(__file__).parents[2] / "presets" / "data"


def load_description(source: str | Path | Mapping[str, Any]) -> Description:
    """Reads and checks a YAML file, one that ships with the package by its name (``"biomassters"``), or what a file
    would hold.

    Raises:
        ValueError: no such file, not YAML, an unknown or missing key, a value of the wrong type or meaning; the
            message names file, section and key.
    """
    where = "description"
    if not isinstance(source, Mapping):
        shipped = PRESETS / f"{source}.yaml"
        path = shipped if shipped.is_file() else Path(source)
        where = str(path)
        try:
            source = load_yaml(path)
        except FileNotFoundError as error:
            known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.yaml")))
            raise ValueError(f"{where}: no such description; {known} ship with the package") from error
    table = _table(source, where)
    table["modalities"] = {
        str(name): _build(Source, _with_mask(body, f"{where}: modality {name!r}"), f"{where}: modality {name!r}")
        for name, body in _table(table.get("modalities") or {}, f"{where}: modalities").items()
    }
    if table.get("labels") is not None:
        table["labels"] = _labels(_table(table["labels"], f"{where}: labels"), f"{where}: labels")
    return _build(Description, table, where)


def _labels(table: dict[str, Any], where: str) -> Labels | VectorLabels | TableLabels:
    """A map of labels by scene, or points and polygons of one file."""
    table = {key: value for key, value in table.items() if value is not None}
    classes = table.pop("classes", None) or {}
    if "vector" in table and "table" in table:
        raise ValueError(f"{where}: vector and table are two kinds of labels; give one of them")
    if "vector" not in table and "table" not in table:
        if not isinstance(classes, Mapping):
            raise ValueError(f"{where}: classes are 'name: code', not {classes!r}")
        of_maps = {str(k): _codes(v, f"{where}: classes: {k}") for k, v in classes.items()}
        return _build(Labels, table, where, classes=of_maps)
    kind: type[VectorLabels] | type[TableLabels] = VectorLabels if "vector" in table else TableLabels
    for key in ("vector", "table", "field", "layer", "x", "y"):
        if key in table and not isinstance(table[key], str):
            raise ValueError(f"{where}: {key} is a name, not {table[key]!r}; write it in quotes")
    if isinstance(classes, Mapping):
        listed = {str(k): tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in classes.items()}
        return _build(kind, table, where, classes=listed)
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise ValueError(f"{where}: classes are a list of names or 'name: value', not {classes!r}")
    return _build(kind, table, where, classes=tuple(str(name) for name in classes))


def _with_mask(body: Any, where: str) -> dict[str, Any]:
    table = _table(body, where)
    if table.get("mask") is not None:
        table["mask"] = _build(Mask, _table(table["mask"], f"{where}: mask"), f"{where}: mask")
    return table


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: keys with values are wanted, {value!r} given")
    return dict(value)


def _codes(value: Any, where: str) -> tuple[float, ...]:
    return tuple(number(where, code) for code in (value if isinstance(value, list | tuple) else [value]))


def _build(kind: type[Part], table: Mapping[str, Any], where: str, **ready: Any) -> Part:
    """A part of the description of what YAML holds, and of what is as the field has it."""
    known = {f.name: f for f in fields(cast(Any, kind))}
    table = {key: value for key, value in table.items() if value is not None}  # as if it was left out
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ValueError(f"{where}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(known)}")
    missing = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING and n not in table]
    if missing:
        raise ValueError(f"{where}: {', '.join(map(repr, missing))} is missing")
    try:
        return kind(**{key: entry(key, value) for key, value in table.items()}, **ready)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
