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
from fusion.settings import plain

from . import run_folder
from .accumulation import Memory, check_settings, part_size, with_parts
from .arguments import check_counts, check_finite, check_training
from .callbacks import FiniteLoss, History, KeepModels
from .configurations import differences, with_former_settings, with_todays_names
from .first_steps import FirstGradients, check_trainable
from .loading import RandomViews, evaluation_loader, readers, training_loader
from .precision import try_precisions
from .run_lock import alone
from .seals import check_archive
from .state import AtomicState, Interrupted, Interruption, KeepState
from .systems import config_of

__all__ = ["fit"]


@alone
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
    workers: int | None = None,
    memory: Memory = "refuse",
    memory_limit: float | None = None,
    progress: bool = True,
    **trainer_arguments: Any,
) -> Path:
    """Trains ``module`` and returns the path of the best model, ``run/best.safetensors``.

    The run folder gets ``best.safetensors`` and ``last.safetensors`` (models), ``last.ckpt`` (everything needed to
    go on), ``metrics.csv`` (a row an epoch), ``tensorboard/``, ``config.yaml``, ``environment.json`` and
    ``commands.txt``. Models, state and metrics are written when an epoch ends; of epochs shorter than two seconds,
    once in two seconds. Ctrl-C finishes the step, saves, and raises ``KeyboardInterrupt``; the same call goes on from
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
        workers: processes that read tiles, of each device; 0 reads in this one. None: none on a CPU, for GPUs all cores
            but one, eight a GPU at most.
        memory: what to do when the estimate exceeds the memory: "refuse", "warn", "ignore" (no estimate), or
            "accumulate": compute a step in equal parts, of the largest size that divides ``batch_size`` and fits, and
            add up their gradients. One process only. See below.
        memory_limit: GiB that training may use on its device, if less than what is free; for every ``memory``.
        trainer_arguments: go to ``lightning.Trainer``: ``devices``, ``strategy``, ``precision`` ("32-true" or
            "bf16-mixed", or "auto": see below), ``accelerator``, ``gradient_clip_val``, ``limit_train_batches``, ...

    A step in parts has the gradient that is the mean of its parts' gradients, and epochs have the same tiles and steps
    as without parts (``limit_train_batches`` and ``val_check_interval`` count steps). It is not the same as more
    memory: normalisation statistics are those of a part, the negatives of a contrastive loss come from its own part
    (so there are fewer, and with parts of one tile none from other tiles), and a mean over what is valid is taken part
    by part. Validation takes batches of a part too. A run that goes on keeps the parts it was begun with, whatever
    ``memory`` and the free memory are then, and a Ctrl-C finishes the whole step. An ``accumulate_grad_batches`` of
    your own accumulates whole batches instead; then a last, incomplete step of an epoch counts for less, because
    Lightning divides by the same number.

    With ``precision="auto"`` ten steps are tried in float32 and in bfloat16 where the device calculates in it;
    "bf16-mixed" it is if a step takes less than nine tenths of the time and its loss differs by a hundredth at most. A
    run that goes on keeps what it was begun with.

    Raises:
        ValueError: the folder holds a run of another configuration (the fields that differ are named), the data have
            other bands, units or ranges than the model's modalities, nothing would be learned (no parameter has a
            gradient in the first steps), the metric is not logged, too little memory
            (with the batch size that fits), settings that contradict each other (``accumulate_grad_batches`` and
            ``memory="accumulate"``), or that are no numbers to train with (no epochs, a learning rate of NaN).
        RuntimeError: the loss is no number, memory ran out, a checkpoint could not be written, or another process
            trains in the folder.
        KeyboardInterrupt: after Ctrl-C, once everything is saved.
    """
    check_settings(memory, memory_limit, trainer_arguments)
    check_training(trainer_arguments, fit)
    progress = progress and int(os.environ.get("LOCAL_RANK", "0")) == 0  # one of several processes speaks
    run, (epochs, batch_size, seed, patience, workers) = Path(run), plain((epochs, batch_size, seed, patience, workers))
    for name, value in dict(module.hparams).items():  # into configurations and checkpoints, which know no others
        module.hparams[name] = plain(value)
    check_counts(epochs=epochs, batch_size=batch_size, seed=seed, patience=patience, workers=workers)
    check_finite(module.hparams, type(module).__name__)
    check_finite(trainer_arguments, "training")
    monitor = monitor or ("train/loss" if validation is None else "val/loss")
    identity = _identity(module, train, batch_size, seed)
    settings = {"epochs": epochs, "monitor": monitor, "mode": mode, "patience": patience, "workers": workers}
    state = run / "last.ckpt"
    before = _earlier(state, identity, module) if resume and state.is_file() else None
    if before is not None and before["finished"] and (before["early"] or before["epochs"] >= epochs):
        if progress:
            print(f"{run} is finished ({before['epochs']} epochs); resume=False starts over", flush=True)
        return run / "best.safetensors"
    if before is not None and before["epochs"] > epochs:
        raise ValueError(
            f"{run} holds {before['epochs']} epochs of an unfinished run, {epochs} are asked for: give at least "
            f"epochs={before['epochs']}, or resume=False to start over"
        )

    check_trainable(module)
    check_values(train, config_of(module.get_submodule("model")).modalities)
    device = _device(trainer_arguments)
    tiles = min(batch_size, len(train))  # a step
    untried = trainer_arguments.get("precision") == "auto"
    if untried and before and "precision" in before:
        untried, trainer_arguments["precision"] = False, before["precision"]
    part = part_size(
        module,
        train,
        tiles,
        memory,
        memory_limit,
        begun=before.get("part", tiles) if before else None,
        device=device,
        precision="32-true" if untried else str(trainer_arguments.get("precision", "32-true")),
        progress=progress,
    )
    if untried:
        trial = try_precisions(module, train, part, device=device, seed=seed)
        trainer_arguments["precision"] = trial.precision
        if progress:
            print(f"precision: {trial}", flush=True)
    config = identity | settings | {"part": part, "trainer": {k: str(v) for k, v in trainer_arguments.items()}}
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - readers and libraries may use the global one
    torch.manual_seed(seed)
    with _quiet(), Interruption() as asked:
        models = KeepModels(run, monitor, mode)
        arguments = {"log_every_n_steps": 20} | with_parts(trainer_arguments, tiles, part, len(train))
        history = History(run / "metrics.csv", models, progress, first_epoch=before["epochs"] if before else 0)
        precision = str(trainer_arguments.get("precision", "32-true"))
        keep = KeepState(state, identity, asked, part, precision, others=(models, history))
        finite = FiniteLoss(arguments["log_every_n_steps"])
        stopping = _stopping(monitor, mode, patience, validation)
        trainer = Trainer(
            max_epochs=epochs,
            logger=TensorBoardLogger(str(run), name="", version="tensorboard"),
            callbacks=[finite, FirstGradients(train), *stopping, *_bar(progress)],
            plugins=[AtomicState()],
            num_sanity_val_steps=0,  # would draw random numbers that a resumed run does not
            use_distributed_sampler=False,  # the training sampler shares tiles itself
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress and sys.stderr.isatty(),
            **arguments,
        )
        if (
            memory == "accumulate" or part < tiles
        ) and trainer.world_size > 1:  # each would find another memory and other parts
            raise ValueError(
                f"fit: a step in parts (memory='accumulate') is for one process, not for {trainer.world_size}: choose "
                "batch_size and accumulate_grad_batches yourself"
            )
        if workers is None:
            here = trainer.world_size // trainer.num_nodes
            workers = readers(trainer.strategy.root_device.type, here)
        loader = training_loader(
            train,
            batch_size,
            seed=seed,
            workers=workers,
            rank=trainer.global_rank,
            ranks=trainer.world_size,
            parts=tiles // part,
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
        together = part if part < tiles else batch_size
        held_out = None if validation is None else evaluation_loader(validation, together, workers=workers)
        try:
            trainer.fit(module, loader, held_out, ckpt_path=str(state) if before else None)
        except Interrupted as place:
            raise KeyboardInterrupt(
                f"stopped at {place}; {state} is saved, the same command goes on from there"
            ) from None
        except torch.OutOfMemoryError as error:
            raise RuntimeError(
                f"out of memory with batches of {part} tiles: try memory='accumulate' with a smaller memory_limit "
                f"in GiB (and resume=False), batch_size={max(1, part // 2)}, or precision='bf16-mixed' ({error})"
            ) from error
        if asked.requested:
            raise KeyboardInterrupt(f"training had just finished; the best model is {run / 'best.safetensors'}")
    return run / "best.safetensors"


# Settings that are lists and that runs differ by; the others (statistics of targets, pixels of a map) follow the data.
_LISTS = ("class_weights",)
_AFTERWARDS = ("interval_level",)  # of what is computed once training has ended


def _identity(module: LightningModule, train: TileDataset, batch_size: int, seed: int) -> dict[str, Any]:
    """What must be the same for a run to be continued; plain types."""
    plain = (bool, int, float, str, type(None))
    return {
        "module": type(module).__name__,
        "model": config_of(module.get_submodule("model")).to_dict(),
        "settings": {
            k: v
            for k, v in dict(module.hparams).items()
            if (isinstance(v, plain) or k in _LISTS) and k not in _AFTERWARDS
        },
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
        sealed = check_archive(state)
        left = _of_a_run(torch.load(state, map_location="cpu", weights_only=True, mmap=True))
        if left.get("sealed", False) and not sealed:
            raise ValueError("its checksum is damaged")
    except Exception as error:
        raise ValueError(
            f"{state} cannot be read ({type(error).__name__}: {error}); resume=False starts over, and "
            "last.safetensors beside it holds the model itself"
        ) from error
    before, kind = left["identity"], type(config_of(module.get_submodule("model")))
    defaults = {n: p.default for n, p in inspect.signature(type(module)).parameters.items()}
    told = with_former_settings(type(module), before["settings"])
    since = {n: defaults[n] for n in identity["settings"] if n in defaults and n not in told}
    saved = before | {"model": with_todays_names(before["model"], kind), "settings": since | told}
    different = differences(_plain(saved), _plain(identity))
    if different:
        listed = "\n  ".join(line.replace("checkpoint", "folder") for line in different)
        raise ValueError(
            f"{state.parent} holds a run of another configuration:\n  {listed}\nGive another run folder, the same "
            "configuration, or resume=False to start over"
        )
    return left


def _of_a_run(content: Any) -> dict[str, Any]:
    """What :class:`KeepState` adds to a state.

    Raises:
        ValueError: a file of something else.
    """
    left = content.get("fusion") if isinstance(content, dict) else None
    wanted = {"identity": dict, "epochs": int, "finished": bool, "early": bool}
    if not isinstance(left, dict) or not all(isinstance(left.get(key), kind) for key, kind in wanted.items()):
        raise ValueError("it holds no state of a run of this package")
    if not all(isinstance(left["identity"].get(key), dict) for key in ("model", "settings")):
        raise ValueError("it does not say the configuration of its run")
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
        # Every process validates all tiles, so that there is nothing to synchronise.
        for hint in (
            ".*dataloader is not resumable.*",
            ".*no `val_dataloader`.*",
            ".*LeafSpec.*",
            ".*sync_dist=True.*",
        ):
            warnings.filterwarnings("ignore", hint)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
