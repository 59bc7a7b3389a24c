"""Closed-form weights and inputs: with them the reference numbers of Peters et al.'s released modules were taken."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fusion.context import SensorAutoencoder, SensorConfig
from fusion.context.blocks import GatedConv, MultiScaleConv
from fusion.data import Modality

GAPS = torch.tensor([[2, 5, 3, 2, 4, 2, 2, 4, 5, 3], [1, 3, 2, 4, 3, 5, 1, 2, 4, 3]])
DAYS = torch.cat([torch.zeros(2, 1, dtype=torch.int64), GAPS.cumsum(1)], dim=1)  # (2, 11)


def sensor(name: str, *, reduced: int = 7) -> SensorConfig:
    """Of Sentinel-1 ("s1", 2 bands, 2 dimensions) or Sentinel-2 ("s2", 10 bands, 9 dimensions), as in the paper."""
    bands = ("VV", "VH") if name == "s1" else tuple(f"B{k}" for k in range(10))
    modality = Modality(name, "series", bands, 10.0, 15)
    return SensorConfig(modality, bottleneck=2 if name == "s1" else 9, reduced=reduced)


def window(channels: int) -> Tensor:
    """x[b, t, c, i, j] = 0.5 + 0.4 sin(0.3 t + 0.2 c + 0.1 i - 0.15 j + 0.5 b), (2, 11, C, 15, 15)."""
    b, t, c, i, j = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in (2, 11, channels, 15, 15)), indexing="ij"
    )
    return (0.5 + 0.4 * torch.sin(0.3 * t + 0.2 * c + 0.1 * i - 0.15 * j + 0.5 * b)).float()


def fill(parameters: Iterable[tuple[bool, Tensor]]) -> None:
    """Parameter n gets u = frac(437.585453 sin(12.9898 k + 78.233 n)) - 0.5 at its entry k, scaled; the flag marks
    the weight of a norm, to which 1 is added."""
    for n, (is_norm, p) in enumerate(parameters):
        k = torch.arange(p.numel(), dtype=torch.float64)
        wave = 437.585453 * torch.sin(12.9898 * k + 78.233 * n)
        u = (wave - wave.floor() - 0.5).view(p.shape)
        scaled = u * (12 * p.shape[0] / p.numel()) ** 0.5 if p.ndim > 1 else 0.2 * u
        p.data.copy_(scaled + is_norm)


def in_original_order(model: SensorAutoencoder) -> list[tuple[bool, Tensor]]:
    """Our parameters in the order in which the original registers its own."""
    encoder, decoder = model.frame_encoder, model.frame_decoder
    modules: list[nn.Module] = [model.day_table]
    modules += [encoder.lift, *_parts(encoder.scales), encoder.halve, *_parts(encoder.refine), encoder.quarter]
    modules += [*_parts(encoder.narrow), model.transformer, model.narrow, model.reduce, model.to_code]
    modules += [*_parts(decoder.widen), decoder.unhalve, *_parts(decoder.refine), decoder.unquarter]
    modules += [*_parts(decoder.scales), decoder.out, model.widen, model.expand, model.from_code]
    listed = [("norm" in name and name.endswith("weight"), p) for m in modules for name, p in m.named_parameters()]
    assert len(listed) == len(list(model.parameters()))
    return listed


def _parts(block: GatedConv | MultiScaleConv) -> list[nn.Module]:
    if isinstance(block, GatedConv):
        return [block.conv, block.gates.channel, block.gates.spatial]
    return [block.scales, block.gates.channel, block.gates.spatial, block.join]
