"""One pretraining step of OmniSat (forward and backward, training mode, dropout on), whole and part by part.

``plain`` is the same model on plain PyTorch ops (plain_omnisat.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from fusion.data import Modality, TileBatch
from fusion.omnisat import OmniSat, OmniSatConfig, PretrainingObjective
from fusion.omnisat.image import patchify_image
from fusion.omnisat.series import patchify_series

from ..plain_omnisat import plainly
from .common import DEVICE, Step

__all__ = ["DATES", "PARTS", "observed", "step", "system"]

DATES = 50
# Modalities as in the paper: (name, channels, pixels a patch, metres a pixel); and patches a tile.
DATA = {
    "treesatai": ((("aerial", 4, 50, 0.2), ("s2", 10, 1, 10.0), ("s1-asc", 2, 1, 10.0)), (6, 6)),
    "pastis-hd": ((("aerial", 3, 40, 1.0), ("s2", 10, 4, 10.0), ("s1-asc", 3, 4, 10.0)), (32, 32)),
    "tiny": ((("aerial", 3, 8, 1.25), ("s2", 4, 1, 10.0)), (2, 2)),
}
PARTS = ("image encoder", "series encoders", "combiner", "contrastive", "image decoder")


def system(data: str, dropout: float = 0.2, **changes: object) -> tuple[OmniSat, PretrainingObjective]:
    sensors, grid = DATA[data]
    modalities = tuple(
        Modality(name, "image" if name == "aerial" else "series", tuple(map(str, range(channels))), metres, pixels)
        for name, channels, pixels, metres in sensors
    )
    config = OmniSatConfig(modalities, grid, dropout=dropout, drop_path=dropout, **changes)
    return OmniSat(config).to(DEVICE), PretrainingObjective(config).to(DEVICE)


def observed(config: OmniSatConfig, tiles: int, dates: int = DATES) -> TileBatch:
    """Noise, all dates there."""
    batch = TileBatch({}, {}, {})
    rows, cols = config.grid
    for m in config.modalities:
        lead = (tiles,) if m.kind == "image" else (tiles, dates)
        batch.values[m.name] = torch.randn(*lead, m.channels, rows * m.patch_size, cols * m.patch_size, device=DEVICE)
        batch.valid[m.name] = torch.ones(lead, dtype=torch.bool, device=DEVICE)
        if m.kind == "series":
            batch.days[m.name] = torch.randint(0, 366, lead, device=DEVICE).sort(1).values
    return batch


def step(
    which: str, data: str, tiles: int, part: str = "whole step", dtype: torch.dtype = torch.float32, dates: int = DATES
) -> Step:
    """Forward and backward of the whole step or of one part of it; 16 bits: under autocast, as one trains."""
    torch.manual_seed(0)
    model, objective = system(data, recompute=data == "pastis-hd")
    if which == "plain":
        plainly(model, objective)
    batch = observed(model.config, tiles, dates)
    parameters = [*model.parameters(), *objective.parameters()]
    forward = whole if part == "whole step" else functools.partial(PIECES[part], which)
    run = forward(model, objective, batch)

    def both() -> None:
        for parameter in parameters:
            parameter.grad = None
        with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
            loss = run()
        loss.backward()

    return both


def whole(model: OmniSat, objective: PretrainingObjective, batch: TileBatch) -> Callable[[], torch.Tensor]:
    return lambda: objective(model, batch).total


def _image(which: str, model: OmniSat, batch: TileBatch) -> torch.Tensor:
    patches = patchify_image(batch.values["aerial"], model.config.modality("aerial").patch_size)
    return patches.contiguous() if which == "plain" else patches


def image_encoder(which, model, objective, batch):  # type: ignore[no-untyped-def]
    patches = _image(which, model, batch)
    valid = torch.ones(len(patches), dtype=torch.bool, device=DEVICE)
    return lambda: model.encoders["aerial"](patches, valid)[0].sum()


def series_encoders(which, model, objective, batch):  # type: ignore[no-untyped-def]
    series = {n: patchify_series(batch.values[n], model.config.modality(n).patch_size) for n in batch.days}
    return lambda: sum(model.encoders[n](x, batch.days[n], batch.valid[n])[0].square().sum() for n, x in series.items())


def combiner(which, model, objective, batch):  # type: ignore[no-untyped-def]
    shape = (len(batch.modalities), len(batch), model.config.patches, model.config.dim)
    tokens = torch.randn(shape, device=DEVICE, requires_grad=True)
    present = torch.ones(shape[:2], dtype=torch.bool, device=DEVICE)
    return lambda: model.combine(tokens, present).patches.sum()


def contrastive(which, model, objective, batch):  # type: ignore[no-untyped-def]
    with torch.no_grad():
        seen = model.encode(batch)
    seen.tokens.requires_grad_()
    return lambda: objective.contrast(seen)[0]


def image_decoder(which, model, objective, batch):  # type: ignore[no-untyped-def]
    """Three quarters of the patches, the share that is masked."""
    patches = _image(which, model, batch)
    with torch.no_grad():
        _, indices = model.encoders["aerial"](patches, torch.ones(len(patches), dtype=torch.bool, device=DEVICE))
    count = 3 * len(patches) // 4
    indices = [index[:count] for index in indices]
    tokens = torch.randn(count, model.config.dim, device=DEVICE, requires_grad=True)
    return lambda: objective.decoders["aerial"](tokens, indices).sum()


PIECES = dict(zip(PARTS, (image_encoder, series_encoders, combiner, contrastive, image_decoder), strict=True))
