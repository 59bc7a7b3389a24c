"""Training on real patches, a third sensor that joins later, and maps of the patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...context.samples import ContextSamples
from ...data import FolderDataset
from ...data.cubes import Cube, observed_statistics
from ...data.folder import read_cubes
from ...data.folder.labels import read_map
from ...embed.dense import BlockEncoder
from ...evaluation import Section
from ...evaluation.plots import loss_curves
from ...workflow.state import State
from . import pictures
from .crops import stripes
from .stages import Recipe, held_out, sensor, train_fusion, train_sensor, train_stages

__all__ = ["maps", "open_patches", "pretrain", "third_sensor"]

_PRESETS = Path(__file__).parents[2] / "presets" / "data"
_SENSORS = {"s2": ["s2", "s2-20m"], "s1": ["s1"], "landsat": ["surface-temperature"]}
_COVER = {"temporary crops": (11,), "permanent crops": (12,), "grassland": (13,), "built-up": (60,), "other": (99,)}


def open_patches(source: str | Path) -> tuple[dict[str, Any], str]:
    """The three patches and the monthly cube of ``worldcereal_patches``; ``labels`` has the patches' crop types and
    land cover, as (class of every pixel by patch, names of the classes)."""
    patches = read_cubes(_PRESETS / "worldcereal.yaml", source, _SENSORS)
    monthly = read_cubes(_PRESETS / "worldcereal-monthly.yaml", source, {"s2": ["s2"], "s1": ["s1"]}, temporal_window=1)
    labels = _labels(source)
    sizes = ", ".join(
        f"{c.name} ({', '.join(f'{n} {len(s.dates)}' for n, s in c.sensors.items())} dates)" for c in patches
    )
    parts = {"all": patches, "monthly": monthly, "labels": labels}
    kinds = " and ".join(f"{len(classes)} classes of {kind}" for kind, (_, classes) in labels.items())
    return parts, f"{len(patches)} patches of 64 x 64 pixels: {sizes}; {kinds}"


def _labels(source: str | Path) -> dict[str, tuple[dict[str, np.ndarray], tuple[str, ...]]]:
    """By kind, the class of every pixel by patch, -1 where there is none, and the classes."""
    dataset = FolderDataset(_PRESETS / "worldcereal.yaml", source, ["s1"])
    types = dataset.description.labels
    found = {}
    for kind, described in {"crop type": types, "land cover": replace(types, variable="lc", classes=_COVER)}.items():
        maps = {}
        for scene in dataset.scenes:
            codes = read_map(described, scene.layers["s1"].path, dataset.arrays)
            maps[scene.name] = np.full(codes.shape, -1)
            for k, own in enumerate(described.classes.values()):
                maps[scene.name][np.isin(codes, own)] = k
        found[kind] = (maps, tuple(described.classes))
    return found


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
        recipe: of :class:`~fusion.experiments.context.stages.Recipe`.
        fusion: fields of the fusion's configuration.
    """
    patches: Sequence[Cube] = state.data["all"]
    inside, _ = stripes(patches[0].shape, window // 2)
    lowest = np.arange(patches[0].shape[0])[:, None] >= patches[0].shape[0] * 7 // 8 + window // 2
    training = inside & (np.arange(patches[0].shape[0])[:, None] < patches[0].shape[0] * 7 // 8 - window // 2)
    configs = [_config(patches, name, window, fields, inside) for name, fields in sensors.items()]
    chosen = {"stride": 1, "seed": state.seed}
    train = ContextSamples(patches, configs, allowed=training, limit=samples, **chosen)
    validation = ContextSamples(patches, configs, allowed=inside & lowest, limit=held_out(samples), **chosen)
    model = train_stages(
        configs, train, validation, state.out / "train", Recipe.of(recipe), fusion=fusion, seed=state.seed,
        progress=state.progress,
    )  # fmt: skip
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


def _config(patches: Sequence[Cube], name: str, window: int, fields: Mapping[str, Any], allowed: np.ndarray) -> Any:
    modality = next(c.sensors[name].modality for c in patches if name in c.sensors)
    return sensor(observed_statistics(patches, modality, allowed), window, fields)


def third_sensor(state: State, *, fields: Mapping[str, Any], samples: int, recipe: Mapping[str, Any]) -> str:
    """Landsat's surface temperature joins: its own autoencoder and the fusion layers are trained, nothing else.

    Reports how well the fused code rebuilds the temperature of the middle pixel, and that the old sensors' weights are
    the same bits as before.
    """
    patches, model = state.data["all"], state.model("pretrained")
    window = model.config.reference.window
    inside, _ = stripes(patches[0].shape, window // 2)
    config = _config(patches, "landsat", window, fields, inside)
    configs = (*model.config.sensors, config)
    chosen = {"stride": 1, "seed": state.seed, "allowed": inside, "longest_gap": 16}
    data = ContextSamples(patches, configs, limit=samples + samples // 4, **chosen)
    order = np.random.default_rng(state.seed).permutation(len(data))
    train, validation = data.subset(order[samples // 4 :]), data.subset(order[: samples // 4])
    settings = {"seed": state.seed, "progress": state.progress}
    run, plan = state.out / "train", Recipe.of(recipe)
    landsat = train_sensor(config, train, validation, run / "landsat", plan, **settings)
    before = {k: v.clone() for k, v in model.sensors.state_dict().items()}
    torch.manual_seed(state.seed)
    extended = train_fusion(model.with_sensor(landsat), train, validation, run / "three", plan, **settings)
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


def maps(state: State, *, patch: int = 1, dates: int = 24) -> str:
    """Colours over time, similarity to one pixel, the season of single pixels, of one patch."""
    cube, model = state.data["all"][patch], state.model("pretrained")
    maps, classes = state.data["labels"]["crop type"]
    usable = np.flatnonzero(cube.sensors["s2"].observed_share() > 0.9)
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, min(dates, len(usable))).round().astype(int))]
    encoder = BlockEncoder(model, cube, dates=chosen)
    embedding = encoder(*(slice(0, n) for n in cube.shape))
    iso = encoder.dates.astype(str).tolist()
    where = f"Patch {cube.name}, test stripes included."
    pixels = {}
    for k, name in enumerate(classes):
        found = np.argwhere(maps[cube.name] == k)
        if len(found):
            pixels[name] = tuple(found[len(found) // 2])
    middle = len(iso) // 2
    items = [
        pictures.pca_maps(embedding, iso, where),
        pictures.similarity(embedding[middle], next(iter(pixels.values())), iso[middle], where),
        pictures.seasonal_curves(embedding, encoder.dates, pixels, where),
    ]
    state.sections.append(Section("What the embeddings look like", "", items))
    return f"{len(iso)} dates of patch {cube.name}"
