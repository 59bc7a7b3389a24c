"""Training in two stages: every sensor's autoencoder, then what joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fusion.data import Modality, TileDataset
from fusion.training import fit, load_model

from .config import FusionConfig, SensorConfig, current_names
from .fuse import ContextFusion
from .module import FusionPretraining, SensorPretraining
from .objective import ContextObjective
from .sensor import SensorAutoencoder

__all__ = ["Recipe", "held_out", "objective", "sensor", "train_fusion", "train_sensor", "train_stages"]

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
        unknown = set(settings) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"recipe: unknown {', '.join(unknown)}; it has {', '.join(cls.__dataclass_fields__)}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        return cls(**plain)


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


def train_sensor(
    config: SensorConfig,
    train: TileDataset,
    validation: TileDataset,
    run: Path,
    recipe: Recipe,
    *,
    seed: int = 0,
    progress: bool = False,
) -> SensorAutoencoder:
    """Stage 1 of one sensor, in the run folder ``run``."""
    torch.manual_seed(seed)
    name = config.modality.name
    steps = recipe.steps(0, len(train))
    module = SensorPretraining(
        SensorAutoencoder(config), objective(config, recipe), lr=recipe.lr, warmup=_WARMUP, steps=steps
    )
    own, held = train.with_modalities([name]), validation.with_modalities([name])
    return cast(SensorAutoencoder, _fit(module, own, held, run, 0, recipe, seed, progress))


def train_fusion(
    model: ContextFusion,
    train: TileDataset,
    validation: TileDataset,
    run: Path,
    recipe: Recipe,
    *,
    seed: int = 0,
    progress: bool = False,
) -> ContextFusion:
    """Stage 2, in the run folder ``run``."""
    objectives = {s.modality.name: objective(s, recipe) for s in model.config.sensors}
    if recipe.freeze:
        model.freeze_sensors()
    steps = recipe.steps(1, len(train))
    module = FusionPretraining(model, objectives, lr=recipe.lr, warmup=_WARMUP, steps=steps)
    return cast(ContextFusion, _fit(module, train, validation, run, 1, recipe, seed, progress))


def train_stages(
    sensors: Sequence[SensorConfig],
    train: TileDataset,
    validation: TileDataset,
    run: Path,
    recipe: Recipe,
    *,
    fusion: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> ContextFusion:
    """Every sensor alone, then all together; ``fusion`` are fields of the fusion's configuration."""
    encoders = {}
    for config in sensors:
        name = config.modality.name
        encoders[name] = train_sensor(config, train, validation, run / name, recipe, seed=seed, progress=progress)
    torch.manual_seed(seed)
    model = ContextFusion(FusionConfig(tuple(sensors), **current_names(fusion or {})), encoders)
    return train_fusion(model, train, validation, run / "fusion", recipe, seed=seed, progress=progress)


def _fit(
    module: SensorPretraining | FusionPretraining,
    train: TileDataset,
    validation: TileDataset,
    run: Path,
    stage: int,
    recipe: Recipe,
    seed: int,
    progress: bool,
) -> nn.Module:
    best = fit(
        module,
        train,
        validation,
        run,
        epochs=recipe.epochs[stage],
        batch_size=recipe.batch_size,
        monitor="val/loss",
        gradient_clip_val=1.0,
        seed=seed,
        memory="warn",
        progress=progress,
        accelerator="cpu" if not torch.cuda.is_available() else "auto",
    )
    return load_model(best)
