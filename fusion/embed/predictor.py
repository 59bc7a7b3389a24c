"""What a map of predictions asks of a model, and how it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn

from ..data import TileBatch, TileDataset
from ..training.loading import require_fit
from .blend import rasters
from .map import fingerprint
from .sheets import NO_CLASS

__all__ = ["Predictor", "asked", "cells_of", "identity", "require_map"]


class Predictor(Protocol):
    """What :func:`predict_map` asks of a model: :class:`fusion.training.Finetuning` has it, others may.

    Attributes:
        task: ``"multiclass"``, ``"multilabel"`` or ``"regression"``.
        classes: K names of the classes or quantities.
        dense: whether it labels pixels.
        model: the encoder, whose ``config`` says which data it takes.
        hparams: with ``label_shape``, rows and columns of pixels of a tile, where ``dense``.

    It may have ``intervals``, a :class:`~fusion.training.conformal.ConformalInterval` for each quantity.

    Called with a batch of B tiles it returns (B, K) logits or quantities in their unit; (B, K, rows, columns) if dense.
    One that is no ``nn.Module`` says by an attribute ``fingerprint`` which it is: maps that were begun are gone on with
    only by the same.
    """

    @property
    def task(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def dense(self) -> bool: ...

    @property
    def model(self) -> Any: ...

    @property
    def hparams(self) -> Any: ...

    def __call__(self, batch: TileBatch, /) -> Tensor: ...


def require_map(module: Predictor, dataset: TileDataset, *, shares: bool) -> None:
    """Refuses what makes no map.

    Args:
        shares: whether probabilities are wanted, or what is made of them.

    Raises:
        TypeError, ValueError: see :func:`fusion.embed.predict_map`.
    """
    if not hasattr(module, "task") or not isinstance(getattr(module, "model", None), nn.Module):
        raise TypeError(
            f"predict_map: {type(module).__name__} has no head for labels; fine-tune it, and give what "
            "fusion.training.load_finetuned returns"
        )
    if shares and module.task == "regression":
        raise ValueError(
            f"predict_map: {', '.join(module.classes)} is a quantity, it has no probabilities and no entropy of them"
        )
    if module.task == "multiclass" and len(module.classes) > NO_CLASS:
        raise ValueError(f"predict_map: {len(module.classes)} classes; a map of bytes holds {NO_CLASS}")
    require_fit(cast(nn.Module, module.model), dataset, readable=True)


def cells_of(module: Predictor, dataset: TileDataset) -> tuple[int, int]:
    """Rows and columns of pixels that a tile is made of in a map."""
    if module.dense:
        height, width = module.hparams["label_shape"]
        return height, width
    # Tiles that overlap by parts of a tile lie on no lattice of whole tiles: that would be several rasters.
    by_patch, by_tile = (len(rasters(dataset, Path("map"), cells)) for cells in (dataset.grid, (1, 1)))
    return dataset.grid if by_patch < by_tile else (1, 1)


def identity(module: Predictor) -> str:
    """Changes with any weight."""
    known = fingerprint(module if isinstance(module, nn.Module) else module.model)
    own = getattr(module, "fingerprint", "")
    return f"{known}-{own}" if own else known


def asked(module: Predictor, batch: TileBatch, cells: tuple[int, int]) -> Tensor:
    """(B, rows, columns, K) probabilities, or quantities in their unit."""
    output = module(batch).float()  # (B, K) or (B, K, *cells)
    if module.task != "regression":
        output = output.softmax(1) if module.task == "multiclass" else output.sigmoid()
    spread: Tensor = output if output.ndim == 4 else output[..., None, None].expand(-1, -1, *cells)
    return spread.movedim(1, -1)
