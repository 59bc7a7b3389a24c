"""Stage 1: the autoencoder of one sensor.

Peters et al. 2025 (arXiv 2511.11706): every frame of a window of space and time is encoded by convolutions, a
transformer relates the frames, and what is left is a small positive code of the middle pixel at the middle date. The
decoder mirrors it and shares the day table and the transformer.

Two things differ from the released code. Its encoder attends across the samples of a batch, ours across the frames of
a sample. It fills a missing value with the band's mean over the whole sample, ours with the mean over the frame's own
window: then a frame's code depends on no other frame, and a map needs each frame encoded once, not once for
every date that sees it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.constants import Constants
from .blocks import FlatDecoder, FlatEncoder, FrameDecoder, FrameEncoder
from .config import SensorConfig

__all__ = ["SensorAutoencoder"]

_GAIN = 1.15  # between SELU's 1 and ReLU's 1.4: a reconstruction that varies a quarter as much as windows do
_INNER = 16  # entries a frame keeps on its way to the bottleneck


class SensorAutoencoder(Constants):
    """Context windows of one sensor to codes and back.

    ``values`` are physical, (B, T, C, W, W); ``observed`` is bool of the same shape; ``valid`` (B, T) bool says which
    frames exist; ``days`` (B, T) int counts from any fixed date. T = ``config.frames``, W = ``config.window``.
    """

    mean: Tensor
    std: Tensor
    frame_encoder: FlatEncoder | FrameEncoder
    frame_decoder: FlatDecoder | FrameDecoder

    def __init__(self, config: SensorConfig) -> None:
        super().__init__()
        self.config = config
        channels, widths, code = config.modality.channels, config.widths, config.code
        mean = config.modality.mean or (0.0,) * channels
        std = config.modality.std or (1.0,) * channels
        self.register_constant("mean", lambda: torch.tensor(mean).view(-1, 1, 1))
        self.register_constant("std", lambda: torch.tensor(std).view(-1, 1, 1))

        self.day_table = nn.Embedding(config.span + 1, code)
        if config.smooth_days:
            self.day_table.weight.data.copy_(_waves(config.span + 1, code))
        if config.flat:
            self.frame_encoder = FlatEncoder(channels, widths, config.window)
            self.frame_decoder = FlatDecoder(channels, widths, config.window)
        else:
            self.frame_encoder = FrameEncoder(channels, widths, config.drop_maps[0])
            self.frame_decoder = FrameDecoder(channels, widths, config.window, config.drop_maps[1])
        layer = nn.TransformerEncoderLayer(
            code, config.heads, config.mlp_dim, config.dropout, batch_first=True, norm_first=config.norm_first
        )
        self.transformer = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)
        self.narrow = nn.Linear(code, _INNER)
        self.reduce = nn.Linear(config.frames, config.reduced)
        self.to_code = nn.Linear(_INNER * config.reduced, config.bottleneck)
        self.from_code = nn.Linear(config.bottleneck, _INNER * config.reduced)
        self.expand = nn.Linear(config.reduced, config.frames)
        self.widen = nn.Linear(_INNER, code)
        if config.variance_preserving_init:
            _preserve_variance(self)

    # Between the data's units and the model's.

    def normalise(self, values: Tensor, observed: Tensor) -> Tensor:
        """Standardised values; what was not observed gets the mean of its band in its frame's window, or 0."""
        scaled = torch.where(observed, (values - self.mean) / self.std, 0)
        count = observed.sum((-2, -1), keepdim=True)
        mean = scaled.sum((-2, -1), keepdim=True) / count.clamp_min(1)  # (..., C, 1, 1)
        return torch.where(observed, scaled, mean)

    def restore(self, normalised: Tensor) -> Tensor:
        """Physical values of normalised ones."""
        return normalised * self.std + self.mean

    # Encoding, in the two steps that dense maps take apart.

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(N, C, W, W) normalised frames to (N, ``config.code``)."""
        return self.frame_encoder(frames)

    def summarise(self, frames: Tensor, days: Tensor, valid: Tensor) -> Tensor:
        """Codes of T frames (B, T, ``config.code``) to the bottleneck (B, ``config.bottleneck``), positive."""
        x = self._attend(frames, days, valid)
        x = F.selu(self.narrow(x)) * valid.unsqueeze(-1)  # (B, T, 16); a frame that does not exist adds nothing
        x = F.selu(self.reduce(x.mT)).flatten(1)  # (B, 16 * reduced)
        return F.softplus(self.to_code(x))

    def encode(self, normalised: Tensor, days: Tensor, valid: Tensor) -> Tensor:
        """Normalised windows (B, T, C, W, W) to the bottleneck (B, ``config.bottleneck``)."""
        frames = self.encode_frames(normalised.flatten(0, 1)).unflatten(0, normalised.shape[:2])
        return self.summarise(frames, days, valid)

    def decode(self, code: Tensor, days: Tensor, valid: Tensor) -> Tensor:
        """Bottleneck (B, ``config.bottleneck``) to normalised windows (B, T, C, W, W)."""
        x = F.softplus(self.from_code(code)).unflatten(1, (self.config.reduced, _INNER))
        x = F.selu(self.expand(x.mT)).mT  # (B, T, 16)
        x = self._attend(F.selu(self.widen(x)), days, valid)
        return self.frame_decoder(x.flatten(0, 1)).unflatten(0, days.shape)

    def forward(self, values: Tensor, days: Tensor, valid: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The code, the reconstruction, and what it should have been (both normalised)."""
        target = self.normalise(values, observed)
        code = self.encode(target, days, valid)
        return code, self.decode(code, days, valid), target

    def _attend(self, frames: Tensor, days: Tensor, valid: Tensor) -> Tensor:
        offset = days - days.masked_fill(~valid, torch.iinfo(days.dtype).max).amin(dim=1, keepdim=True)
        # The reader keeps frames within the span; what is clamped here is padding.
        table = self.day_table(offset.clamp(0, self.config.span)) / self.config.code**0.5
        absent = ~valid & valid.any(dim=1, keepdim=True)  # a sample without any frame attends freely: no NaN
        return self.transformer(frames + table, src_key_padding_mask=absent)


@torch.no_grad()
def _preserve_variance(model: SensorAutoencoder) -> None:
    """Weights of variance gain^2 / fan-in outside of the transformer, whose norms look after themselves."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not name.startswith("transformer"):
            fan_in = layer.weight[0].numel()
            if isinstance(layer, nn.ConvTranspose2d):
                fan_in = layer.in_channels  # (in, out, 2, 2) with stride 2: a pixel is a sum over all inputs once
            layer.weight.normal_(std=_GAIN / fan_in**0.5)
            if layer.bias is not None:
                layer.bias.zero_()


def _waves(days: int, dim: int) -> Tensor:
    """(days, dim) sines, then cosines, of variance 1, with periods from eight days to four times all of them."""
    waves = dim // 2 + dim % 2
    period = torch.logspace(3, math.log2(4 * days), waves, base=2)
    angle = 2 * torch.pi * torch.arange(days)[:, None] / period
    return 2**0.5 * torch.cat([angle.sin(), angle.cos()], dim=1)[:, :dim]
