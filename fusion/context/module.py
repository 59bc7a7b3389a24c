"""How the two stages are trained (LightningModules for ``fusion.training.fit``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from fusion.data import TileBatch

from .fuse import ContextFusion, observed_in
from .objective import ContextObjective, centre_error
from .sensor import SensorAutoencoder

__all__ = ["FusionPretraining", "SensorPretraining"]


class _Pretraining(lightning.LightningModule):
    """Logs losses and chooses models by the error of the middle pixel at the middle date (``val/centre``)."""

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        weight_decay: float,
        warmup: int,
        steps: int | None,
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self.lr, self.weight_decay, self.warmup, self.steps = lr, weight_decay, warmup, steps
        optimizer = {"lr": lr, "weight_decay": weight_decay, "warmup": warmup, "steps": steps}
        self.save_hyperparameters(optimizer | settings)

    def losses(self, batch: TileBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What is minimised, the error in the middle, and terms to log by name."""
        raise NotImplementedError

    def training_step(self, batch: TileBatch, index: int) -> Tensor:
        loss, centre, terms = self.losses(batch)
        self._note("train", batch, {"loss": loss, "centre": centre, **terms})
        return loss

    def validation_step(self, batch: TileBatch, index: int) -> None:
        loss, centre, terms = self.losses(batch)
        self._note("val", batch, {"loss": loss, "centre": centre, **terms})

    def _note(self, stage: str, batch: TileBatch, values: Mapping[str, Tensor]) -> None:
        named = {f"{stage}/{k}": v.detach() for k, v in values.items()}
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=len(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW and a linear start over ``warmup`` steps; then the rate falls when the middle stops getting better, or,
        where it is known that there will be ``steps``, as half a cosine to zero."""
        trained: Iterable[nn.Parameter] = (p for p in self.parameters() if p.requires_grad)
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        schedulers: list[Any] = []
        if self.warmup:
            start = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.001, total_iters=self.warmup)
            schedulers.append({"scheduler": start, "interval": "step"})
        if self.steps:
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.steps)
            return [optimizer], [*schedulers, {"scheduler": cosine, "interval": "step"}]
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.35, patience=5, min_lr=1e-6)
        monitored = {"scheduler": plateau, "interval": "epoch", "monitor": "val/centre", "strict": False}
        return [optimizer], [*schedulers, monitored]


class SensorPretraining(_Pretraining):
    """Stage 1. Defaults are the paper's; a few thousand samples need ``warmup`` of tens, a rate near 1e-3 and, better
    than waiting for plateaus, a known number of ``steps``."""

    model: SensorAutoencoder

    def __init__(
        self,
        model: SensorAutoencoder,
        objective: ContextObjective | None = None,
        *,
        lr: float = 1e-4,
        weight_decay: float = 1.5e-4,
        warmup: int = 35_000,
        steps: int | None = None,
    ) -> None:
        objective = objective or ContextObjective()
        super().__init__(model, lr, weight_decay, warmup, steps, asdict(objective))
        self.objective = objective

    def losses(self, batch: TileBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        name = self.model.config.modality.name
        observed = observed_in(batch, name)
        _, output, target = self.model(batch.values[name], batch.days[name], batch.valid[name], observed)
        terms = self.objective(output, target, observed, self.model.restore)
        return terms.total, centre_error(output, target, observed), {"mae": terms.mae, "angle": terms.angle}


class FusionPretraining(_Pretraining):
    """Stage 2: the mean of the sensors' losses. ``model.freeze_sensors()`` beforehand keeps the autoencoders."""

    model: ContextFusion

    def __init__(
        self,
        model: ContextFusion,
        objectives: Mapping[str, ContextObjective] | None = None,
        *,
        lr: float = 1e-4,
        weight_decay: float = 1.5e-4,
        warmup: int = 30_000,
        steps: int | None = None,
    ) -> None:
        """``objectives`` by sensor; by default the documented ones, optical with spectral angle for reflectance."""
        given = dict(objectives or {})
        for sensor in model.config.sensors:
            optical = sensor.modality.unit.startswith("reflectance")
            given.setdefault(sensor.modality.name, ContextObjective.stage2(optical=optical))
        settings = {f"{name}.{k}": v for name, o in given.items() for k, v in asdict(o).items()}
        frozen = [n for n, s in model.sensors.items() if not any(p.requires_grad for p in s.parameters())]
        super().__init__(model, lr, weight_decay, warmup, steps, settings | {"frozen": " ".join(frozen)})
        self.objectives = given

    def losses(self, batch: TileBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        outputs = self.model.decode(self.model(batch).embedding, batch)
        total, centre, terms = [], [], {}
        for name, output in outputs.items():
            observed, sensor = observed_in(batch, name), self.model.sensor(name)
            target = sensor.normalise(batch.values[name], observed)
            losses = self.objectives[name](output, target, observed, sensor.restore)
            total.append(losses.total)
            centre.append(centre_error(output, target, observed))
            terms[f"{name}/centre"] = centre[-1]
        return torch.stack(total).mean(), torch.stack(centre).mean(), terms
