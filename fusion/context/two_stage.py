"""Training in two stages: every sensor's autoencoder, then what joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from fusion.data import Modality, TileDataset
from fusion.settings import call, with_tuples
from fusion.training import fit, load_model

from .config import FusionConfig, SensorConfig
from .fuse import ContextFusion
from .module import FusionPretraining, SensorPretraining
from .objective import ContextObjective
from .samples import ContextSamples
from .sensor import SensorAutoencoder

__all__ = ["Recipe", "TwoStages", "held_out", "objective", "sensor"]

_WARMUP = 100  # steps


@dataclass(frozen=True)
class Recipe:
    """What training takes.

    Attributes:
        epochs: of stage 1 and of stage 2.
        lr, batch_size: the paper's 1e-4 and 16 are for days on a GPU; minutes on a CPU want larger steps.
        time, neighbour, space: how fast frames and pixels lose weight in the objective with their distance from the
            middle. The paper's 0.1, 0.01 and 0.1 make a code of the middle pixel; slower decay puts the season in it.
        decay: the rate falls to zero over the training instead of on plateaus, for which minutes are too short.
        angle: weight of the spectral angle for optical sensors.
        freeze: stage 2 keeps the autoencoders as stage 1 left them.
    """

    epochs: tuple[int, int] = (8, 5)
    lr: float = 2e-3
    batch_size: int = 32
    time: float = 0.1
    neighbour: float = 0.01
    space: float = 0.1
    angle: float = 0.0
    decay: bool = False
    freeze: bool = True

    def steps(self, stage: int, samples: int) -> int | None:
        """Of one stage, if the rate is to fall over them."""
        return self.epochs[stage] * max(1, samples // self.batch_size) if self.decay else None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Recipe:
        """From a YAML.

        Raises:
            ValueError: an unknown field.
        """
        return call(cls, with_tuples(settings), "recipe")


def held_out(samples: int) -> int:
    """How many samples validate a training on ``samples``: enough to choose an epoch by."""
    return min(max(64, samples // 8), 512)


def sensor(modality: Modality, window: int, settings: Mapping[str, Any]) -> SensorConfig:
    """The configuration of one sensor from a YAML's settings; ``modality`` has its statistics."""
    return SensorConfig.from_dict({**settings, "modality": replace(modality, patch_size=window)})


def objective(config: SensorConfig, recipe: Recipe) -> ContextObjective:
    optical = config.modality.unit.startswith("reflectance")
    decay = {"time": recipe.time, "neighbour": recipe.neighbour, "space": recipe.space}
    return ContextObjective(angle=recipe.angle if optical else 0.0, **decay)


def with_sensor(samples: TileDataset, name: str) -> TileDataset:
    """The samples that have the sensor, for its own autoencoder.

    Raises:
        ValueError: none has it.
    """
    if not isinstance(samples, ContextSamples):
        return samples
    samples.check_partners([name])
    return samples.subset(samples.partnered(name))


def joined(samples: TileDataset) -> TileDataset:
    """The samples with two sensors or more, where there are several: one alone teaches their fusion nothing.

    Raises:
        ValueError: there are several sensors, and no sample has two.
    """
    if not isinstance(samples, ContextSamples) or len(samples.sensors) < 2:
        return samples
    samples.check_partners()
    return samples.subset(np.sum([samples.partnered(name) for name in samples.sensors], axis=0) > 1)


def _alone(samples: TileDataset, count: int) -> str:
    if not isinstance(samples, ContextSamples):
        return ""
    reference, *others = samples.sensors
    return (
        f"fusion: {count} of {len(samples)} samples are left out: no date of {' or '.join(others)} within "
        f"{samples.longest_gap} days of theirs of {reference}"
    )


@dataclass(frozen=True)
class TwoStages:
    """What both stages learn from, where their run folders are, and how they train.

    Attributes:
        run: folder of the run folders.
        trainer: further arguments of :func:`fusion.training.fit`.
    """

    train: TileDataset
    validation: TileDataset
    run: Path
    recipe: Recipe
    seed: int = 0
    progress: bool = False
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def train_all(
        self,
        sensors: Sequence[SensorConfig],
        fusion: Mapping[str, Any] | None = None,
        folders: tuple[str, str] = (".", "fusion"),
    ) -> ContextFusion:
        """Every sensor alone, then all together.

        Args:
            fusion: fields of the fusion's configuration.
            folders: that of the sensors' run folders, and the run folder of the fusion, in ``run``.
        """
        for samples in (self.train, self.validation):
            if isinstance(samples, ContextSamples):
                samples.check_partners()
        encoders = {config.modality.name: self.train_sensor(config, folders[0]) for config in sensors}
        torch.manual_seed(self.seed)
        model = ContextFusion(FusionConfig(tuple(sensors), **(fusion or {})), encoders)
        return self.train_fusion(model, folders[1])

    def train_sensor(self, config: SensorConfig, folder: str = ".") -> SensorAutoencoder:
        """Stage 1 of one sensor, in the run folder of its name."""
        torch.manual_seed(self.seed)
        name = config.modality.name
        whole, held = (with_sensor(samples, name) for samples in (self.train, self.validation))
        steps = self.recipe.steps(0, len(whole))
        module = SensorPretraining(
            SensorAutoencoder(config), objective(config, self.recipe), lr=self.recipe.lr, warmup=_WARMUP, steps=steps
        )
        own, held = whole.with_modalities([name]), held.with_modalities([name])
        return cast(SensorAutoencoder, self._fit(module, own, held, f"{folder}/{name}", 0))

    def train_fusion(self, model: ContextFusion, name: str = "fusion") -> ContextFusion:
        """Stage 2, in the run folder ``name``."""
        objectives = {s.modality.name: objective(s, self.recipe) for s in model.config.sensors}
        if self.recipe.freeze:
            model.freeze_sensors()
        train, validation = (joined(samples) for samples in (self.train, self.validation))
        if len(train) < len(self.train):
            print(_alone(self.train, len(self.train) - len(train)), flush=True)
        steps = self.recipe.steps(1, len(train))
        module = FusionPretraining(model, objectives, lr=self.recipe.lr, warmup=_WARMUP, steps=steps)
        return cast(ContextFusion, self._fit(module, train, validation, name, 1))

    def _fit(
        self,
        module: SensorPretraining | FusionPretraining,
        train: TileDataset,
        validation: TileDataset,
        name: str,
        stage: int,
    ) -> nn.Module:
        best = fit(
            module,
            train,
            validation,
            self.run / name,
            epochs=self.recipe.epochs[stage],
            batch_size=self.recipe.batch_size,
            monitor="val/loss",
            gradient_clip_val=1.0,
            seed=self.seed,
            memory="warn",
            progress=self.progress,
            accelerator="cpu" if not torch.cuda.is_available() else "auto",
            **self.trainer,
        )
        return load_model(best)
