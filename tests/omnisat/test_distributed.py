"""Pretraining in two processes against one process with the joined batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from fusion.data import TileBatch
from fusion.kernels.infonce import distributed
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


def _replicated(step: _Step) -> nn.Module:
    return DistributedDataParallel(step)


def _sharded(step: _Step) -> nn.Module:
    step.to(memory_format=torch.contiguous_format)  # fully_shard takes no other
    return fully_shard(step, mesh=init_device_mesh("cpu", (len(SHARES),)))


def _whole(gradient: Tensor) -> Tensor:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def _rank(rank: int, config: OmniSatConfig, batch: TileBatch, parallel: Callable[[_Step], nn.Module]) -> dict:
    results = {}
    for case, share_negatives, gathered in (
        ("gathered", True, distributed.GATHERED),
        ("rank by rank", True, 0),
        ("apart", False, 0),
    ):
        distributed.GATHERED = gathered
        step = _Step(config, share_negatives=share_negatives)
        whole = parallel(step)  # which averages gradients as long as it lives
        losses = whole(_part(batch, SHARES[rank]), _masked(4)[:, SHARES[rank]])
        losses[0].backward()
        results[case] = [x.detach() for x in losses], [_whole(p.grad) for p in step.parameters()]
    return results


@pytest.mark.parametrize("parallel", [_replicated, _sharded])
def test_two_processes_train_on_their_joined_batch(parallel, config, batch, tmp_path: Path) -> None:
    data = batch(4)
    data.valid["dem"][1] = data.valid["dem"][3] = False  # so that masked tokens are not spread evenly
    ranks = results_of_ranks(_rank, tmp_path, len(SHARES), config, data, parallel)
    alone = _Step(config)
    losses = alone(data, _masked(4))
    losses[0].backward()
    gradients = [p.grad for p in alone.parameters()]
    assert any(g.abs().max() > 0 for g in gradients)
    for results in ranks:
        for case in ("gathered", "rank by rank"):
            for got, want in zip(results[case][0], losses, strict=True):
                torch.testing.assert_close(got, want.detach())
            for got, want in zip(results[case][1], gradients, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        assert abs(results["apart"][0][1] - losses[1]) > 1e-3  # fewer negatives, another loss
