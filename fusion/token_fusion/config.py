"""What a token-fusion model is made of, in plain types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..layers.config import TileModelConfig
from ..settings import renamed

__all__ = ["PRESETS", "TokenFusionConfig"]

# Sizes only. "tiny" trains on a CPU in minutes; "base" has the widths of TerraMind-base (12 blocks, 768 wide).
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 96, "depth": 3, "heads": 4, "mlp_dim": 384, "dropout": 0.0},
    "small": {"dim": 256, "depth": 6, "heads": 8, "mlp_dim": 1024, "dropout": 0.1},
    "base": {},
}

# How a modality is tokenized if nothing else is said; series: means of ten days over a year.
DEFAULTS: dict[str, dict[str, Any]] = {
    "image": {"kind": "vq"},
    "series": {"kind": "bins", "start": 0, "step": 10, "length": 37},
}


@renamed(width="mlp_dim")
@dataclass(frozen=True)
class TokenFusionConfig(TileModelConfig):
    """Modalities, grid, tokenizers and sizes of a :class:`~fusion.token_fusion.model.TokenFusion` model.

    Attributes:
        modalities: with mean and std per band where known.
        grid: patches per tile (rows, columns), the same for every modality.
        tokenizers: by modality, ``{"kind": ..., further settings}``; a modality without an entry has that of its
            kind in :data:`DEFAULTS`. Kinds and settings: see :mod:`fusion.tokenizers.registry`.
        dim, depth, heads, mlp_dim: of the transformer: width of a token, blocks, attention heads, hidden width of the
            feed-forwards.
        dropout: of the branches and of the attention weights.
        drop_path: of the last block, growing linearly from 0.
    """

    tokenizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    dropout: float = 0.1
    drop_path: float = 0.0

    sizes = PRESETS

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [m.name for m in self.modalities]
        unknown = [name for name in self.tokenizers if name not in names]
        if unknown:
            raise ValueError(
                f"TokenFusionConfig: tokenizers for {', '.join(unknown)}, but the modalities are {', '.join(names)}"
            )
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(
                f"TokenFusionConfig: dim={self.dim} must be a multiple of heads={self.heads} and of 4 (sines and "
                "cosines of rows and columns)"
            )

    def tokenizer(self, name: str) -> dict[str, Any]:
        """Settings of a modality's tokenizer, ``kind`` among them."""
        return dict(self.tokenizers.get(name) or DEFAULTS[self.modality(name).kind])
