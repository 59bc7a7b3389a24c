"""What the tokens of a model are, and the tokens of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Layout", "Tokens"]


@dataclass(frozen=True)
class Layout:
    """One entry a token, over all modalities in the order of the model; N tokens in all.

    Within a modality tokens are ordered by channel, then by patch or date.

    Attributes:
        names: of the M modalities.
        grid: patches per tile (rows, columns).
        modality: (N,) index into ``names``.
        position: (N,) 0 for the tile as a whole, 1 + p for patch p in raster order.
        time: (N,) days as float32, NaN where a token has no date.
        channel: (N,) index of the band or variable within the modality. What a series is scaled by are channels
            behind those of the values.
        slices: by name, where a modality's tokens are.
        vocabulary: by name, number of codes K, shared by the modality's channels.
    """

    names: tuple[str, ...]
    grid: tuple[int, int]
    modality: Tensor
    position: Tensor
    time: Tensor
    channel: Tensor
    slices: dict[str, slice]
    vocabulary: dict[str, int]

    def __len__(self) -> int:
        return len(self.modality)

    def channels(self, name: str) -> int:
        """Number of channels of a modality, scales among them."""
        return int(self.channel[self.slices[name]].max()) + 1

    def part(self, name: str) -> slice:
        """Where the tokens of a modality are.

        Raises:
            ValueError: there is no such modality.
        """
        if name not in self.slices:
            raise ValueError(f"no tokens of a modality {name!r}; there are {', '.join(self.names)}")
        return self.slices[name]


@dataclass(frozen=True)
class Tokens:
    """The tokens of B tiles.

    Attributes:
        codes: (B, N) int64, -1 where nothing was observed.
        layout: what the N tokens are.
    """

    codes: Tensor
    layout: Layout

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != len(self.layout) or self.codes.dtype != torch.int64:
            raise ValueError(
                f"Tokens: codes must be (B, {len(self.layout)}) int64, one for each token of the layout, not "
                f"{tuple(self.codes.shape)} {self.codes.dtype}"
            )

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities of the layout, observed or not."""
        return self.layout.names

    @property
    def observed(self) -> Tensor:
        """(B, N) bool."""
        return self.codes >= 0

    def of(self, name: str) -> Tensor:
        """(B, N_m) codes of a modality."""
        return self.codes[:, self.layout.part(name)]

    def select(self, names: Sequence[str]) -> Tokens:
        """The same tiles with only the modalities ``names`` observed.

        Raises:
            ValueError: an unknown modality.
        """
        kept = torch.full_like(self.codes, -1)
        for name in names:
            part = self.layout.part(name)
            kept[:, part] = self.codes[:, part]
        return replace(self, codes=kept)

    def with_codes(self, name: str, codes: Tensor) -> Tokens:
        """The same tiles with the codes (B, N_m) of a modality exchanged."""
        part = self.layout.part(name)
        changed = self.codes.clone()
        changed[:, part] = codes
        return replace(self, codes=changed)

    def rows(self, indices: Tensor) -> Tokens:
        """The tiles ``indices``, in that order."""
        return replace(self, codes=self.codes[indices])

    def to(self, device: torch.device | str) -> Tokens:
        return replace(self, codes=self.codes.to(device))
