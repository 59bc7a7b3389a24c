"""Stage 2: several sensors' codes become one embedding, and the stage-1 decoders rebuild every sensor from it.

Peters et al. 2025 (arXiv 2511.11706). One token a sensor: its lifted code, a learned vector of its type, and the
embedding of the days between its date and the reference's. A sensor that was not observed has no token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.data import TileBatch

from .config import FusionConfig
from .sensor import SensorAutoencoder

__all__ = ["ContextFusion", "Fused", "observed_in"]


@dataclass
class Fused:
    """What the model says of a batch.

    Attributes:
        embedding: (B, E) positive; meaningless where no sensor was observed.
        codes: by sensor, (B, bottleneck) of stage 1.
        patches: (B, 1, E), the embedding as every map writer takes it: a tile is one patch.
    """

    embedding: Tensor
    codes: dict[str, Tensor]

    @property
    def patches(self) -> Tensor:
        return self.embedding[:, None]

    @property
    def summary(self) -> Tensor:
        return self.embedding


class ContextFusion(nn.Module):
    """Autoencoders of several sensors and the small transformer that joins their codes."""

    def __init__(self, config: FusionConfig, autoencoders: Mapping[str, SensorAutoencoder] | None = None) -> None:
        """
        Args:
            autoencoders: trained ones by sensor name; a sensor that is not among them starts from scratch.

        Raises:
            ValueError: an autoencoder of another configuration.
        """
        super().__init__()
        self.config = config
        given = dict(autoencoders or {})
        self.sensors = nn.ModuleDict()
        for sensor in config.sensors:
            name = sensor.modality.name
            model = given.pop(name, None) or SensorAutoencoder(sensor)
            if model.config != sensor:
                raise ValueError(
                    f"fusion: the autoencoder of {name!r} has the configuration {model.config}, not {sensor}"
                )
            self.sensors[name] = model
        if given:
            raise ValueError(f"fusion: autoencoders of {', '.join(given)}, which are no sensors of the configuration")
        sizes = {s.modality.name: s.bottleneck for s in config.sensors}
        self.lift = nn.ModuleDict({n: nn.Linear(size, config.dim) for n, size in sizes.items()})
        self.kind = nn.ParameterDict({n: nn.Parameter(torch.randn(config.dim)) for n in sizes})
        self.gap_table = nn.Embedding(config.longest_gap + 1, config.dim)
        layer = nn.TransformerEncoderLayer(
            config.dim, config.heads, config.mlp_dim, config.dropout, batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.dim)
        self.to_embedding = nn.Linear(config.dim, config.embedding)
        self.to_code = nn.ModuleDict({n: nn.Linear(config.embedding, size) for n, size in sizes.items()})

    def sensor(self, name: str) -> SensorAutoencoder:
        """The autoencoder of a sensor."""
        return cast(SensorAutoencoder, self.sensors[name])

    def fuse(self, codes: Mapping[str, Tensor], gaps: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Tensor:
        """Codes (B, bottleneck) by sensor to the embedding (B, E).

        Args:
            gaps: by sensor, (B,) days between its middle date and the reference's.
            valid: by sensor, (B,) bool: there is a date of it.
        """
        tokens = []
        for name, code in codes.items():
            day = gaps[name].abs().clamp(max=self.config.longest_gap)
            gap = self.gap_table(day) / self.config.dim**0.5
            tokens.append(self.lift[name](code) + self.kind[name] + gap)
        stacked = torch.stack(tokens, dim=1)  # (B, M, dim)
        there = torch.stack([valid[name] for name in codes], dim=1)  # (B, M)
        absent = ~there & there.any(dim=1, keepdim=True)
        mixed = self.transformer(stacked, src_key_padding_mask=absent)
        weight = (~absent).unsqueeze(-1).to(mixed.dtype)
        pooled = (mixed * weight).sum(dim=1) / weight.sum(dim=1)
        return F.softplus(self.to_embedding(self.norm(pooled)))

    def forward(self, batch: TileBatch) -> Fused:
        """Embeds a batch with any of the sensors."""
        codes, gaps, valid = {}, {}, {}
        for name, model in self._known(batch):
            target = model.normalise(batch.values[name], observed_in(batch, name))
            codes[name] = model.encode(target, batch.days[name], batch.valid[name])
            gaps[name] = self.gap(batch, name)
            valid[name] = batch.valid_tiles(name)
        return Fused(self.fuse(codes, gaps, valid), codes)

    def decode(self, embedding: Tensor, batch: TileBatch) -> dict[str, Tensor]:
        """Every sensor's normalised windows (B, T, C, W, W), rebuilt from the embedding alone."""
        return {
            name: model.decode(self.to_code[name](embedding), batch.days[name], batch.valid[name])
            for name, model in self._known(batch)
        }

    def gap(self, batch: TileBatch, name: str) -> Tensor:
        """(B,) days between the middle frame of a sensor and the reference's; 0 without a reference."""
        reference = self.config.reference
        own = batch.days[name][:, batch.days[name].shape[1] // 2]
        if reference.modality.name not in batch.days:
            return torch.zeros_like(own)
        wanted = batch.days[reference.modality.name][:, reference.centre]
        return torch.where(batch.valid_tiles(reference.modality.name), own - wanted, 0)

    def freeze_sensors(self, *names: str, frozen: bool = True) -> ContextFusion:
        """Whether the autoencoders ``names`` (default: all) keep their weights; what is frozen has no dropout."""
        for name in names or tuple(self.sensors):
            self.sensors[name].requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> ContextFusion:
        super().train(mode)
        for sensor in self.sensors.values():
            sensor.train(mode and any(p.requires_grad for p in sensor.parameters()))
        return self

    def with_sensor(self, autoencoder: SensorAutoencoder) -> ContextFusion:
        """A model with one more sensor: what was learned is copied, the new sensor's own layers are fresh.

        Train its autoencoder first (stage 1), then this model with ``freeze_sensors()``: no old encoder is touched.
        """
        config = replace(self.config, sensors=(*self.config.sensors, autoencoder.config))
        new = autoencoder.config.modality.name
        extended = ContextFusion(config, {new: autoencoder})
        extended.load_state_dict(
            {**extended.state_dict(), **self.state_dict()}  # the new names are those that this model lacks
        )
        return extended

    def _known(self, batch: TileBatch) -> Iterator[tuple[str, SensorAutoencoder]]:
        known = [name for name in self.sensors if name in batch.values]
        if not known:
            raise ValueError(
                f"fusion: the batch has {', '.join(batch.values)}, none of the sensors {', '.join(self.sensors)}"
            )
        return ((name, self.sensor(name)) for name in known)


def observed_in(batch: TileBatch, name: str) -> Tensor:
    """(B, T, C, W, W) bool: which values of a sensor were observed.

    Where the batch does not say, every value of a valid frame was observed.
    """
    valid = batch.valid[name][..., None, None, None]
    observed = batch.observed.get(name)
    return valid.expand(batch.values[name].shape) if observed is None else observed & valid
