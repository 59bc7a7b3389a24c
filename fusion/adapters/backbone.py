"""A trained model as networks of images are used: pixels in, a vector or a feature map out, with gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays import ArrayModel, load
from ..arrays.names import positions
from ..data import Modality
from ..data.given import calendar_dates, january_before, words
from ..export.plain import PlainEncoder
from ..training.systems import reinitialised
from .given import of_modality

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """An encoder for heads and trainers of other libraries; all weights can be trained.

    ::

        backbone = Backbone("runs/mine", dates=["2021-04-03", "2021-06-11"])
        maps = backbone(x)  # (B, T, C, H, W) -> (B, D, h, w), a vector for each patch

    Values are in the units of the training, NaN where not observed; the band statistics of the training are applied
    inside, so leave normalisation out. An input of several tiles' size is cut into tiles, whose maps are joined.

    Args:
        run: as :func:`fusion.load` takes it, or what that returned.
        output: ``"map"`` (B, D, h, w) of patches, or ``"vector"`` (B, D), their mean.
        modality: whose pixels a bare tensor holds; None for the only one, or the first.
        dates: of series, T dates (datetime64 or text), the same for all; a mapping by modality where they differ.
        bands: names of the bands in the order in which inputs have them; a mapping by modality where there are several.
            None for the model's.
        pretrained: False for the same network with fresh weights.

    Attributes:
        num_features, out_channels: D.
        grid: patches of a tile (rows, columns).
        modality: what a bare tensor is taken for.

    Raises:
        ValueError: a context-aware model, a modality or bands that the model does not have.
    """

    def __init__(
        self,
        run: str | Path | ArrayModel,
        *,
        output: Literal["map", "vector"] = "map",
        modality: str | None = None,
        dates: Any = None,
        bands: Any = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        model = run if isinstance(run, ArrayModel) else load(run, device="cpu")
        if model.system == "context":
            raise ValueError(f"Backbone: {model} embeds pixels on dates and has no feature maps")
        if output not in ("map", "vector"):
            raise ValueError(f"Backbone: output is 'map' or 'vector', not {output!r}")
        self.modalities = {m.name: m for m in model.modalities}
        if modality is not None and modality not in self.modalities:
            raise ValueError(f"Backbone: no modality {modality!r}; the model has {', '.join(self.modalities)}")
        self.encoder = PlainEncoder(model.encoder if pretrained else reinitialised(model.encoder))
        self.grid = self.encoder.grid
        self.num_features = self.out_channels = int(model.encoder.config.dim)
        self.output, self.modality = output, modality or next(iter(self.modalities))
        self._days = {name: _days(of_modality(dates, name), name) for name in self.modalities}
        self._order = {name: _order(m, of_modality(bands, name)) for name, m in self.modalities.items()}

    def forward(self, x: Tensor | Mapping[str, Tensor], days: Any = None) -> Tensor:
        """Encodes B inputs.

        Args:
            x: (B, C, H, W) of an image, or of a series of one date; (B, T, C, H, W) of a series; or a mapping of these
                by modality, some of which may be missing. H and W are those of a tile, or multiples of them.
            days: of series, (T,) or (B, T) whole days since 1 January; a mapping by modality where there are several.
                None for ``dates`` of the constructor.

        Returns:
            (B, D, h, w), or (B, D).

        Raises:
            ValueError: sizes that do not fit, or a series without dates.
        """
        given = x if isinstance(x, Mapping) else {self.modality: x}
        values: dict[str, Tensor] = {}
        at: dict[str, Tensor] = {}
        valid: dict[str, Tensor] = {}
        tiles = None
        for name, one in given.items():
            own, here = self._cut(name, one)
            if tiles not in (None, here):
                raise ValueError(f"Backbone: {name} covers {here} tiles (rows, columns), other modalities {tiles}")
            values[name], tiles = own, here
            lengths = own.shape[:2] if own.ndim == 5 else own.shape[:1]
            valid[name] = torch.ones(lengths, dtype=torch.bool, device=own.device)
            if own.ndim == 5:
                at[name] = self._at(name, of_modality(days, name), own, here)
        rows, columns = cast("tuple[int, int]", tiles)
        maps = self.encoder(values, at, valid).unflatten(1, self.grid)  # (B * rows * columns, h, w, D)
        maps = maps.unflatten(0, (-1, rows, columns)).permute(0, 5, 1, 3, 2, 4)  # (B, D, rows, h, columns, w)
        maps = maps.flatten(4, 5).flatten(2, 3)
        return maps if self.output == "map" else maps.mean((2, 3))

    def _cut(self, name: str, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """An input as tiles (B * rows * columns, ...), and how many there are of each."""
        if name not in self.modalities:
            raise ValueError(f"Backbone: no modality {name!r}; the model has {', '.join(self.modalities)}")
        m = self.modalities[name]
        if m.kind == "series" and x.ndim == 4:
            x = x[:, None]
        height, width = (side * m.patch_size for side in self.grid)
        wanted = f"({'B, T' if m.kind == 'series' else 'B'}, {m.channels}, {height}, {width})"
        if x.ndim != (5 if m.kind == "series" else 4) or x.shape[-3] != m.channels:
            raise ValueError(f"Backbone: {name} is {wanted}, bands {', '.join(m.bands)}; {tuple(x.shape)} given")
        rows, columns = x.shape[-2] // height, x.shape[-1] // width
        if x.shape[-2] % height or x.shape[-1] % width or not rows or not columns:
            raise ValueError(f"Backbone: {name} is {wanted}, or whole multiples of its sides; {tuple(x.shape)} given")
        order = self._order[name]
        x = x if order is None else x[..., order, :, :]
        cut = x.unflatten(-1, (columns, width)).unflatten(-3, (rows, height))  # (B, ..., rows, h, columns, w)
        return cut.movedim((-4, -2), (1, 2)).flatten(0, 2), (rows, columns)

    def _at(self, name: str, given: Any, tiles: Tensor, here: tuple[int, int]) -> Tensor:
        """(B * rows * columns, T) days of the tiles."""
        days = self._days[name] if given is None else given
        if days is None:
            raise ValueError(
                f"Backbone: {name} is a series; give its dates, Backbone(run, dates=[...]) or forward(x, days)"
            )
        days = torch.as_tensor(days, device=tiles.device)
        if days.shape[-1] != tiles.shape[1]:
            raise ValueError(f"Backbone: {days.shape[-1]} days of {name}, whose values have {tiles.shape[1]} dates")
        each = here[0] * here[1]
        return days.expand(len(tiles), -1) if days.ndim == 1 else days.repeat_interleave(each, 0)


def _days(dates: Any, name: str) -> Tensor | None:
    """(T,) whole days since 1 January of the year of the first date."""
    if dates is None:
        return None
    days = calendar_dates(dates, f"Backbone: dates of {name}")
    return torch.from_numpy((days - january_before(days)).astype(np.int64))


def _order(modality: Modality, bands: Sequence[str] | None) -> list[int] | None:
    """Where the model's bands are among those of an input; None where they are in order."""
    if bands is None:
        return None
    found = positions(modality.bands, words(bands, "Backbone: bands"))
    if None in found or len(bands) != modality.channels:
        raise ValueError(
            f"Backbone: {modality.name} wants {', '.join(modality.bands)}, in any order; {', '.join(bands)} given"
        )
    return None if found == list(range(len(found))) else cast("list[int]", found)
