"""What the commands about a trained model share: opening the data, loading the model, showing the scores."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fusion.data import TileDataset, open_data, open_unlabelled, partition
from fusion.training.files import write_atomically
from fusion.workflow.combined import derived
from fusion.workflow.controls import about_seeds, compared
from fusion.workflow.scores import MAIN
from fusion.workflow.state import State

__all__ = [
    "begin",
    "beside",
    "covering",
    "finish",
    "interruptible",
    "known_to",
    "of_cubes",
    "of_tiles",
    "print_table",
]


def begin(
    data: str,
    out: Path,
    *,
    reader: Mapping[str, Any] | None,
    splits: Mapping[str, str | None] | None = None,
    modalities: Sequence[str] | None = None,
    model: Path | None = None,
    seed: int = 0,
    labelled: bool = True,
) -> State:
    """Data by split, and with ``model`` (a checkpoint or run folder) that model as ``pretrained``.

    Args:
        labelled: False for what needs no labels: tiles without one are there, too.
    """
    from fusion.training import load_model

    dataset = (open_data if labelled else open_unlabelled)(data, **(reader or {}))
    if modalities:
        dataset = dataset.with_modalities(modalities)
    models = {} if model is None else {"pretrained": load_model(model)}
    if models:
        dataset = _known(dataset, models["pretrained"])
    return State(out, seed, partition(dataset, splits), models, progress=True)


def beside(run: Path, name: str, out: str | None) -> Path:
    """``out`` if given, else ``name`` in the run folder, which ``run`` is or, as a checkpoint, lies in."""
    return Path(out) if out else (run if run.is_dir() else run.parent) / name


def covering(tiles: TileDataset, split: str, overlap: float | None, by: Literal["patch", "pixel"]) -> TileDataset:
    """The tiles of a map: where the data are a described folder, they overlap and reach the border.

    Args:
        split: that they are of; a map of a part is of the tiles that there are.
        overlap: share of a tile's side; None for a quarter where the data can be cut so, else as they are.

    Raises:
        ValueError: an overlap of data that are not cut into tiles here.
    """
    from fusion.data import FolderDataset

    if isinstance(tiles, FolderDataset) and tiles.task is None and split == "all":
        return tiles.covering(0.25 if overlap is None else overlap, by)
    if overlap is not None:
        raise ValueError(
            f"--overlap {overlap:g} is for all of a described folder, whose tiles are cut here, without --split and "
            "--reader.labels; leave it out"
        )
    return tiles


@contextlib.contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is within with ``message``, and the command with 130."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()  # elsewhere signals cannot be caught
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(message) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


# Options of the reader of cubes that the reader of tiles does not know, and those that both take.
_OF_CUBES, _OF_BOTH = ("longest_gap", "looks", "sensors", "temporal_window"), ("cube", "folder", "memory")


def of_cubes(reader: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options that concern cubes, where the same data are read as tiles too."""
    return {name: value for name, value in (reader or {}).items() if name in _OF_CUBES + _OF_BOTH}


def of_tiles(reader: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options that concern tiles, where the same data are read as cubes too."""
    return {name: value for name, value in (reader or {}).items() if name not in _OF_CUBES}


def known_to(module: object, tiles: TileDataset) -> TileDataset:
    """The tiles with the modalities that a probe was made with; all of them for what does not name any."""
    wanted: Sequence[str] = getattr(module, "modalities", ())
    names = [m.name for m in tiles.modalities if m.name in wanted]
    if wanted and not names:
        given = ", ".join(m.name for m in tiles.modalities)
        raise ValueError(f"the probe was made with {', '.join(wanted)}, the tiles have {given}: none in common")
    return tiles.with_modalities(names) if wanted else tiles


def _known(dataset: TileDataset, model: Any) -> TileDataset:
    """Without the modalities that the model was not trained with, which it is said."""
    known = {m.name for m in model.config.modalities}
    names = [m.name for m in dataset.modalities]
    common = [name for name in names if name in known]
    if not common:
        raise ValueError(
            f"the model knows {', '.join(sorted(known))}, the data have {', '.join(names)}: none in common"
        )
    if len(common) < len(names):
        print(f"without {', '.join(n for n in names if n not in known)}, which the model does not know")
        dataset = dataset.with_modalities(common)
    return dataset


def finish(state: State, title: str) -> None:
    """Writes ``metrics.json`` and ``report.html`` of a command, and prints the table."""
    from fusion.evaluation import write_report
    from fusion.workflow.cautions import lost_pretraining
    from fusion.workflow.report import conditions
    from fusion.workflow.words import cautions_of, lead

    write_atomically(state.out / "metrics.json", (json.dumps(state.metrics, indent=2) + "\n").encode())
    warnings = lost_pretraining(state.metrics)
    report = write_report(
        state.out / "report.html",
        title,
        state.sections,
        summary=lead(state.metrics),
        warnings=[*warnings, *cautions_of(state.metrics)],
        conditions=conditions(state),
    )
    print_table(state.metrics)
    print(f"{state.out / 'metrics.json'}, {report}")


def print_table(metrics: Mapping[str, Any]) -> None:
    """The scores as text: one row for each row of each group of scores, groups of groups one after another."""
    for key, group in _groups(metrics):
        rows = {n: r for n, r in group.items() if _numbers(r)}
        columns = list(dict.fromkeys(name for row in rows.values() for name in _numbers(row)))
        hidden = "micro_f1" if "accuracy" in columns else ""  # of exclusive classes both are the same
        numbers = [name for name in columns if name != hidden]
        names = [m for m in numbers if not any(derived(m, row) for row in rows.values())]
        width = max(map(len, [*rows, f"{key}:"]))
        # The main score and the first one have their intervals beside them; those of the others are in metrics.json.
        shown = {next((n for n in MAIN if n in names), None), *names[:1]}
        cells = {
            n: [_cell(row.get(n), row.get(f"{n}_sd"), _ends(row, n) if n in shown else None) for row in rows.values()]
            for n in names
        }
        wide = {n: max(17, 2 + max(map(len, [n, *column]))) for n, column in cells.items()}
        print(f"\n{key + ':':{width}}" + "".join(f"{n.replace('_', ' '):>{wide[n]}}" for n in names))
        for k, name in enumerate(rows):
            print(f"{name:{width}}" + "".join(f"{cells[n][k]:>{wide[n]}}" for n in names))
        for told in (group.get("conditions"), compared(group)):
            if told:
                print(told)
    print()
    for told in about_seeds(metrics):
        print(f"{told}\n")


def _groups(metrics: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Those that have rows of numbers, by name; one in another has the names of both."""
    for name, group in metrics.items():
        if name == "repetitions" or not isinstance(group, dict):  # of each there is a metrics.json of its own
            continue
        if any(_numbers(row) for row in group.values()):
            yield f"{within}{name}", group
        else:
            yield from _groups(group, f"{within}{name} ")


def _numbers(row: Any) -> list[str]:
    """Names of the numbers in a row of scores."""
    return [n for n, v in row.items() if isinstance(v, int | float)] if isinstance(row, dict) else []


def _ends(row: Mapping[str, Any], name: str) -> Sequence[float] | None:
    ends: Sequence[float] | None = row.get("intervals", {}).get(name)
    if ends is None:
        low, high = (row.get(f"{name}{end}") for end in ("_low", "_high"))
        if low is not None and high is not None and low == low:  # else NaN: too few to draw from
            ends = low, high
    return ends


def _cell(mean: float | None, spread: float | None, ends: Sequence[float] | None) -> str:
    if mean is None:
        return "-"
    told = f"{mean:.3f}" if spread is None else f"{mean:.3f} ± {spread:.3f}"
    return told if ends is None else f"{told} ({ends[0]:.3f} to {ends[1]:.3f})"
