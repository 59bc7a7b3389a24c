"""The tokenizer of a tile: one tokenizer a modality, fitted together and kept with the model."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..data.dataset import TileDataset
from ..data.tiles import TileBatch, collate
from ..layers.inputs import check_inputs
from ..tokenizers import ModalityTokenizer, make_tokenizer
from .config import TokenFusionConfig
from .tokens import Layout, Tokens

__all__ = ["TileTokenizer"]


def _layout(config: TokenFusionConfig, parts: dict[str, ModalityTokenizer]) -> Layout:
    slices, start = {}, 0
    for name, part in parts.items():
        slices[name] = slice(start, start + len(part.places))
        start += len(part.places)
    every = [part.places for part in parts.values()]
    return Layout(
        tuple(parts),
        config.grid,
        torch.repeat_interleave(torch.tensor([len(places) for places in every])),
        torch.cat([places.position for places in every]),
        torch.cat([places.time for places in every]),
        torch.cat([places.channel for places in every]),
        slices,
        {name: part.codebook_size for name, part in parts.items()},
    )


class TileTokenizer(nn.Module):
    """Tiles to tokens and back, modality by modality. Fitted once, before a model is trained, and fixed from then on.

    Raises:
        ValueError: an unknown kind or setting.
    """

    def __init__(self, config: TokenFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.parts = nn.ModuleDict(
            {m.name: make_tokenizer(m, config.grid, config.tokenizer(m.name)) for m in config.modalities}
        )
        self.layout = _layout(config, self.by_name())
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TileTokenizer:
        """Stays in evaluation: what a code means must not change under the model."""
        return super().train(False)

    def part(self, name: str) -> ModalityTokenizer:
        """The tokenizer of a modality.

        Raises:
            ValueError: the model has no such modality.
        """
        return self.by_name()[self.config.modality(name).name]

    def by_name(self) -> dict[str, ModalityTokenizer]:
        """The tokenizers by modality, in the order of the model."""
        return cast(dict[str, ModalityTokenizer], dict(self.parts.items()))

    @property
    def fitted(self) -> bool:
        """Taken for granted where ``torch.export`` traces, which cannot ask a value."""
        return torch.compiler.is_exporting() or all(bool(part.fitted) for part in self.by_name().values())

    def fit(
        self, dataset: TileDataset, *, steps: int = 400, seed: int = 0, tiles: int = 2048, progress: bool = False
    ) -> TileTokenizer:
        """Fits every modality's tokenizer anew: deterministic ones from statistics, learned ones by a short training.

        The same seed gives the same tokenizer, whatever was drawn before.

        Args:
            dataset: the training tiles, of which evaluation views are read.
            steps: of training of learned ones, unless their settings say otherwise.
            tiles: at most so many are read, evenly spaced.

        Raises:
            ValueError: a modality has no value in any of these tiles, or a series none within its calendar.
        """
        values = self._read(dataset, tiles)
        device = next((b.device for b in self.buffers()), torch.device("cpu"))
        for modality in self.config.modalities:
            name = modality.name
            self._require_values(name, values[name], dataset)
            settings = self.config.tokenizer(name)
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                torch.manual_seed(seed)
                part = make_tokenizer(modality, self.config.grid, settings)
                part.fit(values[name], steps=settings.get("steps", steps), seed=seed)
                part.zero_grad()
            self.parts[name] = part.to(device)
            if progress:
                print(f"tokenizer of {name}: {settings['kind']}, {part.codebook_size} codes", flush=True)
        self.requires_grad_(False).eval()
        return self

    def encode(self, batch: TileBatch) -> Tokens:
        """The tokens of B tiles; a modality that the batch does not have is not observed.

        Raises:
            ValueError: an unknown modality, or values whose bands or size do not fit.
            RuntimeError: not fitted yet.
        """
        self._require_fitted()
        for name in batch.values:
            self.config.modality(name)  # refuses unknown ones
        codes = []
        for name, part in self.by_name().items():
            if name in batch.values:
                codes.append(part.encode(self.values(batch, name)))
            else:
                missing = (len(batch), len(part.places))
                codes.append(torch.full(missing, -1, device=next(iter(batch.values.values())).device))
        return Tokens(torch.cat(codes, 1), self.layout)

    def values(self, batch: TileBatch, name: str) -> Tensor:
        """The physical values that the tokens of a modality stand for, float32, NaN where missing: (B, C, T) of a
        series in its calendar; of an image (B, C, H, W), its means (B, C, rows, columns) (bins) or (B, C) (scalar)."""
        check_inputs(self.config, batch, name)
        return self.part(name).values(batch)

    def decode(self, name: str, codes: Tensor) -> Tensor:
        """(B, N_m) codes -> values as :meth:`values` has them, NaN for -1.

        Raises:
            ValueError: wrong number of codes, or codes out of range.
        """
        self._require_fitted()
        part = self.part(name)
        if codes.ndim != 2 or codes.shape[1] != len(part.places):
            raise ValueError(f"decode: {name} has (B, {len(part.places)}) codes, not {tuple(codes.shape)}")
        size = part.sizes.to(codes.device)[part.places.channel.to(codes.device)]  # (n,)
        if bool(((codes < -1) | (codes >= size)).any()):
            raise ValueError(
                f"decode: codes of {name} must be in -1..{int(size.max()) - 1} (fewer in some channels), got "
                f"{int(codes.min())}..{int(codes.max())}"
            )
        return part.decode(codes)

    def expected(self, name: str, probabilities: Tensor) -> Tensor:
        """(B, N_m, K) probabilities -> values as :meth:`values` has them, expected over the codes.

        Bins and symbols: the mean of their centres; patches of series: the mean code vector through the decoder;
        patches of images: the mean of the decoded patches. Scales and relative values are taken as independent.
        """
        self._require_fitted()
        part = self.part(name)
        wanted = (len(part.places), part.codebook_size)
        if probabilities.ndim != 3 or tuple(probabilities.shape[1:]) != wanted:
            raise ValueError(
                f"expected: {name} has probabilities (B, {wanted[0]}, {wanted[1]}), not {tuple(probabilities.shape)}"
            )
        return part.expected(probabilities)

    def _require_fitted(self) -> None:
        if not self.fitted:
            names = [name for name, part in self.by_name().items() if not bool(part.fitted)]
            raise RuntimeError(
                f"the tokenizer of {', '.join(names)} is not fitted: call model.tokenizer.fit(training tiles) once "
                "before training, or load a model"
            )

    def _read(self, dataset: TileDataset, tiles: int) -> dict[str, Tensor]:
        """Values by modality of at most ``tiles`` tiles, on the CPU."""
        missing = [name for name in self.parts if name not in [m.name for m in dataset.modalities]]
        if missing:
            raise ValueError(f"fit: the data set has no {', '.join(missing)}, which the model tokenizes")
        chosen = torch.linspace(0, len(dataset) - 1, min(tiles, len(dataset))).round().long()
        subset = dataset.subset(chosen).with_modalities(list(self.parts))
        read: dict[str, list[Tensor]] = {name: [] for name in self.parts}
        for rows in torch.arange(len(subset)).split(64):
            batch = collate([subset[i] for i in rows.tolist()], list(self.parts))
            for name in batch.values:
                read[name].append(self.values(batch, name))
        return {name: torch.cat(values) if values else torch.empty(0) for name, values in read.items()}

    def _require_values(self, name: str, values: Tensor, dataset: TileDataset) -> None:
        modality = self.config.modality(name)
        seen = values.isfinite().transpose(0, 1).flatten(1).any(1) if values.numel() else torch.zeros(1)
        if bool(seen.all()):
            return
        if not len(values) or modality.kind == "image":
            raise ValueError(f"fit: {name} has no value in {len(dataset)} tiles, e.g. {dataset.names[0]}")
        silent = ", ".join(band for band, any_ in zip(modality.bands, seen, strict=True) if not any_)
        raise ValueError(
            f"fit: {name} ({silent}) has no value within its calendar, {self.part(name).calendar}, in {len(values)} "
            "tiles; give its tokenizer the start, step and length of the data"
        )
