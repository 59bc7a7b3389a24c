"""Several fine-tuned models that answer together: trained alike, from other seeds and with other tiles held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fusion.data import TileBatch

from .configurations import with_former_settings
from .conformal import ConformalInterval
from .systems import SYSTEMS, reinitialised, system_of

__all__ = ["ENSEMBLE", "Ensemble"]

ENSEMBLE = "ensemble"  # kind of what is on top of the encoder in a file


class Ensemble(nn.Module):
    """The mean of what its members say: of probabilities of classes, of quantities in their unit (Lakshminarayanan et
    al. 2017, arXiv 1612.01474, without their variances). It is used, and saved as one file, like a fine-tuned model.

    Args:
        members: fine-tuned modules of one model class, task and classes.
        intervals: as those of :class:`~fusion.training.finetuning.Finetuning`; intervals of the members are not used.

    Attributes:
        model: that of the first member, which says what data fit.
        hparams: of the first member, with the number of members, as a file holds them.

    Raises:
        ValueError: no member, or members that answer different questions.
    """

    def __init__(self, members: Sequence[nn.Module], intervals: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__()
        if not members:
            raise ValueError("Ensemble: no member; give at least one fine-tuned module")
        kinds = {(type(one.model), one.task, one.classes, one.dense) for one in cast(Sequence[Any], members)}
        if len(kinds) > 1:
            told = "; ".join(f"{model.__name__}: {task} of {', '.join(classes)}" for model, task, classes, _ in kinds)
            raise ValueError(f"Ensemble: members answer different questions ({told}); give those of one fine-tuning")
        self.members = nn.ModuleList(members)
        first = cast(Any, members[0])
        self.model: nn.Module = first.model
        self.task, self.classes, self.dense = first.task, tuple(first.classes), first.dense
        self.ignore_index = first.ignore_index
        self.intervals = tuple(ConformalInterval.from_dict(one) for one in intervals)
        own = {"kind": ENSEMBLE, "members": len(members), "intervals": [dict(one) for one in intervals]}
        self.hparams: dict[str, Any] = dict(first.hparams) | own
        self.eval()

    @classmethod
    def fresh(cls, model: nn.Module, settings: Mapping[str, Any]) -> Ensemble:
        """One of the shapes that ``settings`` say, the ``hparams`` of another, with ``model`` in its first member."""
        own = {key: value for key, value in settings.items() if key not in ("kind", "members", "intervals")}
        kind = SYSTEMS[system_of(model)].load("finetuning")
        models = [model, *(reinitialised(model) for _ in range(1, settings["members"]))]
        return cls([kind(one, **with_former_settings(kind, own)) for one in models], settings.get("intervals", ()))

    def forward(self, batch: TileBatch) -> Tensor:
        """(B, K) log probabilities, logits of several classes or quantities in their unit; (B, K, H, W) for maps."""
        answers = torch.stack([member(batch).float() for member in self.members])  # (M, B, K, ...)
        if self.task == "regression":
            return answers.mean(0)
        if self.task == "multiclass":
            return answers.log_softmax(2).logsumexp(0) - math.log(len(answers))
        share = answers.double().sigmoid().mean(0)
        return torch.logit(share, eps=1e-12).to(answers.dtype)
