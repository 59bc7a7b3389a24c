"""What Lightning has added up of an epoch that has begun, which its checkpoints leave out.

Without it the means of an epoch taken up in its middle, and all that follows them (the best model, plateau schedules,
early stopping), would be of the steps after the resume alone.
"""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from torch import Tensor

__all__ = ["Sums", "add_epoch_sums", "epoch_sums"]

Sums = dict[str, dict[str, Any]]


def epoch_sums(trainer: Trainer) -> Sums:
    """By logged value, what has been summed of it in this epoch: tensors, of several ranks their mean."""
    sums: Sums = {}
    for name, metric in _accumulating(trainer):
        states = (metric if metric.is_tensor else metric.value).metric_state
        sums[name] = {key: _of_ranks(trainer, metric, value) for key, value in states.items()}
    return sums


def add_epoch_sums(trainer: Trainer, sums: Sums) -> None:
    """Adds what :func:`epoch_sums` found, once the first step after it has been logged."""
    for name, metric in _accumulating(trainer):
        if name not in sums:
            continue
        if not metric.is_tensor:  # a torchmetrics.Metric
            metric.value.merge_state(_on(sums[name], metric.value.device))
            continue
        before = _on(sums[name], metric.value.device)
        if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
            metric.value = metric.meta.reduce_fx(metric.value, before["value"])
        else:
            metric.value = before["value"] + metric.value
        if metric.meta.is_mean_reduction:
            metric.cumulated_batch_size = before["cumulated_batch_size"] + metric.cumulated_batch_size


def _accumulating(trainer: Trainer) -> list[tuple[str, Any]]:
    """Values logged for the epoch; Lightning has no public name for them."""
    results = trainer.fit_loop.epoch_loop._results
    return [(name, metric) for name, metric in results.items() if metric.meta.on_epoch and not metric.has_reset]


def _of_ranks(trainer: Trainer, metric: Any, value: Any) -> Any:
    averaged = metric.is_tensor and not (metric.meta.is_max_reduction or metric.meta.is_min_reduction)
    if trainer.world_size == 1 or not averaged:
        return value
    return trainer.strategy.reduce(value.float(), reduce_op="mean").to(value.dtype)


def _on(states: dict[str, Any], device: Any) -> dict[str, Any]:
    return {
        name: value.to(device) if isinstance(value, Tensor) else [one.to(device) for one in value]
        for name, value in states.items()
    }
