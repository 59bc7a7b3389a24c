"""New models for given data: statistics from the training tiles, sizes by name, any registered system."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..data import TileDataset, fit_statistics
from ..settings import accepted, call, former_names, with_new_names, with_tuples
from .arguments import check_training
from .configurations import differences, with_todays_names
from .files import write_atomically
from .run_lock import alone_in
from .seals import check_tensors, sealed_tensors
from .systems import SYSTEMS, config_of

__all__ = ["check_settings", "configure", "train"]


def configure(system: str, dataset: TileDataset, *, size: str = "tiny", model: Mapping[str, Any] | None = None) -> Any:
    """The configuration of a model for the modalities and the grid of ``dataset``, normalising as its tiles want.

    Args:
        system: e.g. ``"omnisat"``.
        size: a named size of the system, e.g. ``"tiny"``.
        model: fields that differ from it, e.g. ``{"depth": 4}``.

    Raises:
        ValueError: an unknown system, size or field.
    """
    if system not in SYSTEMS:
        raise ValueError(f"no system {system!r}; there are {', '.join(SYSTEMS)}")
    config = SYSTEMS[system].load("config")
    changes = with_tuples(model or {})
    try:
        return config.preset(size, fit_statistics(dataset), dataset.grid, **changes)
    except TypeError as error:  # a dataclass refuses unknown fields this way
        raise ValueError(f"{system}: {error}; its fields are {', '.join(config.__dataclass_fields__)}") from None


def check_settings(
    system: str,
    size: str,
    model: Mapping[str, Any] | None,
    module: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None,
) -> None:
    """Refuses what :func:`train` would refuse whatever the data are: it is asked before they are read.

    Raises:
        ValueError: an unknown system, size or setting; the message lists those there are.
    """
    if system not in SYSTEMS:
        raise ValueError(f"no system {system!r}; there are {', '.join(SYSTEMS)}")
    able = [name for name, known in SYSTEMS.items() if known.pretraining and hasattr(known.load("config"), "preset")]
    if system not in able:
        raise ValueError(
            f"{system} is not pretrained on tiles; systems that are: {', '.join(able)}. What learns from labels alone "
            "is trained by a step `baseline` of an experiment"
        )
    config = SYSTEMS[system].load("config")
    names = [field.name for field in fields(config) if field.name not in ("modalities", "grid")]
    unknown = [name for name in with_new_names(model or {}, former_names(config), system) if name not in names]
    if unknown:
        raise ValueError(f"{system}: unknown setting {', '.join(unknown)}; its fields are {', '.join(names)}")
    if size not in getattr(config, "sizes", {size: {}}):
        raise ValueError(f"{system}: no size {size!r}; there are {', '.join(config.sizes)}")
    from .trainer import fit

    accepted(SYSTEMS[system].load("pretraining"), module or {}, f"{system} pretraining", ("config",))
    check_training(training or {}, fit)


def train(
    system: str,
    tiles: TileDataset,
    validation: TileDataset | None,
    run: Path,
    size: str,
    model: Mapping[str, Any] | None,
    module: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None,
    seed: int,
) -> Path:
    """Pretrains a new model in the folder ``run``, or goes on with the one there; returns the best checkpoint.

    A model that has a tokenizer gets it fitted to the training tiles first. It is kept in the folder, for a run that
    goes on must give its codes the meaning that they had.

    Args:
        module: arguments of the system's pretraining LightningModule.
        training: arguments of :func:`fusion.training.fit`.
        seed: of the weights, and of the batches unless ``training`` has its own.

    Raises:
        ValueError: an unknown system, size or setting, or what ``fit`` refuses.
    """
    from .trainer import fit

    with alone_in(run):
        config = configure(system, tiles, size=size, model=model)
        torch.manual_seed(seed)
        lightning = call(SYSTEMS[system].load("pretraining"), module or {}, f"{system} pretraining", config)
        training = {"seed": seed} | dict(training or {})
        if hasattr(lightning.model, "tokenizer"):
            _fit_tokenizer(lightning.model, tiles, run / "tokenizer.safetensors", training)
        return call(fit, training, "training", lightning, tiles, validation, run)


def _fit_tokenizer(model: nn.Module, tiles: TileDataset, path: Path, training: Mapping[str, Any]) -> None:
    """Takes the tokenizer that an earlier call left for the same model and data, or fits it and leaves it there."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    seed, tokenizer = training["seed"], cast(Any, model.get_submodule("tokenizer"))
    made_for = {"config": config_of(model).to_dict(), "tiles": len(tiles), "first": tiles.names[0], "seed": seed}
    made_for = json.loads(json.dumps(made_for))
    if path.is_file() and training.get("resume", True):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if "sha256" in metadata:
            check_tensors(path)
        found = json.loads(metadata.get("made_for", "{}"))
        found |= {"config": with_todays_names(found.get("config", {}), type(config_of(model)))}
        if not differences(found, made_for):
            tokenizer.load_state_dict(load_file(path))
            return
    tokenizer.fit(tiles, seed=seed, progress=training.get("progress", True))
    tensors = {name: tensor.contiguous() for name, tensor in tokenizer.state_dict().items()}
    write_atomically(path, sealed_tensors(tensors, {"made_for": json.dumps(made_for)}))
