"""The state of a run on disk, so that an interrupted run goes on as if it had not been interrupted."""

from __future__ import annotations

import io
import random
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from .epoch_sums import Sums, add_epoch_sums, epoch_sums
from .files import write_atomically
from .loading import RandomViews
from .seals import sealed_archive

__all__ = ["SECONDS_BETWEEN", "AtomicState", "Interrupted", "Interruption", "KeepState"]

# Of training that a kill may undo. Epochs of a few steps would otherwise spend a fifth of their time on files.
SECONDS_BETWEEN = 2.0


class Interrupted(Exception):
    """Training stopped where somebody asked for it; ``last.ckpt`` continues from there."""


class Interruption:
    """Turns the first Ctrl-C (or SIGTERM) into a request that is met between two steps; the second acts at once.

    Outside the main thread signals cannot be caught; there it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self.listen()
        return self

    def listen(self) -> None:
        """Takes the signals, also from Lightning, which would end a validation on SIGTERM unsaved and with status 0."""
        if threading.current_thread() is threading.main_thread() and not self.requested:
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.signal(number, self._note)
                self._previous.setdefault(number, before)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(number, self._previous[number] or signal.SIG_DFL)
        print("\nstopping after this step and saving (once more: stop at once)", flush=True)


class AtomicState(TorchCheckpointIO):
    """Trainer state on disk: plain types and tensors, written whole or not at all, read without unpickling code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(path, sealed_archive(buffer.getvalue()))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return cast("dict[str, Any]", torch.load(path, map_location=map_location, weights_only=True))


class Writes(Protocol):
    """What belongs to the run folder and is written with the state."""

    def write(self) -> None:
        """Writes what is known of epochs that have ended."""


class KeepState(Checkpoint):
    """``last.ckpt``: all that the next step depends on, saved after epochs and where somebody asked to stop.

    After the first and the last epoch, and after those that end ``SECONDS_BETWEEN`` or more after it was saved before;
    models and metrics are written then too, so that the folder is of one epoch.

    Beside what Lightning saves, that is: random states, the place in the data order, what has been summed for the means
    of an epoch that has begun, and the metrics that plateau schedulers still wait for when an epoch ends (Lightning
    steps them after the last chance to save). With these, on one device, what follows a resume has the same bits as
    without the interruption.
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        asked: Interruption,
        part: int,
        precision: str,
        others: Sequence[Writes] = (),
    ) -> None:
        self.path, self.identity, self.asked, self.part, self.precision = path, identity, asked, part, precision
        self.others = others
        self.views: RandomViews  # set when the trainer knows its rank
        self._place = (0, 0)  # epoch, batches of it that are done
        self._awaited: dict[str, float] = {}
        self._sums_so_far: Sums = {}
        self._finished = False
        self._loaded: dict[str, Any] | None = None
        self._sums: Sums = {}  # loaded, of an epoch that is taken up in its middle
        self._saved_at: float | None = None  # seconds, of time.monotonic

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.asked.listen()
        if self._loaded is None:
            return
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and config.monitor in self._loaded["awaited"]:
                config.scheduler.step(self._loaded["awaited"][config.monitor])
        _set_random_state(self._loaded["random"])

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        # Lightning would not step plateau schedulers at the end of an epoch taken up in its middle.
        trainer.fit_loop.restarting = False
        if self._sums:
            add_epoch_sums(trainer, self._sums)
            self._sums = {}
        batches = args[2] + 1
        whole_step = batches % trainer.accumulate_grad_batches == 0  # gradients of its parts are not saved
        # After the last batch the epoch is let to its end: validation belongs to it.
        if batches < trainer.num_training_batches and whole_step and self._somebody_asked(trainer):
            self._save(trainer, trainer.current_epoch, batches, {}, epoch_sums(trainer))
            raise Interrupted(f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        epochs = trainer.current_epoch + 1
        self._finished = trainer.should_stop or epochs == trainer.max_epochs
        monitored = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
        metrics = trainer.callback_metrics
        awaited = {name: float(metrics[name]) for name in monitored if name in metrics}
        asked = self._somebody_asked(trainer)
        if asked or self._finished or self._due(trainer):
            self._save(trainer, epochs, 0, awaited)
        if asked and not self._finished:
            raise Interrupted(f"the end of epoch {epochs}, step {trainer.global_step}")

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        with suppress(RuntimeError):  # of a full disk; the first error is the one to be told
            self._write_others(trainer)  # the state of a step that failed is none to go on from

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["fusion"] = {
            "identity": self.identity,
            "part": self.part,  # tiles computed at a time
            "precision": self.precision,
            "sealed": True,  # the file has a checksum
            "epochs": self._place[0],
            "finished": self._finished,
            "early": self._finished and trainer.should_stop,
        }
        for key in ("hyper_parameters", "hparams_name"):  # may hold classes; the identity says it in plain types
            checkpoint.pop(key, None)

    def state_dict(self) -> dict[str, Any]:
        return {
            "place": list(self._place),
            "awaited": self._awaited,
            "sums": self._sums_so_far,
            "random": _random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loaded, self._sums = state, state.get("sums", {})
        self.views.resume(*state["place"])

    def _save(
        self, trainer: Trainer, epoch: int, batches: int, awaited: dict[str, float], sums: Sums | None = None
    ) -> None:
        self._place, self._awaited, self._sums_so_far = (epoch, batches), awaited, sums or {}
        self._write_others(trainer)
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()

    def _write_others(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            for other in self.others:
                other.write()

    def _due(self, trainer: Trainer) -> bool:
        due = self._saved_at is None or time.monotonic() - self._saved_at >= SECONDS_BETWEEN
        return _any_rank(trainer, due)

    def _somebody_asked(self, trainer: Trainer) -> bool:
        return _any_rank(trainer, self.asked.requested)


def _any_rank(trainer: Trainer, own: bool) -> bool:
    """The same answer on every rank: saving is work of all."""
    return own if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(own, all=False)


def _random_state() -> dict[str, Any]:
    """Plain types and tensors only, so that it can be read without unpickling code."""
    legacy = cast("tuple[str, np.ndarray, int, int, float]", np.random.get_state())  # noqa: NPY002
    name, keys, position, has_gauss, gauss = legacy
    version, internal, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), gauss_next],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
