"""How much of what the sensors saw an embedding still tells: before anything is predicted from it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fusion.context import ContextFusion
from fusion.context.fuse import observed_in
from fusion.data import TileBatch

from .report import Table

__all__ = ["explained_variance", "reconstruction_table"]


@torch.no_grad()
def explained_variance(model: ContextFusion, batch: TileBatch) -> dict[str, float]:
    """By sensor, the share of the variance of the middle pixel at the middle date (over bands and samples, normalised)
    that decoding the embedding explains. Predicting each band's mean scores 0: an encoder near that has collapsed."""
    found = {}
    outputs = model.decode(model(batch).embedding, batch)
    for name, output in outputs.items():
        sensor, observed = model.sensor(name), observed_in(batch, name)
        t, w = sensor.config.centre, sensor.config.window // 2
        target, seen = sensor.normalise(batch.values[name], observed)[:, t, :, w, w], observed[:, t, :, w, w]  # (B, C)
        mean = (target * seen).sum(0) / seen.sum(0).clamp_min(1)
        error = ((output[:, t, :, w, w] - target).square() * seen).sum()
        found[name] = float(1 - error / ((target - mean).square() * seen).sum())
    return found


def reconstruction_table(found: Mapping[str, float], where: str) -> Table:
    caption = f"Share of the variance of the embedded pixel on its date that decoding explains, {where}; a mean has 0."
    return Table(["sensor", "explained"], [[name, share] for name, share in found.items()], caption)
