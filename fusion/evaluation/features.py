"""What a frozen model says of the tiles of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from fusion.data import TileDataset
from fusion.data.given import tile_numbers
from fusion.embed.scale import at_scale
from fusion.training.loading import evaluation_loader, require_fit
from fusion.training.systems import config_of
from fusion.training.vectors import BY_MODALITY, Pool, joined, tile_vectors

from .ground import ground_blocks

__all__ = ["Features", "extract", "extract_pools"]


@dataclass(frozen=True)
class Features:
    """Vectors and labels of the same tiles (or patches, in raster order, tile after tile).

    Attributes:
        x: (N, D) float32.
        y: labels as the data set gives them, (N,) or (N, K); None without labels, and where labels are maps. Patches
            carry their tile's.
        names: N tile names.
        task, classes: of the labels.
        grid: patches per tile for features of patches, None for features of tiles.
        blocks: (N,) block of ground of each row, in whole ones of which a probe chooses its penalty, see
            :func:`fusion.evaluation.ground.ground_blocks`; None where none are known.
    """

    x: np.ndarray
    y: np.ndarray | None
    names: tuple[str, ...]
    task: str | None = None
    classes: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    blocks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def labels(self) -> np.ndarray:
        """``y``, of features that have labels.

        Raises:
            ValueError: they have none.
        """
        if self.y is None:
            raise ValueError(
                f"the features of {len(self)} tiles have no label a tile; give the reader a label file or variable. "
                "Labels that are maps are of patches: fusion.evaluation.patches.patch_features"
            )
        return self.y

    def subset(self, indices: Sequence[int] | np.ndarray) -> Features:
        """The rows ``indices``, in that order, or those of a mask of bool of all of them."""
        rows = tile_numbers(indices, len(self.x), "features", "rows")
        labels = None if self.y is None else self.y[rows]
        blocks = None if self.blocks is None else self.blocks[rows]
        return replace(self, x=self.x[rows], y=labels, names=tuple(self.names[i] for i in rows), blocks=blocks)

    def maps(self) -> np.ndarray:
        """(tiles, rows, columns, D) of features of patches.

        Raises:
            ValueError: these are features of tiles.
        """
        if self.grid is None:
            raise ValueError("maps: these features are of whole tiles; extract with level='patch'")
        return self.x.reshape(-1, *self.grid, self.x.shape[1])


def extract(
    model: nn.Module,
    dataset: TileDataset,
    modalities: Sequence[str] | None = None,
    level: Literal["tile", "patch"] = "tile",
    *,
    pool: Pool = "mean",
    patch_scale: int = 1,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    workers: int = 0,
) -> Features:
    """Encodes every tile once, as its evaluation view, with the model in evaluation mode and without gradients.

    Args:
        model: returns ``Encoding(summary (B, D), patches (B, P, D))``.
        modalities: those to use (default: all of the data set that the model knows).
        level: one vector a tile, or one a patch.
        pool: of a tile: the mean of its patches (which reconstruction trains), its summary, or both joined; or
            ``"tokens"``: for each modality the mean of its tokens before they are combined (which the contrastive
            objective trains), joined in the order of the model, 0 for a modality that a tile does not have;
            ``"seasons"``, ``"months"``: the same of the dates in each quarter or twelfth of the year.
        patch_scale: encode patches of so many of the model's patches per side, for models whose ``forward`` takes
            ``patch_scale``: the grid is that much coarser, and the mean is over fewer patches.
        device: where to run (default: where the model is).

    Raises:
        ValueError: bands, units, resolution or grid of the data are not those of the model, a scale that the model does
            not take, that does not divide the grid, or that goes with tokens, or a vector is not finite (the tiles are
            named).
    """
    found = extract_pools(
        model, dataset, modalities, level, pools=(pool,), patch_scale=patch_scale, batch_size=batch_size,
        device=device, workers=workers,
    )  # fmt: skip
    return found[pool]


def extract_pools(
    model: nn.Module,
    dataset: TileDataset,
    modalities: Sequence[str] | None = None,
    level: Literal["tile", "patch"] = "tile",
    *,
    pools: Sequence[Pool],
    patch_scale: int = 1,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    workers: int = 0,
) -> dict[Pool, Features]:
    """As :func:`extract`, by several pools of tiles that are read once."""
    for pool in pools:
        _require_pool(model, level, pool, patch_scale)
    if modalities is None:
        known = {m.name for m in config_of(model).modalities}
        modalities = [m.name for m in dataset.modalities if m.name in known] or [m.name for m in dataset.modalities]
    dataset = dataset.with_modalities(list(modalities))
    require_fit(model, dataset)
    encode, grid = at_scale(model, dataset.grid, patch_scale)
    home = next(model.parameters()).device
    device = torch.device(device or home)
    training, names = model.training, list[str]()
    rows: dict[Pool, list[np.ndarray]] = {pool: [] for pool in pools}
    model.to(device).eval()
    try:
        with torch.inference_mode():
            for batch in evaluation_loader(dataset, batch_size, workers=workers):
                batch = batch.to(device)
                encoded = None
                for pool, own in rows.items():
                    if level == "tile" and pool in BY_MODALITY:
                        vectors = tile_vectors(model, batch, pool, modalities)
                    else:
                        summary, patches = encoded = encoded or encode(batch)
                        vectors = patches.flatten(0, 1) if level == "patch" else joined(summary, patches, pool)
                    own.append(vectors.float().cpu().numpy())
                names.extend(batch.names)
    finally:
        model.to(home).train(training)
    per_tile = grid[0] * grid[1] if level == "patch" else 1
    values = {pool: np.concatenate(own) for pool, own in rows.items()}
    for x in values.values():
        _require_finite(x, names, per_tile)
    labels = dataset.labels().numpy().repeat(per_tile, axis=0) if dataset.task and not dataset.dense else None
    of_patches = grid if level == "patch" else None
    blocks = None if labels is None else ground_blocks(dataset)
    blocks = None if blocks is None else blocks.repeat(per_tile)
    about = labels, tuple(np.repeat(names, per_tile)), dataset.task, dataset.classes, of_patches, blocks
    return {pool: Features(x, *about) for pool, x in values.items()}


def _require_pool(model: nn.Module, level: str, pool: str, patch_scale: int) -> None:
    if level not in ("tile", "patch") or pool not in get_args(Pool):
        pools = ", ".join(map(repr, get_args(Pool)))
        raise ValueError(f"extract: level 'tile' or 'patch', pool one of {pools}; not {level!r}, {pool!r}")
    if pool in BY_MODALITY and not hasattr(model, "encode"):
        raise ValueError(f"extract: {type(model).__name__} has no tokens of single modalities; use pool='mean'")
    if pool in BY_MODALITY and level == "tile" and patch_scale != 1:
        raise ValueError(
            f"extract: pool={pool!r} takes the tokens before they are merged to larger patches, so patch_scale="
            f"{patch_scale} changes nothing; use pool='mean', 'summary' or 'both'"
        )


def _require_finite(x: np.ndarray, names: Sequence[str], per_tile: int) -> None:
    bad = np.unique(np.flatnonzero(~np.isfinite(x).all(axis=1)) // per_tile)
    if len(bad):
        listed = ", ".join(names[i] for i in bad[:8])
        raise ValueError(
            f"extract: the model gives no finite vector for {len(bad)} of {len(names)} tiles, e.g. "
            f"{listed}. Look at their values with fusion data check, and at the training loss for a divergence"
        )
