"""Looks at data before a model does: a report for people, refusals for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .dataset import TileDataset
from .doubtful_values import doubtful_values
from .doubts import DoubtfulDates
from .label_check import check_labels, describe_labels
from .limits import check_count
from .modality import Modality
from .partners import PartnerDates
from .processing_baseline import DarkEnd
from .series import counting_infinite
from .spacing import evenly_spaced
from .tiles import Geo, Tile, TileBatch, values_by_band
from .units import HUGE, check_range, looks_like, readable, require_no_fill

__all__ = ["ModalityReport", "Report", "check", "check_labels", "check_modalities", "check_values"]


@dataclass(frozen=True)
class ModalityReport:
    """What was found of one modality; ``dates``: fewest, median, most usable dates of a tile, ``days``: their span."""

    modality: Modality
    files: int
    dtype: str
    tiles: int
    dates: tuple[int, int, int] | None
    days: tuple[int, int] | None
    low: float
    high: float
    looks: str


@dataclass
class Report:
    """Result of :func:`check`; printing it gives the table.

    Attributes:
        problems: what must be repaired, one entry a file or modality.
        warnings: what should be known.
    """

    tiles: int
    read: int
    crs: str
    modalities: list[ModalityReport]
    labels: str
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        header = ("modality", "files", "dates", "bands", "res", "dtype", "range (p1..p99)", "unit", "looks like")
        rows = [header, *(self._row(m) for m in self.modalities)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append(f"{self.tiles} tiles, {self.read} read; crs {self.crs}; labels: {self.labels}")
        lines += [f"! {warning}" for warning in self.warnings]
        lines += [f"ERROR {problem}" for problem in self.problems]
        return "\n".join(lines)

    @staticmethod
    def _row(found: ModalityReport) -> tuple[str, ...]:
        modality = found.modality
        bands = " ".join(modality.bands[:4]) + (f" ...({modality.channels})" if modality.channels > 4 else "")
        dates = "1" if modality.kind == "image" else "-"
        if found.dates and found.days:
            dates = f"{found.dates[0]}-{found.dates[2]} (day {found.days[0]}..{found.days[1]})"
        return (
            modality.name,
            str(found.files or "-"),
            dates,
            bands,
            f"{modality.resolution:g} m",
            found.dtype or "-",
            f"{readable(found.low)}..{readable(found.high)}" if found.tiles else "-",
            modality.unit or "-",
            found.looks,
        )


class _Tally:
    """Values and dates of one modality, tile after tile; keeps some values of each."""

    KEPT = 2048
    COMPARED = 200_000  # of all tiles, in search of doubtful values

    def __init__(self, modality: Modality) -> None:
        self.modality, self.tiles = modality, 0
        self.values: list[np.ndarray] = []
        self.seen: list[np.ndarray] = []  # of the values
        self.doubtful = DoubtfulDates(modality)
        self.dark_end = DarkEnd(modality)
        self.huge: list[tuple[int, float, str]] = []  # how many, one of them, and the tile
        self.dates: list[int] = []
        self.days: list[int] = []

    def add(self, tile: Tile) -> None:
        values = values_by_band(tile, self.modality.name)  # (C, n)
        if values is None:
            return
        self.tiles += 1
        huge = np.abs(values) >= HUGE
        if huge.any():
            self.huge.append((int(huge.sum()), float(values[huge][0]), tile.name))
        step = max(1, values.shape[1] // self.KEPT)
        self.values.append(values[:, ::step])
        observed = values_by_band(replace(tile, values=tile.observed), self.modality.name)
        self.seen.append(np.ones_like(self.values[-1], dtype=bool) if observed is None else observed[:, ::step] > 0)
        self.doubtful.add(tile)
        self.dark_end.add(tile)
        if self.modality.kind == "series":
            valid = tile.valid[self.modality.name]
            self.dates.append(int(valid.sum()))
            self.days += [int(d) for d in tile.days[self.modality.name][valid][[0, -1]]]

    def warnings(self) -> list[str]:
        if not self.values:
            return []
        step = max(1, sum(part.shape[1] for part in self.values) // self.COMPARED)
        values, seen = (np.concatenate(parts, axis=1)[:, ::step] for parts in (self.values, self.seen))
        values = np.where(seen, values, np.nan)
        told = doubtful_values(values, self.modality)
        if self.huge and not any("undeclared nodata" in one for one in told):  # too few to be among these values
            (_, value, tile), count = self.huge[0], sum(count for count, *_ in self.huge)
            told.append(
                f"{self.modality.name}: {count} values such as {value:.6g}, e.g. in tile {tile}: an undeclared nodata "
                "value, or a damaged file; say nodata (in Python: NaN)"
            )
        return self.doubtful.warnings() + self.dark_end.warnings() + told

    def report(self, files: int, dtype: str) -> ModalityReport:
        values = np.concatenate(self.values, axis=1) if self.values else np.zeros((self.modality.channels, 0))
        low, high = np.percentile(values, [1, 99]) if values.size else (0.0, 0.0)
        dates = (min(self.dates), int(np.median(self.dates)), max(self.dates)) if self.dates else None
        days = (min(self.days), max(self.days)) if self.days else None
        looks = looks_like(values)
        return ModalityReport(self.modality, files, dtype, self.tiles, dates, days, float(low), float(high), looks)


def check(dataset: TileDataset, tiles: int | None = 2000) -> Report:
    """Reads tiles (all up to ``tiles``, then evenly spaced ones; None for all) and tells what is in them.

    It goes on after an error: every file that cannot be read is named in ``problems``.
    """
    check_count("check", "tiles", tiles, optional=True)
    chosen = evenly_spaced(len(dataset), len(dataset) if tiles is None else tiles)
    tallies = {m.name: _Tally(m) for m in dataset.modalities}
    partners = PartnerDates(dataset.modalities, dataset.grid)
    problems: dict[str, str] = {}  # by file: one spoils many tiles
    empty: list[str] = []
    unread = 0
    infinite: dict[str, list[str]] = {}  # tiles by modality
    infinite_values: dict[str, int] = {}
    for i in map(int, chosen):
        try:
            with counting_infinite() as counts:
                tile = dataset[i]
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            text, name = str(error), dataset.names[i]
            problems.setdefault(text.partition(": ")[0], text if name in text else f"tile {name}: {text}")
            unread += 1
            continue
        for name, count in counts.items():
            infinite.setdefault(name, []).append(tile.name)
            infinite_values[name] = infinite_values.get(name, 0) + count
        for tally in tallies.values():
            tally.add(tile)
        partners.add(tile)
        if not tile.values:
            empty.append(tile.name)
    listed = list(problems.values())
    warnings = list(dataset.notes())
    for name, tiles_with in infinite.items():
        warnings.append(
            f"{name or 'values'}: {infinite_values[name]} infinite values in {len(tiles_with)} of {len(chosen)} tiles, "
            f"e.g. {tiles_with[0]}; they count as missing. -inf is mostly the dB of 0, inf a division by 0"
        )
    for name, tally in tallies.items():
        if not tally.tiles:
            listed.append(
                f"modality {name!r}: nothing observed in {len(chosen)} tiles; every date is nodata, NaN or too cloudy. "
                "Check nodata and the cloud limit, or leave it out"
            )
        elif tally.tiles < len(chosen) - unread:
            warnings.append(f"{name}: missing in {len(chosen) - unread - tally.tiles} of {len(chosen)} tiles")
        if tally.values:
            try:
                check_range(np.concatenate(tally.values, axis=1), tally.modality)
            except ValueError as error:
                listed.append(str(error))
        warnings += tally.warnings()
    warnings += partners.warnings()
    if empty:
        warnings.append(f"{len(empty)} tiles without any observation, e.g. {empty[0]}: leave them out of training")
    if len(dataset) == 1:
        warnings.append("one tile only: contrastive training needs other tiles to compare with")
    try:
        labels, of_labels = describe_labels(dataset)
    except ValueError as error:  # a file of labels, which a tile may have told already
        labels, of_labels = "cannot be read", []
        listed += [] if any(str(error) in problem for problem in listed) else [str(error)]
    crs = sorted({"unknown" if place is None else place.crs for place in _places(dataset, chosen)})
    reports = [tally.report(*dataset.storage(name)) for name, tally in tallies.items()]
    return Report(len(dataset), len(chosen) - unread, ", ".join(crs), reports, labels, listed, warnings + of_labels)


def _places(dataset: TileDataset, chosen: np.ndarray) -> list[Geo | None]:
    try:
        return dataset.subset(chosen[:: max(1, len(chosen) // 50)]).places()
    except ValueError:  # a damaged file, which is a problem already
        return [None]


def check_modalities(data: Sequence[Modality], model: Sequence[Modality]) -> None:
    """Whether data fit a model: every modality in common has the same bands in the same order, unit and resolution.

    Raises:
        ValueError: nothing in common, or the first difference; the message says which bands to use.
    """
    wanted = {m.name: m for m in model}
    common = [m for m in data if m.name in wanted]
    if not common:
        raise ValueError(
            f"the data has {', '.join(m.name for m in data)}, the model knows {', '.join(wanted)}: none in common; "
            "rename the modalities of the data"
        )
    for has in common:
        want = wanted[has.name]
        if has.bands != want.bands:
            same = set(has.bands) == set(want.bands)
            missing = [band for band in want.bands if band not in has.bands]
            raise ValueError(
                f"modality {has.name!r}: the data has bands {', '.join(has.bands)}; the model wants "
                f"{', '.join(want.bands)} "
                + ("in this order" if same else f"({', '.join(missing) or 'no other'} missing)")
                + (f"; say use: [{', '.join(want.bands)}]" if not missing else "")
            )
        for what in ("kind", "resolution", "patch_size", "unit"):
            a, b = getattr(has, what), getattr(want, what)
            if a != b and (what != "unit" or (a and b)):
                raise ValueError(f"modality {has.name!r}: {what} is {a!r} in the data and {b!r} in the model")


def check_values(
    data: TileDataset | Tile | TileBatch,
    modalities: Modality | Sequence[Modality] | None = None,
    tiles: int = 16,
    *,
    readable: bool = False,
) -> None:
    """Refuses data whose bands or range are not what they should be.

    Args:
        data: a data set (of which ``tiles`` are read), a tile or a batch.
        modalities: what a model expects, with its statistics; by default what the data set says of itself.
        readable: leave out tiles whose files are damaged, for who names them himself.

    Raises:
        DamagedFile: a tile that cannot be read.
        ValueError: other bands, another number of bands, another unit, a range that is off by a factor of ten, or a
            value that can only be a fill value. The message says what the values look like and how to repair it.
    """
    wanted = [modalities] if isinstance(modalities, Modality) else modalities
    samples: list[Tile | TileBatch]
    if isinstance(data, TileDataset):
        if wanted is not None:
            check_modalities(data.modalities, wanted)
        chosen = evenly_spaced(len(data), tiles)
        samples = [tile for _, tile in data.readable(chosen)] if readable else [data[int(i)] for i in chosen]
        wanted = wanted or data.modalities
    else:
        samples = [data]
    if wanted is None:
        raise ValueError("check_values: a tile or batch needs modalities to be compared with")
    for modality in wanted:
        for sample in samples:
            given = sample.values.get(modality.name)
            if given is not None and given.shape[-3] != modality.channels:
                raise ValueError(
                    f"modality {modality.name!r}: {given.shape[-3]} bands in data of shape {tuple(given.shape)}, "
                    f"{modality.channels} wanted: {', '.join(modality.bands)}"
                )
        parts = [part for sample in samples if (part := values_by_band(sample, modality.name)) is not None]
        if parts:
            values = np.concatenate(parts, axis=1)
            require_no_fill(values, modality.name, "these data")
            check_range(values, modality)
