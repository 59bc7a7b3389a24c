"""Pretraining in two processes against one process with the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fusion.data import TileBatch
from fusion.omnisat import OmniSatConfig, OmniSatPretraining, objectives

from ..ranks import results_of_ranks

SHARES = (slice(0, 1), slice(1, 4))  # tiles of each process: unequal


class _Step(nn.Module):
    """The training loss, through ``forward`` as DistributedDataParallel wants it."""

    def __init__(self, config: OmniSatConfig, **options: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.module = OmniSatPretraining(config, **options)
        for part in self.modules():  # batch statistics are each process's own
            if "BatchNorm" in type(part).__name__:
                part.eval()

    def forward(self, batch: TileBatch, masked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objectives, "draw_masked", lambda *arguments: masked)
            losses = self.module.objective(self.module.model, batch)
        return losses.total, losses.contrastive.detach(), losses.reconstruction.detach()


def _masked(tiles: int) -> Tensor:
    return objectives.draw_masked(tiles, 3, 6, 0.5, torch.Generator().manual_seed(5))


def _part(batch: TileBatch, tiles: slice) -> TileBatch:
    values, days, valid = ({k: v[tiles] for k, v in part.items()} for part in (batch.values, batch.days, batch.valid))
    return TileBatch(values, days, valid, names=batch.names[tiles])


def _rank(rank: int, config: OmniSatConfig, batch: TileBatch) -> dict:
    results = {}
    for share_negatives in (True, False):
        step = _Step(config, share_negatives=share_negatives)
        parallel = DistributedDataParallel(step)
        losses = parallel(_part(batch, SHARES[rank]), _masked(4)[:, SHARES[rank]])
        losses[0].backward()
        results[share_negatives] = [x.detach() for x in losses], [p.grad for p in step.parameters()]
    return results


def test_two_processes_train_on_their_joined_batch(config, batch, tmp_path: Path) -> None:
    data = batch(4)
    data.valid["dem"][1] = data.valid["dem"][3] = False  # so that masked tokens are not spread evenly
    ranks = results_of_ranks(_rank, tmp_path, len(SHARES), config, data)
    alone = _Step(config)
    losses = alone(data, _masked(4))
    losses[0].backward()
    gradients = [p.grad for p in alone.parameters()]
    assert any(g.abs().max() > 0 for g in gradients)
    for results in ranks:
        for got, want in zip(results[True][0], losses, strict=True):
            torch.testing.assert_close(got, want.detach())
        for got, want in zip(results[True][1], gradients, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        assert abs(results[False][0][1] - losses[1]) > 1e-3  # fewer negatives, another loss
