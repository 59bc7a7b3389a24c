"""The OmniSat model: one encoder per modality, and the network that combines them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data.modality import Modality
from ..data.tiles import TileBatch
from ..layers import Encoding, Standardisation
from .combiner import Combiner, merged
from .config import OmniSatConfig
from .image import ImageEncoder, patchify_image
from .pyramid import level_maps, levels
from .series import SeriesEncoder, patchify_series
from .tokens import Tokens

__all__ = ["Encoding", "OmniSat", "Tokens"]


class OmniSat(nn.Module):
    """Self-supervised modality fusion (Astruc et al., ECCV 2024): tiles in any modalities to encodings.

    Values are standardised inside, with the statistics of the config's modalities. Any subset of the modalities
    may be given, and any tile may miss any of them (``batch.valid``): a missing modality is not attended to, and
    in evaluation an encoding does not depend on what else is in the batch.
    """

    def __init__(self, config: OmniSatConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({m.name: _encoder(m, config) for m in config.modalities})
        self.combiner = Combiner(
            config.grid,
            config.dim,
            depth=config.depth,
            heads=config.heads,
            mlp_dim=config.mlp_dim,
            dropout=config.dropout,
            attention_dropout=config.dropout,
            drop_path=config.drop_path,
            positions=config.positions,
        )
        self.standardisation = Standardisation(config)

    def forward(self, batch: TileBatch, *, patch_scale: int = 1) -> Encoding:
        """Encodes B tiles.

        Args:
            patch_scale: encode patches of so many of the model's patches per side, (B, P / patch_scale^2, D). The
                combiner then has that much fewer tokens, each the mean of its patches' tokens.

        Raises:
            ValueError: a modality the model does not have, values whose bands or size do not fit, or a scale that does
                not divide the grid.
        """
        tokens = self.encode(batch)
        coarse = merged(tokens.tokens, self.config.grid, patch_scale)
        return self.combine(coarse, tokens.valid, patch_scale=patch_scale)

    def encode(self, batch: TileBatch, *, maps: bool = False) -> Tokens:
        """Runs the encoder of every modality of the batch; ``maps`` keeps those of the image encoders."""
        names = self.standardisation.names(batch)
        out = Tokens(names, torch.empty(0), torch.stack([batch.valid_tiles(n) for n in names]), {}, {}, {})
        tokens = []
        for name in names:
            modality, encoder = self.config.modality(name), self.encoders[name]
            values, valid = self.standardisation(batch, name), batch.valid[name]
            if modality.kind == "image":
                patches = patchify_image(values, modality.patch_size)  # (B*P, C, s, s)
                per_patch = valid.repeat_interleave(self.config.patches)
                kept: list[Tensor] | None = [] if maps else None
                flat, out.indices[name] = encoder(patches, per_patch, maps=kept)
                if kept is not None:
                    out.maps[name] = kept
                tokens.append(flat.unflatten(0, (-1, self.config.patches)))
            else:
                patches = patchify_series(values, modality.patch_size)  # (B, P, L, C*s*s)
                token, out.attention[name] = encoder(patches, batch.days[name], valid)
                tokens.append(token)
            out.patches[name] = patches
        out.tokens = torch.stack(tokens)  # (M, B, P, D)
        return out

    def encode_seasons(self, batch: TileBatch, parts: int) -> tuple[tuple[str, ...], Tensor, Tensor]:
        """What series say in each of ``parts`` parts of the year.

        Returns:
            names of the M modalities, tokens (M, S, B, P, D): of the dates in a part, or of the whole year where there
            is none, and of images the same in every part; and which tiles have which modality (M, B) bool.
        """
        year = self.encode(batch)
        tokens = year.tokens[:, None].repeat(1, parts, 1, 1, 1)
        series = [name for name in year.names if name in batch.days]
        at = [year.names.index(name) for name in series]
        for part in range(parts) if series else ():
            season = self.encode(batch.select(series).part_of_year(part, parts))
            tokens[at, part] = torch.where(season.valid[..., None, None], season.tokens, year.tokens[at])
        return year.names, tokens, year.valid

    def combine(self, tokens: Tensor, valid: Tensor, *, patch_scale: int = 1, every_patch: bool = False) -> Encoding:
        """tokens (M, B, P', D), valid (M, B) or (M, B, P') bool -> the encoding of B tiles.

        Args:
            patch_scale: patches per side that a token stands for, P' = P / patch_scale^2.
            every_patch: encode each of the P patches all the same.
        """
        combined = self.combiner(
            tokens.transpose(0, 1), valid.transpose(0, 1), scale=patch_scale, every_patch=every_patch
        )  # (B, 1 + P' or P, D)
        return Encoding(combined[:, 0], combined[:, 1:])

    def every_token(self, batch: TileBatch) -> tuple[Tensor, Tensor]:
        """Summary, patches, and each modality's patches before they are combined: tokens (B, 1 + P + M*P, D), and which
        of them there are (B, 1 + P + M*P) bool."""
        seen = self.encode(batch)
        combined = self.combine(seen.tokens, seen.valid)
        single = seen.tokens.transpose(0, 1).flatten(1, 2)  # (B, M*P, D)
        valid = seen.valid.T.repeat_interleave(self.config.patches, 1)
        there = valid.new_ones(valid.shape[0], 1 + self.config.patches)
        return torch.cat([combined.summary[:, None], combined.patches, single], 1), torch.cat([there, valid], 1)

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of the maps of :meth:`pyramid`."""
        return (self.config.dim, *(level.channels for level in levels(self.config)))

    def pyramid(self, batch: TileBatch) -> list[Tensor]:
        """Maps of B tiles, coarse to fine, (B, C, h, w): the encodings of the patches, then what the encoders know
        of their inside (:mod:`fusion.omnisat.pyramid`)."""
        seen = self.encode(batch, maps=True)
        patches = self.combine(seen.tokens, seen.valid).patches  # (B, P, D)
        return [patches.transpose(1, 2).unflatten(2, self.config.grid), *level_maps(self.config, seen)]


def _encoder(modality: Modality, config: OmniSatConfig) -> nn.Module:
    if modality.kind == "image":
        return ImageEncoder(modality.channels, modality.patch_size, config.dim, recompute=config.recompute)
    return SeriesEncoder(
        modality.channels * modality.patch_size**2,
        config.dim,
        heads=config.series_heads,
        key_dim=config.series_key_dim,
        widths=config.series_widths,
        mlp_dim=config.series_mlp_dim,
        dropout=config.dropout,
        attention_dropout=config.dropout / 2,
        period=config.period,
    )
