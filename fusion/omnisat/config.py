"""What an OmniSat model is made of, in plain types."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ..data.modality import Modality

__all__ = ["PRESETS", "OmniSatConfig"]

# Sizes only. "paper" is 3.4 of the paper and what its code adds; "tiny" trains on two CPU cores in minutes.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "dim": 64,
        "depth": 2,
        "heads": 4,
        "width": 128,
        "series_heads": 4,
        "series_widths": (32,),
        "series_hidden": 64,
        "dropout": 0.0,
        "drop_path": 0.0,
    },
    "small": {
        "dim": 128,
        "depth": 3,
        "heads": 8,
        "width": 256,
        "series_heads": 8,
        "series_widths": (32, 64),
        "series_hidden": 128,
        "dropout": 0.1,
        "drop_path": 0.0,
    },
    "paper": {},
}


@dataclass(frozen=True)
class OmniSatConfig:
    """Modalities, grid and sizes of an OmniSat model. The defaults are the paper's.

    Attributes:
        modalities: with mean and std per band where known (values are taken as they are otherwise).
        grid: patches per tile (rows, columns), the same for every modality.
        dim: width of tokens and encodings.
        depth, heads, width: of the combiner: self-attention blocks, heads, hidden width of the feed-forwards.
        dropout: of the combiner's branches and attention weights, and of the series encoder's layers.
        drop_path: of the combiner's last block, growing linearly from 0.
        series_heads, series_key_dim, series_widths, series_hidden: of the series encoder, see
            :class:`~fusion.omnisat.series.SeriesEncoder`.
        period: base of the day encoding in days.
        recompute: the image encoder keeps less for the backward pass and computes a little more.
    """

    modalities: tuple[Modality, ...]
    grid: tuple[int, int]
    dim: int = 256
    depth: int = 6
    heads: int = 16
    width: int = 1024
    dropout: float = 0.2
    drop_path: float = 0.2
    series_heads: int = 16
    series_key_dim: int = 8
    series_widths: tuple[int, ...] = (32, 128)
    series_hidden: int = 512
    period: float = 367.0
    recompute: bool = False

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("OmniSatConfig: no modality given")
        names = [m.name for m in self.modalities]
        if len(set(names)) < len(names):
            raise ValueError(f"OmniSatConfig: modalities share a name: {', '.join(names)}")
        grounds = {round(m.patch_metres, 3) for m in self.modalities}
        if len(grounds) > 1:
            listed = ", ".join(f"{m.name} {m.patch_size} x {m.resolution:g} m" for m in self.modalities)
            raise ValueError(f"OmniSatConfig: a patch must cover the same ground in every modality: {listed}")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"OmniSatConfig: grid must be (rows, columns), both positive, not {self.grid}")
        for size, heads in (("heads", self.heads), ("series_heads", self.series_heads)):
            if self.dim % (2 * heads):
                raise ValueError(f"OmniSatConfig: dim={self.dim} is not a multiple of 2 * {size}={heads}")
        if self.dim % 4:
            raise ValueError(f"OmniSatConfig: dim={self.dim} is not a multiple of 4 (the image encoder's groups)")

    @classmethod
    def preset(
        cls, name: str, modalities: tuple[Modality, ...], grid: tuple[int, int], **changes: Any
    ) -> OmniSatConfig:
        """A config of a named size ("tiny", "small", "paper"), with fields changed by keyword."""
        if name not in PRESETS:
            raise ValueError(f"OmniSatConfig: unknown preset {name!r}; one of {', '.join(PRESETS)}")
        return cls(tuple(modalities), tuple(grid), **{**PRESETS[name], **changes})

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def modality(self, name: str) -> Modality:
        for modality in self.modalities:
            if modality.name == name:
                return modality
        known = ", ".join(m.name for m in self.modalities)
        raise ValueError(f"OmniSat: unknown modality {name!r}; the model has {known}")

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for YAML and checkpoint metadata; :meth:`from_dict` is the inverse."""
        return {**asdict(self), "modalities": [m.to_dict() for m in self.modalities]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> OmniSatConfig:
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"OmniSatConfig: unknown field {', '.join(sorted(unknown))}")
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        plain["modalities"] = tuple(
            m if isinstance(m, Modality) else Modality.from_dict(m) for m in values["modalities"]
        )
        return cls(**plain)
