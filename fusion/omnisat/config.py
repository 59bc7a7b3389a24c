"""What an OmniSat model is made of, in plain types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..layers.config import TileModelConfig
from ..settings import renamed

__all__ = ["PRESETS", "OmniSatConfig", "Positions"]

Positions = Literal["relative", "absolute", "none"]

# Sizes only. "paper" is 3.4 of the paper and what its code adds; "tiny" trains on two CPU cores in minutes.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "dim": 64,
        "depth": 2,
        "heads": 4,
        "mlp_dim": 128,
        "series_heads": 4,
        "series_widths": (32,),
        "series_mlp_dim": 64,
        "dropout": 0.0,
        "drop_path": 0.0,
    },
    "small": {
        "dim": 128,
        "depth": 3,
        "heads": 8,
        "mlp_dim": 256,
        "series_heads": 8,
        "series_widths": (32, 64),
        "series_mlp_dim": 128,
        "dropout": 0.1,
        "drop_path": 0.0,
    },
    "paper": {},
}


@renamed(width="mlp_dim", series_hidden="series_mlp_dim")
@dataclass(frozen=True)
class OmniSatConfig(TileModelConfig):
    """Modalities, grid and sizes of an OmniSat model. The defaults are the paper's.

    Attributes:
        modalities: with mean and std per band where known (values are taken as they are otherwise).
        grid: patches per tile (rows, columns), the same for every modality.
        dim: width of tokens and encodings.
        depth, heads, mlp_dim: of the combiner: self-attention blocks, heads, hidden width of the feed-forwards.
        dropout: of the combiner's branches and attention weights, and of the series encoder's layers.
        drop_path: of the combiner's last block, growing linearly from 0.
        series_heads, series_key_dim, series_widths, series_mlp_dim: of the series encoder, see
            :class:`~fusion.omnisat.series.SeriesEncoder`.
        period: base of the day encoding in days.
        positions: how tokens know their place, see :class:`~fusion.omnisat.combiner.Combiner`.
        recompute: the image encoder keeps less for the backward pass and computes a little more.
    """

    dim: int = 256
    depth: int = 6
    heads: int = 16
    mlp_dim: int = 1024
    dropout: float = 0.2
    drop_path: float = 0.2
    series_heads: int = 16
    series_key_dim: int = 8
    series_widths: tuple[int, ...] = (32, 128)
    series_mlp_dim: int = 512
    period: float = 367.0
    positions: Positions = "relative"
    recompute: bool = False

    sizes = PRESETS

    def __post_init__(self) -> None:
        super().__post_init__()
        grounds = {round(m.patch_metres, 3) for m in self.modalities}
        if len(grounds) > 1:
            listed = ", ".join(f"{m.name} {m.patch_size} x {m.resolution:g} m" for m in self.modalities)
            raise ValueError(f"OmniSatConfig: a patch must cover the same ground in every modality: {listed}")
        for size, heads in (("heads", self.heads), ("series_heads", self.series_heads)):
            if self.dim % (2 * heads):
                raise ValueError(f"OmniSatConfig: dim={self.dim} is not a multiple of 2 * {size}={heads}")
        if self.positions not in get_args(Positions):
            raise ValueError(
                f"OmniSatConfig: positions is one of {', '.join(get_args(Positions))}, not {self.positions!r}"
            )
        if self.dim % 4:
            raise ValueError(f"OmniSatConfig: dim={self.dim} is not a multiple of 4 (the image encoder's groups)")
