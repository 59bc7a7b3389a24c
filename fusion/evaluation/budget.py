"""How long to train on labels: as many epochs as make enough steps, whatever the number of tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusion.data import TileDataset
from fusion.training.recipes import RECIPES

if TYPE_CHECKING:
    from lightning import LightningModule

__all__ = ["enough_epochs"]

LEAST, MOST = 10, 500  # epochs
_BATCH = 32  # tiles a step, as fit takes by default


def enough_epochs(module: LightningModule, fitted: TileDataset, training: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :func:`fusion.training.fit` with a number of epochs, where neither it nor one of steps is given.

    They make at least the steps of the module's recipe: no fewer than 10 epochs, for a schedule over few epochs cannot
    be judged between them, and no more than 500: 107 labelled pixels want all 1,500 steps (docs/omnisat.md). A recipe
    without a number of steps, and a module without a recipe, leave it to ``fit``. What was chosen is printed, unless
    ``progress`` is False.
    """
    recipe = RECIPES.get(module.hparams.get("recipe", ""))
    if recipe is None or recipe.steps is None or {"epochs", "max_steps", "max_time"} & set(training):
        return dict(training)
    batch = max(1, min(int(training.get("batch_size", _BATCH)), len(fitted)))
    each = len(fitted) // batch
    limit = training.get("limit_train_batches")
    if limit is not None:  # a number of steps, or a share of them
        each = max(1, min(each, limit) if isinstance(limit, int) else int(each * limit))
    epochs = min(MOST, max(LEAST, math.ceil(recipe.steps / each)))
    if training.get("progress", True):
        print(
            f"{epochs} epochs of {each} steps ({epochs * each} steps; --training.epochs takes another number)",
            flush=True,
        )
    return {**training, "epochs": epochs}
