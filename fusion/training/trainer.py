"""``fit``: what every system trains with."""

from __future__ import annotations

import inspect
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from fusion.data import TileDataset
from fusion.data.check import check_values
from fusion.kernels.backends import chosen

from . import run_folder
from .callbacks import FiniteLoss, History, KeepModels
from .checkpoints import differences, with_todays_names
from .loading import RandomViews, evaluation_loader, training_loader
from .memory import estimate_memory
from .state import AtomicState, Interrupted, Interruption, KeepState
from .systems import config_of

__all__ = ["fit"]


def fit(
    module: LightningModule,
    train: TileDataset,
    validation: TileDataset | None,
    run: Path | str,
    *,
    epochs: int = 100,
    batch_size: int = 32,
    resume: bool = True,
    monitor: str | None = None,
    mode: Literal["min", "max"] = "min",
    patience: int | None = None,
    seed: int = 0,
    workers: int = 0,
    memory: Literal["refuse", "warn", "ignore"] = "refuse",
    progress: bool = True,
    **trainer_arguments: Any,
) -> Path:
    """Trains ``module`` and returns the path of the best model, ``run/best.safetensors``.

    The run folder gets ``best.safetensors`` and ``last.safetensors`` (models), ``last.ckpt`` (everything needed to
    go on), ``metrics.csv`` (a row an epoch), ``tensorboard/``, ``config.yaml``, ``environment.json`` and
    ``commands.txt``. Ctrl-C finishes the step, saves, and raises ``KeyboardInterrupt``; the same call goes on from
    there, on one CPU or GPU with the bits of a run that was never interrupted (GPU: if its kernels are deterministic).

    Args:
        module: has ``.model`` of a registered system; logs its losses, ``train/loss`` and ``val/loss`` among them.
            Its optimizer and plateau scheduler are its own affair.
        train: tiles that are seen shuffled, as random views.
        validation: tiles that are seen in order, as they are; None monitors the training loss.
        run: the run folder.
        epochs: how often every training tile is seen at most.
        batch_size: tiles per step and device.
        resume: go on where an earlier call with this folder stopped; False starts over and replaces what it left.
        monitor, mode: the metric that says which model is best (default ``val/loss``, or ``train/loss``).
        patience: stop after so many epochs without a better ``monitor``; None never does.
        workers: processes that read tiles; 0 reads in this one.
        memory: what to do when the estimate exceeds the free memory.
        trainer_arguments: go to ``lightning.Trainer``: ``devices``, ``strategy``, ``precision`` ("32-true" or
            "bf16-mixed"), ``accelerator``, ``gradient_clip_val``, ``limit_train_batches``, ...

    Raises:
        ValueError: the folder holds a run of another configuration (the fields that differ are named), the data have
            other bands, units or ranges than the model's modalities, the metric is not logged, or too little memory
            (with the batch size that fits).
        RuntimeError: the loss is no number, memory ran out, or a checkpoint could not be written.
        KeyboardInterrupt: after Ctrl-C, once everything is saved.
    """
    if memory not in ("refuse", "warn", "ignore"):
        raise ValueError(f"fit: memory is 'refuse', 'warn' or 'ignore', not {memory!r}")
    progress = progress and int(os.environ.get("LOCAL_RANK", "0")) == 0  # one of several processes speaks
    run = Path(run)
    monitor = monitor or ("train/loss" if validation is None else "val/loss")
    identity = _identity(module, train, batch_size, seed)
    settings = {"epochs": epochs, "monitor": monitor, "mode": mode, "patience": patience, "workers": workers}
    state = run / "last.ckpt"
    before = _earlier(state, identity, module) if resume and state.is_file() else None
    if before is not None and before["finished"] and (before["early"] or before["epochs"] >= epochs):
        if progress:
            print(f"{run} is finished ({before['epochs']} epochs); resume=False starts over", flush=True)
        return run / "best.safetensors"

    check_values(train, config_of(module.get_submodule("model")).modalities)
    device = _device(trainer_arguments)
    if memory != "ignore":
        _check_memory(module, train, batch_size, memory, device, trainer_arguments, progress)
    config = identity | settings | {"trainer": {k: str(v) for k, v in trainer_arguments.items()}}
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - readers and libraries may use the global one
    torch.manual_seed(seed)
    with _quiet(), Interruption() as asked:
        models = KeepModels(run, monitor, mode)
        arguments: dict[str, Any] = {"log_every_n_steps": 20} | trainer_arguments
        history = History(run / "metrics.csv", models, progress, first_epoch=before["epochs"] if before else 0)
        keep = KeepState(state, identity, asked)
        finite = FiniteLoss(arguments["log_every_n_steps"])
        stopping = _stopping(monitor, mode, patience, validation)
        trainer = Trainer(
            max_epochs=epochs,
            logger=TensorBoardLogger(str(run), name="", version="tensorboard"),
            callbacks=[finite, *stopping, *_bar(progress)],
            plugins=[AtomicState()],
            num_sanity_val_steps=0,  # would draw random numbers that a resumed run does not
            use_distributed_sampler=False,  # the training sampler shares tiles itself
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress and sys.stderr.isatty(),
            **arguments,
        )
        loader = training_loader(
            train, batch_size, seed=seed, workers=workers, rank=trainer.global_rank, ranks=trainer.world_size
        )
        keep.views = cast(RandomViews, loader.sampler)
        cast(Any, trainer).callbacks += [
            models,
            history,
            keep,
        ]  # given above, without its own checkpoints, they are refused
        if trainer.is_global_zero:
            run_folder.prepare(run, config, afresh=before is None)
        if trainer.global_rank:
            torch.manual_seed(seed + trainer.global_rank)  # other dropout on other devices
        held_out = None if validation is None else evaluation_loader(validation, batch_size, workers=workers)
        try:
            trainer.fit(module, loader, held_out, ckpt_path=str(state) if before else None)
        except Interrupted as place:
            raise KeyboardInterrupt(
                f"stopped at {place}; {state} is saved, the same command goes on from there"
            ) from None
        except torch.OutOfMemoryError as error:
            smaller = max(1, batch_size // 2)
            raise RuntimeError(
                f"out of memory with batches of {batch_size} tiles: try batch_size={smaller}, with "
                f"accumulate_grad_batches=2 for the same effective batch, or precision='bf16-mixed' ({error})"
            ) from error
        if asked.requested:
            raise KeyboardInterrupt(f"training had just finished; the best model is {run / 'best.safetensors'}")
    return run / "best.safetensors"


def _identity(module: LightningModule, train: TileDataset, batch_size: int, seed: int) -> dict[str, Any]:
    """What must be the same for a run to be continued; plain types."""
    plain = (bool, int, float, str, type(None))
    return {
        "module": type(module).__name__,
        "model": config_of(module.get_submodule("model")).to_dict(),
        "settings": {k: v for k, v in dict(module.hparams).items() if isinstance(v, plain)},
        "data": {
            "tiles": len(train),
            "modalities": [m.name for m in train.modalities],
            "grid": list(train.grid),
            "task": train.task,
            "classes": list(train.classes),
        },
        "batch_size": batch_size,
        "seed": seed,
    }


def _earlier(state: Path, identity: dict[str, Any], module: LightningModule) -> dict[str, Any]:
    """What an earlier call left: epoch reached, whether it was finished.

    A setting that the module did not have then is taken to have been what it is by default.
    """
    try:
        left: dict[str, Any] = torch.load(state, map_location="cpu", weights_only=True, mmap=True)["fusion"]
    except Exception as error:
        raise ValueError(
            f"{state} cannot be read ({type(error).__name__}: {error}); resume=False starts over, and "
            "last.safetensors beside it holds the model itself"
        ) from error
    before, kind = left["identity"], type(config_of(module.get_submodule("model")))
    defaults = {n: p.default for n, p in inspect.signature(type(module)).parameters.items()}
    since = {n: defaults[n] for n in identity["settings"] if n in defaults and n not in before["settings"]}
    saved = before | {"model": with_todays_names(before["model"], kind), "settings": since | before["settings"]}
    different = differences(_plain(saved), _plain(identity))
    if different:
        listed = "\n  ".join(line.replace("checkpoint", "folder") for line in different)
        raise ValueError(
            f"{state.parent} holds a run of another configuration:\n  {listed}\nGive another run folder, the same "
            "configuration, or resume=False to start over"
        )
    return left


def _plain(value: Any) -> Any:
    """Tuples and lists are the same in a checkpoint."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _device(trainer_arguments: dict[str, Any]) -> str:
    wanted = trainer_arguments.get("accelerator", "auto")
    return "cuda" if torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda") else "cpu"


def _check_memory(
    module: LightningModule,
    train: TileDataset,
    batch_size: int,
    memory: str,
    device: str,
    trainer_arguments: dict[str, Any],
    progress: bool,
) -> None:
    precision = str(trainer_arguments.get("precision", "32-true"))
    estimate = estimate_memory(module, train, min(batch_size, len(train)), precision=precision, device=device)
    if progress:
        print(f"memory: {estimate}", flush=True)
        ran = [f"{op} on {backend}" for op, backend in chosen().items() if not op.endswith("_backward")]
        print(f"ops: {', '.join(ran) or 'none of our own'}", flush=True)  # the estimate ran a step
    if estimate.total <= estimate.available:
        return
    fits = estimate.largest_batch
    advice = f"batch_size={fits} fits" if fits else "not even one tile fits: choose a smaller model"
    message = f"training would need {estimate}. {advice}; memory='warn' tries all the same"
    if memory == "refuse":
        raise ValueError(message)
    warnings.warn(message, stacklevel=3)


def _stopping(monitor: str, mode: str, patience: int | None, validation: TileDataset | None) -> list[EarlyStopping]:
    if patience is None:
        return []
    at_end = validation is None or monitor.startswith("train/")
    return [EarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=at_end)]


def _bar(progress: bool) -> list[TQDMProgressBar]:
    return [TQDMProgressBar(refresh_rate=1)] if progress and sys.stderr.isatty() else []


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's hints about hardware, workers and loggers say nothing to a user of this package."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for hint in (".*does not have many workers.*", ".*smaller than the logging interval.*", ".*in eval mode.*"):
            warnings.filterwarnings("ignore", hint)
        for hint in (".*dataloader is not resumable.*", ".*no `val_dataloader`.*", ".*LeafSpec.*"):
            warnings.filterwarnings("ignore", hint)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
