"""Values of a batch as a model wants them: checked against what it was made for, standardised, 0 where not valid."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..data.modality import Modality
from ..data.tiles import TileBatch
from .config import TileModelConfig
from .constants import Constants
from .statistics import band_statistics

__all__ = ["Standardisation", "check_inputs"]


class Standardisation(Constants):
    """(value - mean) / std per band, with the statistics of the config's modalities; they are no weights.

    Args:
        config: of the model; the refusals name its system.
    """

    def __init__(self, config: TileModelConfig) -> None:
        super().__init__()
        self.config = config
        for modality in config.modalities:
            self.register_constant(f"mean_{modality.name}", partial(_statistic, modality, 0))
            self.register_constant(f"std_{modality.name}", partial(_statistic, modality, 1))

    def names(self, batch: TileBatch) -> tuple[str, ...]:
        """The modalities of the batch, in the order of the model.

        Raises:
            ValueError: there is none, or one that the model does not have.
        """
        for name in batch.values:
            self.config.modality(name)  # refuses unknown ones
        names = tuple(m.name for m in self.config.modalities if m.name in batch.values)
        if not names:
            raise ValueError(f"{self.config.system}: the batch has no modality")
        return names

    def forward(self, batch: TileBatch, name: str) -> Tensor:
        """The standardised values of a modality, (B, C, H, W) or (B, L, C, H, W), 0 where not valid.

        Raises:
            ValueError: bands or size are not the model's, or a series has no days.
        """
        check_inputs(self.config, batch, name)
        values, valid = batch.values[name], batch.valid[name]
        values = (values - self.get_buffer(f"mean_{name}")) / self.get_buffer(f"std_{name}")
        return values.masked_fill(~valid.reshape(*valid.shape, 1, 1, 1), 0)


def _statistic(modality: Modality, which: int) -> Tensor:
    """Mean (0) or standard deviation (1) of the bands."""
    return band_statistics(modality)[which]


def check_inputs(config: TileModelConfig, batch: TileBatch, name: str) -> None:
    """
    Raises:
        ValueError: bands or size of a modality of the batch are not those of the config, or a series has no days.
    """
    modality, grid = config.modality(name), config.grid
    size, values = modality.patch_size, batch.values[name]
    wanted = (modality.channels, grid[0] * size, grid[1] * size)
    axes = "(B, C, H, W)" if modality.kind == "image" else "(B, L, C, H, W)"
    if values.ndim != len(axes.split(",")) or tuple(values.shape[-3:]) != wanted:
        raise ValueError(
            f"{config.system}: {name} must be {axes} with (C, H, W) = {wanted} ({', '.join(modality.bands)}; "
            f"{grid[0]} x {grid[1]} patches of {size} pixels), not {tuple(values.shape)}"
        )
    if modality.kind == "series" and name not in batch.days:
        raise ValueError(f"{config.system}: {name} is a series, but the batch has no days for it")
