"""What a token-fusion model is made of, in plain types."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..data.modality import Modality

__all__ = ["PRESETS", "TokenFusionConfig"]

# Sizes only. "tiny" trains on a CPU in minutes; "base" has the widths of TerraMind-base (12 blocks, 768 wide).
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 96, "depth": 3, "heads": 4, "width": 384, "dropout": 0.0},
    "small": {"dim": 256, "depth": 6, "heads": 8, "width": 1024, "dropout": 0.1},
    "base": {},
}

# How a modality is tokenized if nothing else is said; series: means of ten days over a year.
DEFAULTS: dict[str, dict[str, Any]] = {
    "image": {"kind": "vq"},
    "series": {"kind": "bins", "start": 0, "step": 10, "length": 37},
}


@dataclass(frozen=True)
class TokenFusionConfig:
    """Modalities, grid, tokenizers and sizes of a :class:`~fusion.token_fusion.model.TokenFusion` model.

    Attributes:
        modalities: with mean and std per band where known.
        grid: patches per tile (rows, columns), the same for every modality.
        tokenizers: by modality, ``{"kind": ..., further settings}``; a modality without an entry has that of its
            kind in :data:`DEFAULTS`. Kinds and settings: see :mod:`fusion.tokenizers.registry`.
        dim, depth, heads, width: of the transformer: width of a token, blocks, attention heads, hidden width of the
            feed-forwards.
        dropout: of the branches and of the attention weights.
        drop_path: of the last block, growing linearly from 0.
    """

    modalities: tuple[Modality, ...]
    grid: tuple[int, int]
    tokenizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    dim: int = 768
    depth: int = 12
    heads: int = 12
    width: int = 3072
    dropout: float = 0.1
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("TokenFusionConfig: no modality given")
        names = [m.name for m in self.modalities]
        if len(set(names)) < len(names):
            raise ValueError(f"TokenFusionConfig: modalities share a name: {', '.join(names)}")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"TokenFusionConfig: grid must be (rows, columns), both positive, not {self.grid}")
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

    @classmethod
    def preset(
        cls, name: str, modalities: tuple[Modality, ...], grid: tuple[int, int], **changes: Any
    ) -> TokenFusionConfig:
        """A config of a named size ("tiny", "small", "base"), with fields changed by keyword."""
        if name not in PRESETS:
            raise ValueError(f"TokenFusionConfig: unknown preset {name!r}; one of {', '.join(PRESETS)}")
        return cls(tuple(modalities), tuple(grid), **{**PRESETS[name], **changes})

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def modality(self, name: str) -> Modality:
        for modality in self.modalities:
            if modality.name == name:
                return modality
        known = ", ".join(m.name for m in self.modalities)
        raise ValueError(f"TokenFusion: unknown modality {name!r}; the model has {known}")

    def tokenizer(self, name: str) -> dict[str, Any]:
        """Settings of a modality's tokenizer, ``kind`` among them."""
        return dict(self.tokenizers.get(name) or DEFAULTS[self.modality(name).kind])

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for YAML and checkpoint metadata; :meth:`from_dict` is the inverse."""
        return {**asdict(self), "modalities": [m.to_dict() for m in self.modalities]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TokenFusionConfig:
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"TokenFusionConfig: unknown field {', '.join(sorted(unknown))}")
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in copy.deepcopy(values).items()}
        plain["modalities"] = tuple(
            m if isinstance(m, Modality) else Modality.from_dict(m) for m in values["modalities"]
        )
        return cls(**plain)
