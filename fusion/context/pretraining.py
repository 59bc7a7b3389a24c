"""System 3 from cubes without labels: sizes by name, samples from pieces of ground, both stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.data import Cube, Modality
from fusion.data.cubes import observed_statistics
from fusion.data.partners import LONGEST_GAP
from fusion.settings import accepted, call, with_tuples

from .config import FusionConfig, SensorConfig
from .pieces import cut
from .samples import ContextSamples
from .two_stage import Recipe, TwoStages, held_out, sensor

__all__ = ["SIZES", "Size", "check_settings", "pretrain_cubes"]


@dataclass(frozen=True)
class Size:
    """A named size of both stages.

    Attributes:
        window: pixels per side.
        sensor: fields of every :class:`SensorConfig`.
        bottleneck: dimensions of the reference's code and of the others'.
        fusion: fields of the :class:`FusionConfig`.
        recipe: fields of the :class:`Recipe`.
        samples: that are trained on, an epoch.
    """

    window: int
    sensor: Mapping[str, Any]
    bottleneck: tuple[int, int]
    fusion: Mapping[str, Any]
    recipe: Mapping[str, Any]
    samples: int


# "tiny" is what the experiment context-worldcereal found to learn in minutes on a CPU (docs/context.md says how).
SIZES = {
    "tiny": Size(
        window=5,
        sensor={
            "reduced": 11,
            "convolutional": False,
            "widths": (64, 64, 64, 32),
            "depth": 1,
            "heads": 4,
            "mlp_dim": 64,
            "dropout": 0.0,
            "drop_maps": (0.0, 0.0),
            "spacing": 15,
            "span": 400,
            "smooth_days": True,
            "norm_first": True,
            "variance_preserving_init": True,
        },
        bottleneck=(32, 12),
        fusion={"embedding": 48, "dim": 96, "mlp_dim": 192, "dropout": 0.0},
        recipe={
            "epochs": (4, 3),
            "lr": 4e-3,
            "batch_size": 64,
            "time": 0.8,
            "neighbour": 0.1,
            "space": 0.3,
            "decay": True,
        },
        samples=16_000,
    ),
    "paper": Size(
        window=15,
        sensor={},
        bottleneck=(9, 2),
        fusion={},
        recipe={"epochs": (100, 100), "lr": 1e-4, "batch_size": 16},
        samples=200_000,
    ),
}

_MODEL = ("window", "sensors", "fusion")
_OBJECTIVE = ("lr", "time", "neighbour", "space", "angle", "decay", "freeze")
_TRAINING = ("epochs", "batch_size", "samples", "stride", "memory", "longest_gap", "progress", "resume")


def check_settings(
    size: str, model: Mapping[str, Any] | None, module: Mapping[str, Any] | None, training: Mapping[str, Any] | None
) -> None:
    """Refuses what :func:`pretrain_cubes` would, before any data are read.

    Raises:
        ValueError: an unknown size or setting; the message lists those there are.
    """
    model = model or {}
    if size not in SIZES:
        raise ValueError(f"context: no size {size!r}; there are {', '.join(SIZES)}")
    for given, known, where in (
        (model, _MODEL, "context model"),
        (module, _OBJECTIVE, "context pretraining"),
        (training, _TRAINING, "training"),
    ):
        unknown = [name for name in given or {} if name not in known]
        if unknown:
            raise ValueError(f"{where}: unknown setting {', '.join(unknown)}; it has {', '.join(known)}")
    accepted(FusionConfig, model.get("fusion") or {}, "fusion", ("sensors",))
    for name, given in (model.get("sensors") or {}).items():
        accepted(SensorConfig, given or {}, f"sensor {name!r}", ("modality",))


def pretrain_cubes(
    cubes: Sequence[Cube],
    run: Path,
    *,
    size: str = "tiny",
    modalities: Sequence[str] | None = None,
    model: Mapping[str, Any] | None = None,
    module: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Trains every sensor's autoencoder in ``run/sensors/<name>``, then their fusion in ``run``; returns the best file.

    The first sensor in a unit of reflectance is the reference, whose dates are embedded; without one the first sensor.
    Samples are of square pieces of ground, a fifth of which validate. A call that was interrupted is repeated to go on:
    stages that are finished are not trained again.

    Args:
        size: ``"tiny"`` or ``"paper"``.
        modalities: sensors, the reference first; all by default.
        model: ``window`` in pixels, ``sensors`` by name with fields of :class:`SensorConfig`, and ``fusion`` with
            fields of :class:`FusionConfig` that differ from the size's.
        module: ``lr``, ``time``, ``neighbour``, ``space``, ``angle``, ``decay``, ``freeze`` of :class:`Recipe`.
        training: ``epochs`` (of both stages, or one number for each), ``batch_size``, ``samples``, ``stride`` (pixels
            between samples), ``memory`` (GiB of pieces), ``longest_gap`` (days from a date of the reference to another
            sensor's, 7 by default), ``progress``, ``resume``.

    Raises:
        ValueError: an unknown size, sensor or setting, cubes without sensors, too little ground, or a sensor without a
            date near any of the reference.
    """
    check_settings(size, model, module, training)
    chosen, model, training = SIZES[size], dict(model or {}), dict(training or {})
    sensors = _sensors(cubes, modalities)
    window = int(model.get("window", chosen.window))
    pieces = cut(
        cubes, window, reference=sensors[0].name, memory=int(float(training.pop("memory", 1.0)) * (1 << 30)), seed=seed
    )
    print(pieces, flush=True)
    own = model.get("sensors") or {}
    unknown = [name for name in own if name not in {modality.name for modality in sensors}]
    if unknown:
        raise ValueError(
            f"context: no sensor {', '.join(map(repr, unknown))}; there are {', '.join(m.name for m in sensors)}"
        )
    flat = {} if window >= 5 else {"convolutional": False}
    configs = [
        sensor(
            observed_statistics(pieces.train, modality),
            window,
            {**chosen.sensor, **flat, "bottleneck": chosen.bottleneck[k > 0]} | (own.get(modality.name) or {}),
        )
        for k, modality in enumerate(sensors)
    ]
    recipe = _recipe(chosen, module or {}, training)
    gap = int(training.get("longest_gap", LONGEST_GAP))
    samples, stride = int(training.get("samples", chosen.samples)), int(training.get("stride", 3))
    interior = pieces.interior(window)
    train, validation = (
        ContextSamples(part, configs, stride=stride, allowed=interior, limit=limit, seed=seed, longest_gap=gap)
        for part, limit in ((pieces.train, samples), (pieces.validation, held_out(samples)))
    )
    print(f"{len(train)} samples to train on, {len(validation)} for validation, {sensors[0].name} is the reference")
    trainer = {name: training[name] for name in ("resume",) if name in training}
    stages = TwoStages(
        train, validation, run, recipe, seed=seed, progress=bool(training.get("progress", True)), trainer=trainer
    )
    stages.train_all(configs, {**chosen.fusion, **with_tuples(model.get("fusion") or {})}, folders=("sensors", "."))
    return run / "best.safetensors"


def _sensors(cubes: Sequence[Cube], modalities: Sequence[str] | None) -> list[Modality]:
    """The reference first."""
    known: dict[str, Modality] = {}
    for cube in cubes:
        for name, series in cube.sensors.items():
            before = known.setdefault(name, series.modality)
            if (before.bands, before.unit) != (series.modality.bands, series.modality.unit):
                raise ValueError(f"cube {cube.name!r}: sensor {name!r} has other bands or units than in other cubes")
    wanted = list(known) if modalities is None else list(modalities)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(
            f"context: no sensor {', '.join(map(repr, unknown))}; the cubes have {', '.join(known) or 'none'}: series "
            "with pixels are sensors"
        )
    if modalities is None:
        wanted.sort(key=lambda name: not known[name].unit.startswith("reflectance"))  # stable: the first stays first
    return [known[name] for name in wanted]


def _recipe(chosen: Size, module: Mapping[str, Any], training: Mapping[str, Any]) -> Recipe:
    epochs = training.get("epochs", chosen.recipe["epochs"])
    pair = (epochs, epochs) if isinstance(epochs, int) else tuple(epochs)
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise ValueError(f"training: epochs are a number, or one for each of the two stages, not {epochs!r}")
    batch = {"batch_size": training["batch_size"]} if "batch_size" in training else {}
    return call(Recipe, {**chosen.recipe, **module, **batch, "epochs": pair}, "context pretraining")
