"""Training on the patches without labels, and a third sensor that joins later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from ....context import ContextFusion, SensorConfig
from ....context.samples import ContextSamples
from ....context.two_stage import Recipe, TwoStages, held_out, sensor
from ....data import Cube
from ....data.cubes import observed_statistics
from ....evaluation import Section
from ....evaluation.plots import loss_curves
from ....workflow.state import State
from .data import stripes

__all__ = ["pretrain", "third_sensor"]


def pretrain(
    state: State,
    *,
    window: int,
    sensors: Mapping[str, Mapping[str, Any]],
    samples: int,
    recipe: Mapping[str, Any],
    fusion: Mapping[str, Any] | None = None,
) -> str:
    """Both stages, without labels, on the training stripes alone; the lowest eighth of them validates.

    Args:
        window: side of the context window in pixels.
        sensors: fields of each sensor's configuration; the first is the reference.
        samples: for training.
        recipe: of :class:`~fusion.context.two_stage.Recipe`.
        fusion: fields of the fusion's configuration.
    """
    patches: Sequence[Cube] = state.data["all"]
    inside, _ = stripes(patches[0].shape, window // 2)
    lowest = np.arange(patches[0].shape[0])[:, None] >= patches[0].shape[0] * 7 // 8 + window // 2
    training = inside & (np.arange(patches[0].shape[0])[:, None] < patches[0].shape[0] * 7 // 8 - window // 2)
    configs = [_config(patches, name, window, fields, inside) for name, fields in sensors.items()]
    chosen: dict[str, Any] = {"stride": 1, "seed": state.seed}
    train = ContextSamples(patches, configs, allowed=training, limit=samples, **chosen)
    validation = ContextSamples(patches, configs, allowed=inside & lowest, limit=held_out(samples), **chosen)
    stages = TwoStages(
        train, validation, state.out / "train", Recipe.of(recipe), seed=state.seed, progress=state.progress
    )
    model = stages.train_all(configs, fusion)
    state.models["pretrained"] = model
    parameters = sum(p.numel() for p in model.parameters())
    sizes = ", ".join(f"{c.modality.name} {c.bottleneck}" for c in configs)
    state.metrics["pretrain"] = {"samples": len(train), "parameters": parameters}
    curves = [loss_curves(state.out / "train" / n / "metrics.csv", f"Stage 1, {n}.") for n in sensors]
    curves.append(loss_curves(state.out / "train" / "fusion" / "metrics.csv", "Stage 2."))
    state.sections.append(
        Section("Training without labels", f"{len(train)} samples from the training stripes.", curves)
    )
    return (
        f"{len(train)} samples, codes of {sizes}, fused {model.config.embedding}; {parameters / 1e3:.0f} k parameters"
    )


def _config(
    patches: Sequence[Cube], name: str, window: int, fields: Mapping[str, Any], allowed: np.ndarray
) -> SensorConfig:
    modality = next(c.sensors[name].modality for c in patches if name in c.sensors)
    return sensor(observed_statistics(patches, modality, allowed), window, fields)


def third_sensor(state: State, *, fields: Mapping[str, Any], samples: int, recipe: Mapping[str, Any]) -> str:
    """Landsat's surface temperature joins: its own autoencoder and the fusion layers are trained, nothing else.

    Reports how well the fused code rebuilds the temperature of the middle pixel, and that the old sensors' weights are
    the same bits as before.
    """
    patches: Sequence[Cube] = state.data["all"]
    if not any("landsat" in patch.sensors for patch in patches):
        return "no patch has Landsat's surface temperature: no third sensor"
    model = cast(ContextFusion, state.model("pretrained"))
    window = model.config.reference.window
    inside, _ = stripes(patches[0].shape, window // 2)
    config = _config(patches, "landsat", window, fields, inside)
    configs = (*model.config.sensors, config)
    chosen: dict[str, Any] = {"stride": 1, "seed": state.seed, "allowed": inside, "longest_gap": 16}
    data = ContextSamples(patches, configs, limit=samples + samples // 4, **chosen)
    order = np.random.default_rng(state.seed).permutation(len(data))
    train, validation = data.subset(order[samples // 4 :]), data.subset(order[: samples // 4])
    run = state.out / "train"
    stages = TwoStages(train, validation, run, Recipe.of(recipe), seed=state.seed, progress=state.progress)
    landsat = stages.train_sensor(config)
    before = {k: v.clone() for k, v in model.sensors.state_dict().items()}
    torch.manual_seed(state.seed)
    extended = stages.train_fusion(model.with_sensor(landsat), "three")
    same = all(torch.equal(extended.sensors.state_dict()[k], v) for k, v in before.items())
    log = np.genfromtxt(run / "three" / "metrics.csv", delimiter=",", names=True)
    error = {n: float(np.atleast_1d(log[f"val{n}centre"])[-1]) for n in model.sensors} | {
        "landsat": float(np.atleast_1d(log["vallandsatcentre"])[-1])
    }
    std = config.modality.std[0]
    state.models["three"] = extended
    state.metrics["third_sensor"] = {
        "old_weights_unchanged": same,
        "landsat_centre_error_kelvin": error["landsat"] * std,
        "landsat_std_kelvin": std,
    }
    text = (
        f"Old sensors' weights {'are the same bits' if same else 'CHANGED'}; the middle pixel's temperature is rebuilt "
        f"with a mean error of {error['landsat'] * std:.2f} K (its standard deviation is {std:.2f} K)."
    )
    state.sections.append(Section("A third sensor", text))
    return text
