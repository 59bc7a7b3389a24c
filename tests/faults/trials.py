"""Runs the trials of one kind in a process of its own: ``python trials.py KIND FOLDER FIRST`` prints a line each.

A line is JSON: number and name of the trial, and null when it begins, then its fault or "". A trial that takes too long
is a fault; one that ends the process has no second line, and whoever runs this begins again behind it.

Of each kind a sample is tried, the same each time; with ``all`` as a fourth argument all are, which takes an hour.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import containers
import damage
import descriptions
import labels
import models
import numpy as np
import rasters
import yaml

SECONDS = 30  # of a trial
MEMORY = 1 << 30  # bytes more than before
ADDRESSES = 8 << 30  # bytes more than at the beginning: what asks for more gets a MemoryError
TOLD = (ValueError, TypeError, RuntimeError, KeyError, OSError, ImportError, MemoryError)  # as in fusion/cli.py
# What Python and its libraries say of a value that nobody expected.
_MEANINGLESS = re.compile(
    r"not supported between|unhashable|has no attribute|object is not|unsupported operand|cannot unpack|to unpack|"
    r"unexpected keyword|must be real number|cannot convert|sequence item|out of bounds|out of range|not iterable|"
    r"positional argument|ufunc|must be str|not a string|could not be broadcast|invalid literal|truth value|"
    r"indices must be|expected str|NoneType|broadcast together|byte string"
)
# What libraries raise where a format cannot hold the damage, such as text in JPEG 2000: that is no trial, and the test
# asks for 25 of each kind that are.
_NOT_WRITTEN = (TypeError, ValueError, OverflowError, OSError, RuntimeError, LookupError)
# Sentences that have the library's own words in brackets behind them.
_WRAPPED = re.compile(r"damaged or incomplete|is not YAML|does not fit|cannot be rebuilt|cannot be read \(")
_OF_THE_DATA = re.compile(r"modality '|(s2|dem|labels)\b|target |tile |one tile only|no label")  # how a report begins


class TooLong(BaseException):
    """No Exception, so that nobody catches it."""


@dataclass(frozen=True)
class Kind:
    """
    Attributes:
        whole: writes the folder with nothing damaged, and returns the file to damage.
        damages: what is done to that file.
        use: what users do with the folder; each is called, and may raise.
        named: what a message must contain, one of them.
        most: trials of the sample.
    """

    whole: Callable[[Path], Path]
    damages: Callable[[Path], Iterable[damage.Damage]]
    use: Callable[[Path], Iterator[Callable[[], Any]]]
    named: tuple[str, ...]
    most: int


def read(folder: Path) -> Iterator[Callable[[], Any]]:
    """What commands do with a described folder."""
    from fusion.commands.describe import describe
    from fusion.data import open_cubes, open_data

    source, options = folder / "fusion.yaml", {"folder": str(folder / "data")}
    yield lambda: _read_tiles(open_data(source, **options))
    yield lambda: _read_cubes(open_cubes(source, **options))
    yield lambda: describe(str(folder / "data"))


def _read_tiles(dataset: Any) -> None:
    """As ``fusion data check`` and training read it."""
    from fusion.data import fit_statistics
    from fusion.data.check import check

    report = check(dataset)
    for problem in report.problems:
        if _MEANINGLESS.search(problem) or not (_OF_THE_DATA.match(problem) or "north" in problem):
            raise AssertionError(f"reported: {problem}")
    for tile in chain((dataset[i] for i in range(min(len(dataset), 20))), (dataset[i, 7] for i in range(3))):
        for name, values in tile.values.items():
            if not values.isfinite().all():
                raise AssertionError(f"tile {tile.name}: {name} is not finite")
            if values.abs().max() >= 1e19 and "nodata" not in str(report):
                raise AssertionError(f"tile {tile.name}: {name} has {values.abs().max():g}, and nothing says so")
    if dataset.task is not None:
        found = dataset.labels()
        if found.is_floating_point() and (found.isinf().any() or (found.abs() >= 1e30).any()):
            raise AssertionError(f"labels reach {found.abs().max():g}")
    for modality in fit_statistics(dataset):
        if not np.isfinite([modality.mean, modality.std]).all():
            raise AssertionError(f"statistics {modality.mean} {modality.std}")


def _read_cubes(cubes: Any) -> None:
    for cube in cubes:
        for sensor in cube.sensors.values():
            for values, observed in sensor.strips():
                if not np.isfinite(values[observed]).all():
                    raise AssertionError(f"cube {cube.name} is not finite")


def _of_containers(kind: str, times: int, most: int) -> Kind:
    suffix, write = containers.FORMATS[kind]

    def whole(folder: Path) -> Path:
        (folder / "data").mkdir(parents=True)
        _describe(folder, containers.DESCRIPTION | {"files": f"{{scene}}{suffix}"})
        for seed, scene in enumerate(("north", "south")):
            write(folder / "data" / f"{scene}{suffix}", containers.whole(seed))
        return folder / "data" / f"north{suffix}"

    def damages(_: Path) -> Iterator[damage.Damage]:
        stored = containers.of_chunks(2, times) if suffix == ".zarr" else damage.of_bytes(1, times)
        yield from chain(stored, damage.of_place(), containers.of_content(kind))

    return Kind(whole, damages, read, ("north",), most)


def _describe(folder: Path, description: dict[str, Any]) -> None:
    (folder / "fusion.yaml").write_text(yaml.safe_dump(description))


def _npy() -> Kind:
    description = {
        "files": "{scene}_s2.npy",
        "tile": 40,
        "patch": 20,
        "modalities": {
            "s2": {"bands": ["B02", "B04", "B08"], "resolution": 10, "dates": "{scene}_dates.npy", "nodata": 0},
        },
    }

    def whole(folder: Path) -> Path:
        (folder / "data").mkdir(parents=True)
        _describe(folder, description)
        for seed, scene in enumerate(("north", "south")):
            arrays = containers.whole(seed)
            np.save(folder / "data" / f"{scene}_s2.npy", arrays["s2"][1])
            np.save(folder / "data" / f"{scene}_dates.npy", np.datetime64("2020-01-01") + arrays["dates"][1])
        return folder / "data" / "north_s2.npy"

    def content(path: Path) -> Iterator[damage.Damage]:
        def save(values: Any, of: str = "s2") -> Callable[[Path], None]:
            return lambda path: np.save(path.with_name(f"north_{of}.npy"), values, allow_pickle=True)

        values = np.load(path)
        for name, array in {
            "complex": values + 1j, "objects": np.array([{}] * 4), "text": values.astype(str), "bool": values > 0,
            "no axis": values[0, 0, 0, 0], "three axes": values[0], "five": values[None], "no dates": values[:0],
            "no columns": values[..., :0], "records": np.zeros(4, "f4,i4"), "dates": values.astype("datetime64[D]"),
            "huge": np.full_like(values, 1e35), "inf": values * np.inf, "nan": values * np.nan,
            "half": values.astype(np.float16),
        }.items():  # fmt: skip
            yield name, save(array)
        for name, dates in {
            "numbers": np.arange(4), "text": np.array(["x"] * 4), "three": np.array(["2020-01-01"] * 3, "M8[D]"),
            "NaT": np.array(["NaT"] * 4, "M8[D]"), "objects": np.array([None] * 4), "complex": np.ones(4) * 1j,
            "two axes": np.ones((4, 2)), "nan": np.full(4, np.nan), "far": np.array(["9999999-01-01"] * 4, "M8[D]"),
            "huge": np.full(4, 1e300), "bytes": np.array([b"\xff\xfe"] * 4),
        }.items():  # fmt: skip
            yield f"dates: {name}", save(dates, "dates")

    def damages(path: Path) -> Iterator[damage.Damage]:
        yield from chain(damage.of_bytes(3, 12), damage.of_place(), content(path))

    return Kind(whole, damages, read, ("north",), 100)


def _of_rasters(suffix: str) -> Kind:
    def whole(folder: Path) -> Path:
        (folder / "data").mkdir(parents=True)
        _describe(folder, rasters.description(suffix))
        for scene in ("north", "south"):
            for date in rasters.DATES:
                rasters.write_raster(folder / "data" / f"{scene}_{date}{suffix}")
        return folder / "data" / f"north_{rasters.DATES[1]}{suffix}"

    def damages(_: Path) -> Iterator[damage.Damage]:
        own = rasters.of_rasters() if suffix == ".tif" else ()
        yield from chain(damage.of_bytes(4, 20 if suffix == ".tif" else 6), damage.of_place(), own)

    return Kind(whole, damages, read, ("north",), 120 if suffix == ".tif" else 30)


def _of_labels(given: dict[str, Any], name: str) -> Kind:
    def whole(folder: Path) -> Path:
        (folder / "data").mkdir(parents=True)
        _describe(folder, containers.DESCRIPTION | {"files": "{scene}.npz", "labels": given})
        containers.FORMATS["NPZ"][1](folder / "data" / "north.npz", containers.whole())
        path = folder / "data" / name
        (labels.write_table if name.endswith(".csv") else labels.write_vector)(path)
        return path

    def damages(_: Path) -> Iterator[damage.Damage]:
        own = labels.of_table() if name.endswith(".csv") else labels.of_vector()
        yield from chain(damage.of_bytes(5, 8), damage.of_place(), own)

    return Kind(whole, damages, read, (name,), 60)


def _descriptions() -> Kind:
    def whole(folder: Path) -> Path:
        _of_containers("NPZ", 0, 0).whole(folder)
        return folder / "fusion.yaml"

    def damages(path: Path) -> Iterator[damage.Damage]:
        described = yaml.safe_load(path.read_text())
        yield from chain(damage.of_bytes(6, 12), damage.of_place(), descriptions.of_values(described))

    def use(folder: Path) -> Iterator[Callable[[], Any]]:
        yield from list(read(folder))[:2]

    return Kind(whole, damages, use, ("fusion.yaml", "north", "south", "/data"), 400)


def _checkpoints(system: str) -> Kind:
    def whole(folder: Path) -> Path:
        folder.mkdir(parents=True)
        models.write_checkpoint(folder / "best.safetensors", system)
        return folder / "best.safetensors"

    def damages(_: Path) -> Iterator[damage.Damage]:
        yield from chain(damage.of_bytes(7, 12), damage.of_place(), models.of_headers(system))

    def use(folder: Path) -> Iterator[Callable[[], Any]]:
        from fusion.training import load_finetuned, load_model, read_header

        for function in (read_header, load_model, load_finetuned):
            yield lambda function=function: function(folder / "best.safetensors")

    return Kind(whole, damages, use, ("best.safetensors",), 150)


def _states() -> Kind:
    def whole(folder: Path) -> Path:
        models.write_state(folder)
        return folder / "last.ckpt"

    def damages(path: Path) -> Iterator[damage.Damage]:
        places = (
            one for one in damage.of_place() if one[0] not in ("missing", "broken link", "folder", "link to itself")
        )
        yield from chain(damage.of_bytes(8, 8), places, models.of_states(path))

    def use(folder: Path) -> Iterator[Callable[[], Any]]:
        yield lambda: models.resume(folder)

    return Kind(whole, damages, use, ("last.ckpt", "/run"), 100)


KINDS: dict[str, Kind] = {
    "HDF5": _of_containers("HDF5", 12, 80),
    "NetCDF 4": _of_containers("NetCDF 4", 8, 30),
    "NetCDF 3": _of_containers("NetCDF 3", 8, 50),
    "Zarr 2": _of_containers("Zarr 2", 12, 60),
    "Zarr 3": _of_containers("Zarr 3", 12, 60),
    "NPZ": _of_containers("NPZ", 12, 80),
    "NPY": _npy(),
    "GeoTIFF": _of_rasters(".tif"),
    "JPEG 2000": _of_rasters(".jp2"),
    "descriptions": _descriptions(),
    "tables of labels": _of_labels(labels.TABLE, "labels.csv"),
    "GeoJSON": _of_labels(labels.VECTOR | {"vector": "labels.geojson"}, "labels.geojson"),
    "GeoPackage": _of_labels(labels.VECTOR | {"vector": "labels.gpkg"}, "labels.gpkg"),
    "checkpoints": _checkpoints("omnisat"),
    "tokenizers": _checkpoints("token-fusion"),
    "states of runs": _states(),
}


def fault(use: Callable[[], Any], named: tuple[str, ...]) -> str | None:
    """What is wrong with how a call ended; None where nothing is."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            use()
    except TooLong:
        return f"takes more than {SECONDS} s"
    except TOLD as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if type(error) not in TOLD and not isinstance(error, ValueError | OSError | ImportError | RuntimeError):
            return f"{type(error).__name__}: {text[:300]}"
        said = "" if _WRAPPED.search(text) else text
        if not any(name in text for name in named) or _MEANINGLESS.search(said):
            return f"{type(error).__name__} without name or meaning: {text[:300]}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return f"{more / 2**30:.1f} GiB of memory" if more > MEMORY else None


def run(kind: Kind, folder: Path, first: int, everything: bool) -> Iterator[tuple[int, str, str | None]]:
    original, trial = folder / "whole", folder / "run"
    shutil.rmtree(original, ignore_errors=True)
    path = kind.whole(original)
    for use in kind.use(original):
        wrong = fault(use, kind.named)
        if wrong is not None and "encoder without a head" not in wrong:
            raise RuntimeError(f"what is whole is not read: {wrong}")
    damages = list(kind.damages(path))
    sample = range(len(damages))
    if not everything and kind.most < len(damages):
        sample = sorted(random.Random(0).sample(sample, kind.most))
    for number in sample:
        name, apply = damages[number]
        if number < first or (name == "no permission" and os.geteuid() == 0):  # who may read everything
            continue
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(original, trial, symlinks=True)
        try:
            apply(trial / path.relative_to(original))
        except _NOT_WRITTEN:
            continue
        yield number, name, None
        signal.alarm(SECONDS)
        faulthandler.dump_traceback_later(2 * SECONDS, exit=True)
        known = name in ("missing", "folder", "broken link", "link to itself")  # then others are told of
        named = (*kind.named, "south", str(trial)) if known else kind.named
        faults = (fault(use, named) for use in kind.use(trial))
        wrong = next((one for one in faults if one is not None), "")
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        yield number, name, wrong


def main(name: str, folder: Path, first: int, everything: bool) -> None:
    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ADDRESSES, now + ADDRESSES))
    for told in run(KINDS[name], folder, first, everything):
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), "all" in sys.argv[4:])
