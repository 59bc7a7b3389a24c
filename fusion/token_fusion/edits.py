"""Edits of tiles: what a place would look like if one thing about it were otherwise. Every edit returns new tiles.

A place's location is a modality like any other (its bands are latitude and longitude, say): ``add``, ``assign`` and
``exchange`` move places, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from ..data.modality import Modality
from ..data.tiles import TileBatch
from .tokens import Tokens

__all__ = ["Edit", "add", "assign", "edit_from", "exchange", "hide", "hide_tokens", "paste", "shift_days", "take"]

Edit = Callable[[TileBatch], TileBatch]


def take(batch: TileBatch, order: Sequence[int] | Tensor) -> TileBatch:
    """The tiles ``order`` of a batch, in that order; a tile may be taken twice."""
    rows = _order(batch, order)
    labels = None if batch.labels is None else batch.labels[rows]
    names, geo, origin = (
        tuple(kept[i] for i in rows.tolist()) if kept else () for kept in (batch.names, batch.geo, batch.origin)
    )
    values, days, valid, observed = (
        {k: v[rows] for k, v in part.items()} for part in (batch.values, batch.days, batch.valid, batch.observed)
    )
    return TileBatch(values, days, valid, labels, names, geo, observed, origin)


def exchange(
    batch: TileBatch,
    names: Sequence[str],
    *,
    source: TileBatch | None = None,
    order: Sequence[int] | Tensor | None = None,
) -> TileBatch:
    """The modalities ``names`` come from other tiles: those of tile b from ``source``'s tile ``order[b]``.

    Args:
        source: other places, e.g. of another climate; the batch itself by default.
        order: by default the next tile's, and the first tile's for the last.

    Raises:
        ValueError: a modality that either does not have, or an order that does not fit.
    """
    source = batch if source is None else source
    _require(batch, names)
    _require(source, names)
    order = torch.arange(1, len(batch) + 1) % len(source) if order is None else order
    if len(order) != len(batch):
        raise ValueError(f"exchange: order has {len(order)} entries for {len(batch)} tiles")
    other = take(source.select(list(names)), order)
    return replace(
        batch, values=batch.values | other.values, days=batch.days | other.days, valid=batch.valid | other.valid
    )


def add(
    batch: TileBatch, modality: Modality, amounts: Mapping[str, float], *, patches: Sequence[int] | None = None
) -> TileBatch:
    """Adds an amount to bands of a modality, e.g. ``{"elevation": 300.0}``, on every date.

    Args:
        patches: only in these, numbered in raster order; everywhere by default.

    Raises:
        ValueError: the batch has no such modality, the modality no such band, the tiles no such patch.
    """
    return _changed(batch, modality, amounts, patches, lambda values, amount: values + amount)


def assign(
    batch: TileBatch, modality: Modality, levels: Mapping[str, float], *, patches: Sequence[int] | None = None
) -> TileBatch:
    """Sets bands of a modality to a value, e.g. those of snow; arguments and errors are those of :func:`add`."""
    return _changed(batch, modality, levels, patches, lambda values, level: torch.full_like(values, level))


def paste(
    batch: TileBatch,
    modality: Modality,
    patches: Sequence[int],
    *,
    source: TileBatch | None = None,
    order: Sequence[int] | Tensor | None = None,
) -> TileBatch:
    """Replaces some patches of an image by the same patches of other tiles, chosen as in :func:`exchange`.

    A tile that has no such image, or whose counterpart has none, stays as it is.

    Raises:
        ValueError: as :func:`exchange` and :func:`add`; or the modality is a series, whose dates differ between tiles.
    """
    name = modality.name
    _require(batch, [name])
    if modality.kind != "image":
        raise ValueError(f"paste: {name!r} is a series; its dates differ between tiles, exchange all of it instead")
    other = exchange(batch, [name], source=source, order=order)
    region = _region(batch, modality, patches)
    region = region & (batch.valid[name] & other.valid[name])[:, None, None, None]
    return _with_values(batch, name, torch.where(region, other.values[name], batch.values[name]))


def hide(batch: TileBatch, names: Sequence[str], *, days: tuple[int, int] | None = None) -> TileBatch:
    """Takes the modalities ``names`` for not observed; of series with ``days`` only dates from ... up to, inclusive."""
    _require(batch, names)
    valid = dict(batch.valid)
    for name in names:
        gone = torch.ones_like(valid[name])
        if days is not None:
            if name not in batch.days:
                raise ValueError(f"hide: {name!r} is an image and has no days; hide it without days")
            gone = (batch.days[name] >= days[0]) & (batch.days[name] <= days[1])
        valid[name] = valid[name] & ~gone
    return replace(batch, valid=valid)


def shift_days(batch: TileBatch, name: str, days: int, *, period: int | None = 365) -> TileBatch:
    """Moves the dates of a series: another season.

    Args:
        days: positive is later.
        period: dates beyond it come back at its start, as in a climate that repeats; None lets them go beyond.

    Raises:
        ValueError: the batch has no such series.
    """
    _require(batch, [name])
    if name not in batch.days:
        raise ValueError(f"shift_days: {name!r} is an image and has no days")
    moved = batch.days[name] + days
    if period is not None:
        moved = moved % period
    valid = batch.valid[name]
    order = moved.masked_fill(~valid, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)  # padding stays last
    values = batch.values[name].gather(1, order[:, :, None, None, None].expand_as(batch.values[name]))
    return replace(
        batch,
        values=batch.values | {name: values},
        days=batch.days | {name: torch.where(valid, moved, 0).gather(1, order)},
        valid=batch.valid | {name: valid.gather(1, order)},
    )


def hide_tokens(
    tokens: Tokens,
    name: str,
    *,
    patches: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
    days: tuple[float, float] | None = None,
) -> Tokens:
    """Takes tokens of a modality for not observed: of some patches, some channels, some days, or what is all of these.

    Raises:
        ValueError: the modality does not exist, or has no such token.
    """
    layout, part = tokens.layout, tokens.layout.part(name)
    gone = torch.ones(part.stop - part.start, dtype=torch.bool)
    if patches is not None:
        gone &= torch.isin(layout.position[part].cpu(), torch.as_tensor(patches, dtype=torch.int64) + 1)
    if channels is not None:
        gone &= torch.isin(layout.channel[part].cpu(), torch.as_tensor(channels, dtype=torch.int64))
    if days is not None:
        gone &= (layout.time[part].cpu() >= days[0]) & (layout.time[part].cpu() <= days[1])
    if not gone.any():
        raise ValueError(f"hide_tokens: {name!r} has no token with {patches=}, {channels=}, {days=}")
    return tokens.with_codes(name, tokens.of(name).masked_fill(gone.to(tokens.codes.device), -1))


def edit_from(settings: Mapping[str, Any], modalities: Sequence[Modality]) -> Edit:
    """An edit from plain settings, for YAML and the command line; several are made in order.

    ============================================  ==================================
    ``exchange: [aerial, terrain]``               with the next tile of the batch
    ``add: {terrain: {elevation: 300}}``          to bands
    ``assign: {aerial: {NIR: 40, R: 60}}``        bands to a value
    ``paste: {aerial: [0, 1]}``                   patches of the next tile
    ``hide: [s2]``                                not observed
    ``shift_days: {s2: 90}``                      another season
    ``patches: [0, 1, 2]``                        where ``add`` and ``assign`` act
    ============================================  ==================================

    Raises:
        ValueError: no edit or an unknown one, or an unknown modality.
    """
    known = {m.name: m for m in modalities}
    where = settings.get("patches")
    wanted = {kind: value for kind, value in settings.items() if kind != "patches"}
    unknown = [kind for kind in wanted if kind not in (*_OF_NAMES, *_OF_MODALITY)]
    if unknown or not wanted:
        there = ", ".join((*_OF_NAMES, *_OF_MODALITY))
        raise ValueError(f"edit: {', '.join(unknown) or 'nothing'} is no edit; there are {there}")
    edits: list[Edit] = []
    for kind, value in wanted.items():
        if kind in _OF_MODALITY and not isinstance(value, Mapping):
            raise ValueError(f"edit: {kind} wants a mapping from modality to what to do with it, not {value!r}")
        names = [value] if isinstance(value, str) else list(value)
        if strange := [name for name in names if name not in known]:
            raise ValueError(f"edit: no modality {', '.join(map(str, strange))}; there are {', '.join(known)}")
        if kind in _OF_NAMES:
            edits.append(partial(_OF_NAMES[kind], names=names))
        else:
            edits += [_OF_MODALITY[kind](known[name], value[name], where) for name in names]
    return lambda batch: reduce(lambda tiles, edit: edit(tiles), edits, batch)


_OF_NAMES: dict[str, Callable[..., TileBatch]] = {"exchange": exchange, "hide": hide}
_OF_MODALITY: dict[str, Callable[[Modality, Any, Sequence[int] | None], Edit]] = {
    "add": lambda modality, amounts, where: partial(add, modality=modality, amounts=amounts, patches=where),
    "assign": lambda modality, levels, where: partial(assign, modality=modality, levels=levels, patches=where),
    "paste": lambda modality, patches, _: partial(paste, modality=modality, patches=patches),
    "shift_days": lambda modality, days, _: partial(shift_days, name=modality.name, days=int(days)),
}


def _changed(
    batch: TileBatch,
    modality: Modality,
    amounts: Mapping[str, float],
    patches: Sequence[int] | None,
    change: Callable[[Tensor, float], Tensor],
) -> TileBatch:
    name = modality.name
    _require(batch, [name])
    unknown = [band for band in amounts if band not in modality.bands]
    if unknown or not amounts:
        raise ValueError(f"{name!r} has no band {', '.join(unknown) or '(none named)'}; it has {modality.bands}")
    values, where = batch.values[name].clone(), _region(batch, modality, patches)
    where = where & batch.valid[name][..., None, None, None]
    for band, amount in amounts.items():
        c = modality.bands.index(band)
        values[..., c, :, :] = torch.where(
            where[..., 0, :, :], change(values[..., c, :, :], float(amount)), values[..., c, :, :]
        )
    return _with_values(batch, name, values)


def _region(batch: TileBatch, modality: Modality, patches: Sequence[int] | None) -> Tensor:
    """(1, H, W) bool: the pixels of some patches, or all."""
    height, width = batch.values[modality.name].shape[-2:]
    size = modality.patch_size
    rows, columns = height // size, width // size
    if patches is None:
        return torch.ones(1, height, width, dtype=torch.bool, device=batch.values[modality.name].device)
    if not len(patches) or min(patches) < 0 or max(patches) >= rows * columns:
        raise ValueError(
            f"{modality.name!r} has patches 0 to {rows * columns - 1} ({rows} x {columns}), not {list(patches)}"
        )
    chosen = torch.zeros(rows * columns, dtype=torch.bool, device=batch.values[modality.name].device)
    chosen[list(patches)] = True
    grid = chosen.reshape(rows, columns)
    return grid.repeat_interleave(size, 0).repeat_interleave(size, 1)[None]


def _require(batch: TileBatch, names: Sequence[str]) -> None:
    if isinstance(names, str):
        raise TypeError(f"a list of modalities is wanted, not the string {names!r}")
    unknown = [name for name in names if name not in batch.values]
    if unknown or not names:
        raise ValueError(
            f"the tiles have no modality {', '.join(unknown) or '(none named)'} to edit; they have "
            f"{', '.join(batch.values)}"
        )


def _order(batch: TileBatch, order: Sequence[int] | Tensor) -> Tensor:
    rows = torch.as_tensor(order, dtype=torch.int64)
    if rows.ndim != 1 or not len(rows) or rows.min() < 0 or rows.max() >= len(batch):
        raise ValueError(f"tiles 0 to {len(batch) - 1} can be taken, not {rows.tolist()}")
    return rows


def _with_values(batch: TileBatch, name: str, values: Tensor) -> TileBatch:
    return replace(batch, values=batch.values | {name: values})
