"""Relative-position attention on a GPU: every dtype against float64, no worse than plain PyTorch in the same dtype."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from fusion.compat.irpe import rpe_index
from fusion.kernels import RelativeAttention, euclidean_buckets, relative_attention, use_backend

from ..kernels.attention_cases import CASES, DTYPES, Inputs, check, results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_errs_at_most_twice_as_much_as_plain_pytorch(case: str, dtype: torch.dtype) -> None:
    check(case, dtype, "cuda", small=False, backends=("triton", "eager"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ["treesatai", "dropout", "looked up"])
def test_same_bits_twenty_times(case: str, dtype: torch.dtype) -> None:
    inputs = Inputs.of(CASES[case], "cuda", small=False)
    with use_backend("triton"):
        first = results(relative_attention, inputs, dtype)
        for _ in range(19):
            assert all(map(torch.equal, results(relative_attention, inputs, dtype), first))


def test_masked_tile_gives_zeros_and_no_gradient() -> None:
    inputs = Inputs.of(CASES["flair"], "cuda", small=False)
    with use_backend("triton"):
        output, *gradients, _ = results(relative_attention, inputs, torch.float32)
    for tensor in (output, *gradients):
        assert tensor[-1].abs().max() == 0
        assert torch.isfinite(tensor).all()


def _call(inputs: Inputs, dropout: float = 0.0) -> tuple[list[Tensor], Tensor, Callable[[], list[Tensor]]]:
    """Operands with the table in float32, the gradient of the output, and a call that gives output and gradients."""
    operands = [t.float().requires_grad_() for t in inputs.tensors]
    gradient = inputs.gradient.float()
    options = inputs.common | {"mode": inputs.mode, "dropout_p": dropout}

    def run() -> list[Tensor]:
        *three, table = operands
        output = relative_attention(*three, table=table, **options)
        return [output.detach(), *torch.autograd.grad(output, operands, gradient)]

    return operands, gradient, run


def _captured(run: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # compiles, and remembers what follows from buckets and positions
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return graph, results


@pytest.mark.parametrize("case", ["treesatai", "flair", "looked up"])
def test_graph_replays_with_new_inputs(case: str) -> None:
    with use_backend("triton"):
        operands, gradient, run = _call(Inputs.of(CASES[case], "cuda", small=False))
        graph, got = _captured(run)
        with torch.no_grad():
            for tensor in (*operands, gradient):
                tensor.copy_(torch.randn_like(tensor))
        graph.replay()
        torch.cuda.synchronize()
        assert all(map(torch.equal, got, run()))


def test_dropout_in_a_graph_differs_from_replay_to_replay() -> None:
    with use_backend("triton"):
        _, _, run = _call(Inputs.of(CASES["treesatai"], "cuda", small=False), dropout=0.3)
        graph, got = _captured(run)
        graph.replay()
        first = got[0].clone()
        graph.replay()
        torch.cuda.synchronize()
    assert not torch.equal(got[0], first)


def test_positions_made_anew_are_not_waited_for() -> None:
    inputs = Inputs.of(CASES["pastis"], "cuda", small=False)
    operands = [t.float() for t in inputs.tensors]
    bucket, *positions = (inputs.common[name] for name in ("bucket", "query_position", "key_position"))

    def run(fresh: list[Tensor]) -> Tensor:
        query_position, key_position = fresh
        options = {"query_position": query_position, "key_position": key_position}
        return relative_attention(*operands[:3], table=operands[3], bucket=bucket, **options)

    with use_backend("triton"):
        expected = run(positions)
        anew = [position.clone() for position in positions]
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = run(anew)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got, expected)


def test_two_streams_do_not_disturb_each_other() -> None:
    with use_backend("triton"):
        calls = [_call(Inputs.of(CASES[case], "cuda", small=False))[2] for case in ("treesatai", "flair")]
        expected = [run() for run in calls]
        streams = [torch.cuda.Stream() for _ in calls]
        torch.cuda.synchronize()
        for _ in range(10):
            got = []
            for stream, run in zip(streams, calls, strict=True):
                with torch.cuda.stream(stream):
                    got.append(run())
            torch.cuda.synchronize()
            for ours, want in zip(got, expected, strict=True):
                assert all(map(torch.equal, ours, want))


def test_a_learned_table_finds_the_bias_that_made_the_targets() -> None:
    """A few steps of gradient descent on the table alone: its gradient points the right way for every bucket."""
    inputs = Inputs.of(CASES["treesatai"], "cuda", small=False)
    query, key, value, wanted = (t.float() for t in inputs.tensors)
    options = {name: inputs.common[name] for name in ("bucket", "query_position", "key_position")}
    table = torch.zeros_like(wanted, requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=0.1)
    with use_backend("triton"):
        target = relative_attention(query, key, value, table=wanted, **options)
        losses = []
        for _ in range(150):
            optimizer.zero_grad()
            loss = (relative_attention(query, key, value, table=table, **options) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    assert losses[-1] < 0.02 * losses[0]
    unused = [bucket for bucket in range(8) if not (options["bucket"] == bucket).any()]
    assert table.detach()[:, :, unused].abs().max() == 0


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_has_its_variance(p: float) -> None:
    """Equal scores and unit values: an output is the kept share over 1 - p, binomial over the keys."""
    batch, heads, length = 64, 16, 128
    query, value = (
        torch.zeros(batch, heads, length, 16, device="cuda"),
        torch.ones(batch, heads, length, 16, device="cuda"),
    )
    bucket, table = torch.zeros(length, length, dtype=torch.long, device="cuda"), torch.zeros(1, 16, 1, device="cuda")
    torch.manual_seed(0)
    with use_backend("triton"):
        output = relative_attention(query, query, value, table=table, bucket=bucket, dropout_p=p)[..., 0].double()
    variance = p / (1 - p) / length
    assert abs(output.mean() - 1) < 5 * (variance / output.numel()) ** 0.5
    assert abs(output.var() / variance - 1) < 0.02
    assert abs(output.mean((0, 1)).var() * batch * heads / variance - 1) < 0.7  # rows do not know of each other


def test_dropout_is_the_same_mask_on_every_device() -> None:
    inputs = Inputs.of(CASES["dropout"], "cpu", small=False)
    indices = [inputs.common[name] for name in ("bucket", "query_position", "key_position", "key_valid")]
    arguments = [*(t.float() for t in inputs.tensors), *indices, torch.tensor([12345])]
    outputs = [
        torch.ops.fusion.relative_attention(*(t.to(device) for t in arguments), 0.2, 0.25)[0].cpu()
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)


def test_automatic_choice_takes_many_buckets_too() -> None:
    """More buckets than the GPU kernels add gradients up for: eager, and the same numbers as on the CPU."""
    torch.manual_seed(0)
    bucket = torch.randint(100, (40, 40))
    inputs = [torch.randn(2, 2, 40, 16) for _ in range(3)] + [torch.randn(1, 16, 100)]
    results = []
    for device in ("cpu", "cuda"):
        *operands, table = (t.detach().to(device).requires_grad_() for t in inputs)
        output = relative_attention(*operands, table=table, bucket=bucket.to(device))
        output.square().sum().backward()
        results.append([output.cpu(), table.grad.cpu()])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)


def test_compiles_and_autocasts() -> None:
    layer = RelativeAttention(64, 4, euclidean_buckets(6, 6), dropout=0.1).cuda()
    tokens = torch.randn(3, 37, 64, device="cuda")
    compiled = torch.compile(layer, fullgraph=True)
    with torch.autocast("cuda", torch.bfloat16):
        output = compiled(tokens)
        output.float().square().sum().backward()
    assert output.dtype == torch.bfloat16
    assert torch.isfinite(layer.table.grad).all()
    layer.eval()
    torch.testing.assert_close(compiled(tokens), layer(tokens))


def test_memory_does_not_grow_with_the_square() -> None:
    position = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.arange(1024).repeat(3)]).cuda()
    query, key, value = (torch.randn(2, 16, 3073, 16, device="cuda", requires_grad=True) for _ in range(3))
    options = dict(bucket=euclidean_buckets(32, 32).cuda(), query_position=position, key_position=position)
    table = torch.randn(1, 16, 8, device="cuda", requires_grad=True)
    with use_backend("triton"):
        relative_attention(query, key, value, table=table, **options).sum().backward()  # compiles
        query.grad = key.grad = value.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        relative_attention(query, key, value, table=table, **options).sum().backward()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra <= 12 * query.nbytes  # one map of the logits would be 96 times a query


def test_index_operator_is_deterministic() -> None:
    values = torch.randn(8, 4, 109, 8, device="cuda", requires_grad=True)
    index = torch.randint(8, (109, 109), device="cuda")
    gradient = torch.randn(8, 4, 109, 109, device="cuda")
    first, second = (torch.autograd.grad(rpe_index(values, index), values, gradient)[0] for _ in range(2))
    assert torch.equal(first, second)
    expected = torch.zeros(8, 4, 109, 8, device="cuda", dtype=torch.float64)
    expected.scatter_add_(3, index.expand(8, 4, -1, -1), gradient.double())
    torch.testing.assert_close(first.double(), expected, rtol=1e-4, atol=1e-4)
