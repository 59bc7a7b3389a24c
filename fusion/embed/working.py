"""What a map is made of until it is whole: finished strips in a folder beside it, with which a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..data import TileDataset
from ..data.spacing import evenly_spaced
from ..training.files import write_atomically
from .blend import Told, joined
from .claims import Claims
from .cog import Sheet
from .notes import crc, crc_of_file, note_of, to_note

__all__ = ["GROUP", "WorkingFolder", "WorkingRaster", "identity_of"]

_JOB, _JOURNAL, _CLAIMS = "job.json", "journal.jsonl", "claims"
GROUP = 4  # strips: where a process takes up the work, a row of tiles is encoded that another has encoded too
_BLOCK = 256
_NAMED = 1000  # tiles whose names are compared: to make those of millions takes minutes


def identity_of(dataset: TileDataset) -> dict[str, Any]:
    """What decides about a map of the data: how many tiles there are and where, the names of some, the values of three
    of them."""
    digest = hashlib.sha256()
    places = dataset.located()
    digest.update(str(places.frames).encode() + places.frame.tobytes() + places.corners.tobytes())
    for number in evenly_spaced(len(dataset), _NAMED):
        digest.update(dataset.name(int(number)).encode() + b"\0")
    for _, tile in dataset.readable(evenly_spaced(len(dataset), 3)):
        for name, values in sorted(tile.values.items()):
            digest.update(name.encode() + values.numpy().tobytes())
    return {"tiles": len(dataset), "data": digest.hexdigest()[:16]}


class WorkingFolder:
    """``<out>.partial`` beside the map: what is being made (``job.json``), and a folder for each raster.

    Args:
        path: the folder.
        job: what decides about the bytes of the map: model, data, options; plain types.
        measured: by name further things that do, which are measured by the first run and taken over by later ones.
        restart: throw away what an earlier run left.

    Attributes:
        job: with what was measured.

    Raises:
        ValueError: an earlier run left a folder for another job; the message says what differs.
    """

    def __init__(
        self,
        path: Path,
        job: Mapping[str, Any],
        measured: Mapping[str, Callable[[], Any]] | None = None,
        *,
        restart: bool = False,
    ) -> None:
        self.path, self._begun = path, False
        if restart:
            self.remove()
        known = not path.exists() or (path / _JOB).is_file()
        if not known and (not path.is_dir() or any(map(_foreign, path.iterdir()))):
            raise ValueError(f"{path} is in the way: no map that was begun has left it. Remove it, or give another out")
        path.mkdir(parents=True, exist_ok=True)
        with Claims(path / _CLAIMS).alone():  # others may begin at the same time
            self.job = self._begin(json.loads(json.dumps(job)), measured or {})
        self._begun = True

    def _begin(self, wanted: dict[str, Any], measured: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        if not (self.path / _JOB).is_file():
            wanted |= {name: measure() for name, measure in measured.items()}
            write_atomically(self.path / _JOB, to_note(wanted) + b"\n")
            return wanted
        found = note_of((self.path / _JOB).read_bytes())
        if found is None:
            raise ValueError(
                f"{self.path / _JOB} is damaged, or of another version, so that the map that was begun there cannot be "
                "gone on with: begin anew with restart=True (--restart), which removes it"
            )
        wanted |= {name: found[name] for name in measured if name in found}
        names = dict.fromkeys([*found, *wanted])
        other = [f"{n} {found.get(n)!r} there, {wanted.get(n)!r} now" for n in names if found.get(n) != wanted.get(n)]
        if other:
            raise ValueError(
                f"{self.path} holds the beginning of another map: {'; '.join(other)}. Begin anew with restart=True "
                "(--restart), which removes it, or give another out"
            )
        return found

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """For what one process does and the others wait for; False where another has removed the folder."""
        with Claims(self.path / _CLAIMS).alone() as there:
            yield there and (self.path / _JOB).is_file()

    def raster(self, name: str, file: Path | None = None) -> WorkingRaster:
        """What is finished of a raster.

        Args:
            file: of the map that it becomes; if that was complete and is gone, it is made anew.
        """
        found = WorkingRaster(self.path / name)
        if found.complete and file is not None and not file.exists():
            shutil.rmtree(found.path)
            found = WorkingRaster(found.path)
        return found

    def remove(self) -> None:
        """Removes what an earlier run left; a kill within leaves a folder that is still known as such. Another process
        of the same map may do so at the same time."""
        if self._begun or (self.path / _JOB).is_file():
            for raster in self.path.glob("*/"):
                shutil.rmtree(raster, ignore_errors=True)
            shutil.rmtree(self.path, ignore_errors=True)


def _foreign(file: Path) -> bool:
    """Whether it is none of those that are there before the job is known."""
    return file.name not in (_JOB, _CLAIMS) and not (file.name.startswith(f".{_JOB}.") and file.suffix == ".partial")


class WorkingRaster:
    """The finished strips of one raster: a small tiled GeoTIFF for every strip and sheet, and a journal of strips.

    A strip is in the journal once its files are on the disk, so that what a kill leaves half written is written again.
    With it are the checksums of what it consists of; a later run makes again what has changed since (:meth:`verify`).
    Several processes may work on one raster: each takes groups of strips that no other has (:attr:`claims`), and notes
    in the journal what it has finished. A group has :data:`GROUP` strips.

    Attributes:
        done: numbers of the strips that are finished, by whomever.
        observed: whether any tile of these had an observation.
        damaged: by name of a tile that could not be read, the reason.
        span: first and last date of the series of its tiles, in ISO; None where they have no dates.
        complete: the map itself was written.
        summary: what was noted of it then.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.observed, self.complete = path, False, False
        self.done: set[int] = set()
        self._contents: dict[int, dict[str, int]] = {}  # by strip and part of it the checksum
        self.summary: dict[str, Any] = {}
        self.damaged: dict[str, str] = {}
        self.span: tuple[str, str] | None = None
        self.claims = Claims(path / _CLAIMS)
        path.mkdir(parents=True, exist_ok=True)
        self.refresh()
        self._earlier = set(self.done)  # strips that this run has not verified yet

    def refresh(self) -> None:
        """Learns what other processes have finished. Of a journal that is gone another has completed the map."""
        try:
            lines = (self.path / _JOURNAL).read_bytes().splitlines()
        except FileNotFoundError:  # or nothing has been finished yet
            self.complete = self.complete or bool(self.done) or not self.path.is_dir()
            return
        for line in lines:
            entry = note_of(line)
            if entry is None:  # where the machine stopped, or a bit has changed: what it said is made again
                continue
            if "again" in entry:
                self.done.discard(entry["again"])
            if "complete" in entry:
                self.complete, self.summary = True, entry["complete"]
            if "strip" in entry:
                self.done.add(entry["strip"])
                self._contents[entry["strip"]] = entry["contents"]
                self.observed = self.observed or entry["observed"]
                self.damaged |= entry.get("damaged", {})
                self.span = joined(self.span, entry.get("dates", ()))

    def add(self, strip: int, sheets: Mapping[str, Sheet], values: np.ndarray, observed: bool, told: Told) -> None:
        """Stores a strip: ``values`` (rows, columns, D) as every sheet stores them.

        Raises:
            RuntimeError: it cannot be written; what was finished stays.
        """
        contents = {}
        for name, sheet in sheets.items():
            content = _encoded(sheet.store(values), sheet)
            write_atomically(self._file(name, strip), content)
            contents[name] = crc(content)
        self.added(strip, contents, observed, told)

    def added(self, strip: int, contents: Mapping[str, int], observed: bool, told: Told) -> None:
        """A strip is on the disk.

        Args:
            contents: by part of it the checksum (:func:`~.notes.crc`).
            observed: whether any tile of it had an observation.
            told: by which it was made: its :attr:`damaged` tiles, and its dates.
        """
        found = {name: reason for name, reason in told.damaged.items() if name not in self.damaged}
        more: dict[str, Any] = {"damaged": found} if found else {}
        more |= {"dates": told.span} if told.span else {}
        self._note({"strip": strip, "contents": dict(contents), "observed": observed, **more})
        self.done.add(strip)
        self.observed, self.damaged = self.observed or observed, self.damaged | found
        self.span = joined(self.span, told.span or ())

    def verify(self, found: Callable[[int], Mapping[str, int]] | None = None) -> None:
        """Compares what earlier runs have made with its checksums. What has changed is no longer done, and warned of.

        Args:
            found: from a strip to the checksums that its parts have now; by default those of its files.
        """
        read, damaged = found or self._found, list[int]()
        for strip in sorted(self._earlier):
            if self._changed(strip, read):
                with self.claims.holding(strip // GROUP) as mine:  # else another process is making it
                    self.refresh()
                    if mine and self._changed(strip, read):
                        self._note({"again": strip})
                        self.done.discard(strip)
                        damaged.append(strip)
        self._earlier.clear()
        if damaged:
            warnings.warn(
                f"{self.path}: {len(damaged)} strips that an earlier run has made are damaged and are made again",
                stacklevel=3,
            )

    def _changed(self, strip: int, found: Callable[[int], Mapping[str, int]]) -> bool:
        if self.complete or strip not in self.done:
            return False
        try:
            return dict(found(strip)) != self._contents[strip]
        except OSError:
            return not self.complete

    def _found(self, strip: int) -> dict[str, int]:
        return {name: crc_of_file(self._file(name, strip)) for name in self._contents[strip]}

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        """The map was written; the strips are no longer wanted.

        Args:
            summary: of it, in plain types, for :attr:`summary` of a later run.
        """
        self.summary = dict(summary or {})
        self._note({"complete": self.summary})
        self.complete = True
        for file in self.path.iterdir():
            if file.name not in (_JOURNAL, _CLAIMS):
                file.unlink()

    def stored(self, name: str, shape: tuple[int, int], height: int, bands: int) -> _Strips:
        """What was stored of one sheet, as (rows, columns, bands) of which windows can be read."""
        files = [self._file(name, number) for number in range(-(-shape[0] // height))]
        return _Strips(files, (*shape, bands), height)

    def _file(self, name: str, strip: int) -> Path:
        return self.path / f"{name}-{strip:06d}.tif"

    def _note(self, entry: Mapping[str, Any]) -> None:
        with open(self.path / _JOURNAL, "a+b") as journal:
            if journal.tell():
                journal.seek(-1, os.SEEK_END)
            torn = journal.read(1) not in (b"", b"\n")  # what a stopped machine left of a line stays one of its own
            # In one write, which appends wherever the file has been read: others may write too.
            journal.write(b"\n" * torn + to_note(entry) + b"\n")
            journal.flush()
            os.fsync(journal.fileno())


class _Strips:
    """(rows, columns, bands) in a file a strip."""

    def __init__(self, files: list[Path], shape: tuple[int, int, int], height: int) -> None:
        self.files, self.shape, self.height = files, shape, height

    def __getitem__(self, window: tuple[slice, slice], /) -> np.ndarray:
        import rasterio
        from rasterio.windows import Window

        (top, bottom), (left, right) = ((part.start, part.stop) for part in window)
        parts = []
        for number in range(top // self.height, -(-bottom // self.height)):
            first = number * self.height
            upper, lower = max(top, first), min(bottom, first + self.height)
            with rasterio.open(self.files[number]) as file:
                parts.append(file.read(window=Window(left, upper - first, right - left, lower - upper)))
        return np.moveaxis(np.concatenate(parts, axis=1), 0, -1)


def _encoded(stored: np.ndarray, sheet: Sheet) -> bytes:
    """A tiled GeoTIFF of (bands, rows, columns) without a place."""
    import rasterio
    from affine import Affine

    bands, rows, columns = stored.shape
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": rows,
        "width": columns,
        "count": bands,
        "dtype": sheet.dtype,
        "transform": Affine(2, 0, 0, 0, -2, 0),  # any but the identity, of which rasterio warns
        "compress": "deflate",
        "zlevel": 1,
        "bigtiff": "if_safer",
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": -(-rows // 16) * 16,
    }
    with rasterio.io.MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(stored)
        return bytes(memory.read())
