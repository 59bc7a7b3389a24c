"""Checkpoints and states of runs: whole ones, and such that a stranger wrote with a right checksum."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from damage import Damage

__all__ = ["of_headers", "of_states", "resume", "write_checkpoint", "write_state"]

TRAINING = Path(__file__).parents[1] / "training"
sys.path.insert(0, str(TRAINING))
_WRONG: tuple[Any, ...] = (None, True, [], {}, -1, 0, math.nan, math.inf, 10**12, "text", [1], {"a": 1}, [[]], "../up")


def write_checkpoint(path: Path, system: str) -> None:
    from fusion.training import load_model, save_model

    save_model(path, load_model(TRAINING / "saved" / f"{system}.safetensors"))


def of_headers(system: str) -> Iterator[Damage]:
    """Other metadata with a checksum that is right, and tensors that are not the model's."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    from fusion.training.seals import sealed_tensors

    saved = TRAINING / "saved" / f"{system}.safetensors"
    with safe_open(saved, framework="pt") as file:
        metadata = dict(file.metadata())
    metadata.pop("sha256", None)
    tensors, config = load_file(saved), json.loads(metadata["config"])

    def write(tensors: Mapping[str, torch.Tensor], **changes: str) -> Any:
        return lambda path: path.write_bytes(sealed_tensors(dict(tensors), metadata | changes)) and None

    for key in metadata:
        for value in ("", "{", "[]", "3", "null", "text", "-1", "9" * 40, '{"a": 1}', "NaN"):
            yield f"{key}: {value[:9]}", write(tensors, **{key: value})
    for place in _places(config):
        for wrong in _WRONG:
            changed = copy.deepcopy(config)
            inner: Any = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = wrong
            yield f"config.{'.'.join(map(str, place))} = {wrong!r}", write(tensors, config=json.dumps(changed))
    first = next(iter(tensors))
    yield "no tensors", write({})
    yield "one fewer", write({name: tensor for name, tensor in tensors.items() if name != first})
    yield (
        "nan",
        write({name: tensor * math.nan if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}),
    )
    yield "other shape", write(tensors | {first: torch.zeros(3, 3, 3)})
    for dtype in (torch.int64, torch.float16, torch.complex64, torch.bool):
        yield f"tensors of {dtype}", write({name: tensor.to(dtype) for name, tensor in tensors.items()})
    yield "without metadata", lambda path: save_file(tensors, path)


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*above, key)
        yield from _places(inner, (*above, key))


def write_state(folder: Path) -> None:
    _fit(folder, 1)


def resume(folder: Path) -> None:
    _fit(folder, 2)


def _fit(folder: Path, epochs: int) -> None:
    from tiny_system import Meadows, TinyTraining

    from fusion.training import System, fit, register

    register("tiny", System("tiny_system:TinyModel", "tiny_system:TinyConfig", "", "tiny_system:TinyFinetuning"))
    torch.manual_seed(0)
    fit(TinyTraining(), Meadows(8), Meadows(4), folder, epochs=epochs, batch_size=4, progress=False, memory="ignore",
        workers=0)  # fmt: skip


def of_states(whole: Path) -> Iterator[Damage]:
    """Archives of torch that hold something else, or code."""
    state = torch.load(whole, weights_only=True)
    own = state["fusion"]

    def write(content: Any) -> Any:
        return lambda path: torch.save(content, path)

    for content in (
        None,
        3,
        [],
        {},
        "text",
        torch.zeros(3),
        {"fusion": None},
        {"fusion": {}},
        {"fusion": 3},
        {"fusion": []},
    ):
        yield f"holds {str(content)[:20]}", write(content)
    for key in own:
        for wrong in (None, [], {}, -1, "text", math.nan, 10**12):
            yield f"fusion.{key} = {wrong!r}", write(state | {"fusion": {**own, "sealed": False, key: wrong}})
    for key in state:
        for wrong in (None, [], {}, -1, "text", math.nan):
            if key != "fusion":
                yield f"{key} = {wrong!r}", write(state | {"fusion": own | {"sealed": False}, key: wrong})
    yield "code", write(Path("x"))
