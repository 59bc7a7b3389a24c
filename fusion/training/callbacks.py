"""What happens around training: models are kept, numbers written down, a loss that is no number is noticed."""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from .averaging import averaged
from .checkpoints import model_bytes
from .files import write_atomically

__all__ = ["FiniteLoss", "History", "KeepModels"]


class KeepModels(Checkpoint):
    """``last.safetensors``, and ``best.safetensors`` of the epoch whose monitored metric is best.

    They are written by :meth:`write`, see :class:`~fusion.training.state.KeepState`; until then they are in memory.
    """

    def __init__(self, run: Path, monitor: str, mode: str) -> None:
        self.run, self.monitor, self.mode = run, monitor, mode
        self.best = math.inf if mode == "min" else -math.inf
        self.improved = False
        self._unwritten: dict[str, bytes] = {}  # by name of the file

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.val_dataloaders is None:  # a plateau scheduler that waits for a validation loss follows this one
            for config in trainer.lr_scheduler_configs:
                if config.reduce_on_plateau and str(config.monitor).startswith("val/"):
                    config.monitor = self.monitor

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        metrics = _metrics(trainer)
        if self.monitor not in metrics:
            raise ValueError(
                f"fit: nothing called {self.monitor!r} is logged, so no best model can be chosen; logged are "
                f"{', '.join(sorted(metrics)) or 'no metrics'}. Give one of them as monitor="
            )
        value = metrics[self.monitor]
        self.improved = value < self.best if self.mode == "min" else value > self.best
        if trainer.is_global_zero:
            content = _bytes(module, metrics | {"epoch": trainer.current_epoch})
            self._unwritten |= dict.fromkeys(["last", "best"] if self.improved else ["last"], content)
        if self.improved:
            self.best = value

    def write(self) -> None:
        while self._unwritten:
            name, content = self._unwritten.popitem()
            write_atomically(self.run / f"{name}.safetensors", content)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]


class History(Checkpoint):
    """One line an epoch, on the screen and, by :meth:`write`, in ``metrics.csv``. Rows of an earlier part stay."""

    def __init__(self, path: Path, models: KeepModels, show: bool, first_epoch: int = 0) -> None:
        self.path, self.models, self.show = path, models, show
        self.rows: list[dict[str, Any]] = []
        if path.is_file() and first_epoch:
            with open(path, newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < first_epoch]
        self._durations: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._started, self._seen = time.perf_counter(), 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._started, self._seen = time.perf_counter(), 0  # of an epoch taken up in its middle

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, _: int) -> None:
        self._seen += len(batch) * trainer.world_size

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self._started
        self._durations.append(seconds)
        metrics = _metrics(trainer)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "seconds": round(seconds, 3), "lr": rate}
        self.rows.append(row | metrics)
        if self.show:
            print(self._line(trainer, metrics, seconds), flush=True)

    def write(self) -> None:
        if not self.rows:
            return
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue().encode())

    def _line(self, trainer: Trainer, metrics: dict[str, float], seconds: float) -> str:
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        wanted = [name.removesuffix("_epoch") for name in trainer.progress_bar_metrics]
        shown = dict.fromkeys([*wanted, self.models.monitor])
        numbers = "  ".join(f"{name} {metrics[name]:.4g}" for name in shown if name in metrics)
        left = (epochs - epoch) * sum(self._durations) / len(self._durations)
        best = "  best" if self.models.improved else ""
        speed = self._seen / max(seconds, 1e-9)
        return (
            f"epoch {epoch:>{len(str(epochs))}}/{epochs}  {numbers}  {speed:.0f} tiles/s  "
            f"eta {int(left // 60):02d}:{int(left % 60):02d}{best}"
        )


def _bytes(module: LightningModule, metrics: dict[str, float]) -> bytes:
    with averaged(module):
        return model_bytes(
            module.get_submodule("model"), metrics=metrics, finetuned=module if hasattr(module, "head") else None
        )


class FiniteLoss(Callback):
    """Stops at the first loss that is no number, naming the tiles; what was saved before is sound.

    Looking costs a GPU a synchronisation: there it happens once in ``every`` steps.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if module.device.type != "cpu" and batch_idx % self.every:
            return
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is not None and not torch.isfinite(loss).all():
            names = ", ".join(getattr(batch, "names", ())[:4])
            raise RuntimeError(
                f"the training loss is {float(loss):g} at epoch {trainer.current_epoch + 1}, step "
                f"{trainer.global_step} (tiles {names}, ...). Lower the learning rate, clip gradients "
                "(gradient_clip_val=1.0), train with precision='32-true', or look for extreme values with "
                "fusion data check"
            )


def _metrics(trainer: Trainer) -> dict[str, float]:
    """What was logged in this epoch; Lightning lists a metric logged per step and per epoch three times."""
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {k: v for k, v in logged.items() if k.removesuffix("_step").removesuffix("_epoch") == k}
