"""Several gloo processes against one process over the joined batch."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

from fusion.kernels import patch_info_nce, patch_info_nce_ragged
from fusion.kernels.infonce import distributed

from ..ranks import results_of_ranks

BATCHES = {2: (3, 1), 3: (2, 4, 1), 4: (2, 0, 3, 1)}  # tiles of each rank
GATHERED = {"gathered": distributed.GATHERED, "rank by rank": 0}
OPTIONS = [
    {"exclude": "tile"},
    {"exclude": "self", "reduction": "sum"},
    {"exclude": "modality", "reduction": "none"},
    {"exclude": "tile", "normalize": False},
    {"exclude": "place", "reduction": "none"},
]

SHARED = ["tile", "place"]  # what is excluded where ranks see the same tiles


def _joined(world: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(world)
    tokens = torch.randn(3, sum(BATCHES[world]), 4, 5, dtype=torch.float64)
    return tokens, torch.rand(tokens.shape[:3]) > 0.25


def _run(tokens: torch.Tensor, valid: torch.Tensor | None, options: dict, group: object = None) -> list[torch.Tensor]:
    tokens = tokens.clone().requires_grad_()
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    loss, accuracy = patch_info_nce(
        tokens, temperature=temperature, valid=valid, group=group, return_accuracy=True, **options
    )
    loss.square().sum().backward()  # a gradient that differs from row to row where the reduction is none
    return [loss.detach(), accuracy, tokens.grad, temperature.grad]


def _rank(rank: int, world: int) -> dict[str, list]:
    results = {}
    for name, distributed.GATHERED in GATHERED.items():
        results[name] = _results(rank, world)
    return results


def _results(rank: int, world: int) -> list:
    tokens, valid = _joined(world)
    first = sum(BATCHES[world][:rank])
    mine = slice(first, first + BATCHES[world][rank])
    results = [_run(tokens[:, mine], valid[:, mine], options, dist.group.WORLD) for options in OPTIONS]
    # A mask on one rank only.
    mask = valid[:, mine] if rank == 0 else None
    results.append(_run(tokens[:, mine], mask, {}, dist.group.WORLD))

    labels = torch.arange(3)[:, None].expand(3, 4).flatten(), torch.arange(4).repeat(3)  # modality, patch
    tile = torch.arange(4).repeat(3) // 2  # two tiles, which all ranks see
    rows = tokens[:, first].reshape(12, 5).clone().requires_grad_()
    for exclude in SHARED:
        rows.grad = None
        loss = patch_info_nce_ragged(rows, labels[0], tile, labels[1], exclude=exclude, group=dist.group.WORLD)
        loss.backward()
        results.append([loss.detach(), rows.grad])
    return results


@pytest.fixture(scope="module", params=BATCHES)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list]]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return results_of_ranks(_rank, tmp_path_factory.mktemp("ranks"), request.param, request.param)


@pytest.mark.parametrize("gathered", GATHERED)
def test_ranks_share_negatives_and_get_the_joined_gradient(ranks: list[dict[str, list]], gathered: str) -> None:
    world, ranks = len(ranks), [results[gathered] for results in ranks]
    tokens, valid = _joined(world)
    first_rank_masked = valid.clone()
    first_rank_masked[:, BATCHES[world][0] :] = True

    settings = [(valid, options) for options in OPTIONS] + [(first_rank_masked, {})]
    for case, (mask, options) in enumerate(settings):
        loss, accuracy, d_tokens, d_temperature = _run(tokens, mask, options)
        losses, accuracies, slices, shares = zip(*(results[case] for results in ranks), strict=True)
        if options.get("reduction") == "none":
            torch.testing.assert_close(torch.cat(losses, 1), loss)
        else:
            for each in losses:
                torch.testing.assert_close(each, loss)
        for each in accuracies:
            torch.testing.assert_close(each, accuracy)
        torch.testing.assert_close(torch.cat(slices, 1), d_tokens)
        torch.testing.assert_close(sum(shares), d_temperature)


def test_ragged_ranks_may_see_the_same_tile(ranks: list[dict[str, list]]) -> None:
    world = len(ranks)
    tokens, _ = _joined(world)
    starts = [sum(BATCHES[world][:rank]) for rank in range(world)]
    rows = torch.cat([tokens[:, start].reshape(12, 5) for start in starts]).requires_grad_()
    modality, patch = torch.arange(3)[:, None].expand(3, 4).flatten().repeat(world), torch.arange(4).repeat(3 * world)
    tile = patch // 2
    for exclude, *of_ranks in zip(SHARED, *(results["gathered"][-len(SHARED) :] for results in ranks), strict=True):
        rows.grad = None
        loss = patch_info_nce_ragged(rows, modality, tile, patch, exclude=exclude)
        loss.backward()
        assert loss > 0
        for each in of_ranks:
            torch.testing.assert_close(each[0], loss.detach())
        torch.testing.assert_close(torch.cat([each[1] for each in of_ranks]), rows.grad)
