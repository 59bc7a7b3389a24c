"""The same numbers as PyTorch's, with less memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from fusion.token_fusion import cross_entropy
from fusion.token_fusion.cross_entropy import masked_cross_entropy, most_likely


def problem(rows=23, dim=5, channels=3, codes=7, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, dim, generator=draw, dtype=dtype, requires_grad=True)
    table = torch.randn(channels, codes, dim, generator=draw, dtype=dtype, requires_grad=True)
    channel = torch.randint(channels, (rows,), generator=draw)
    return hidden, table, channel, torch.randint(codes, (rows,), generator=draw)


def plain(hidden, table, channel, codes, spread=0.0):
    scores = torch.einsum("rd,rkd->rk", hidden, table[channel])
    if spread == 0:
        return F.cross_entropy(scores, codes, reduction="none")
    distance = torch.arange(table.shape[1]) - codes[:, None]
    weight = torch.exp(-0.5 * (distance / spread) ** 2) * (distance.abs() <= -(-3 * spread // 1))
    return F.cross_entropy(scores, (weight / weight.sum(1, keepdim=True)).to(scores), reduction="none")


@pytest.fixture(params=[1 << 20, 20])  # all rows at once, and two or three
def block(request, monkeypatch):
    monkeypatch.setattr(cross_entropy, "BLOCK", request.param)


@pytest.mark.parametrize("spread", [0.0, 0.7, 2.0])
def test_values_and_gradients_are_those_of_plain_cross_entropy(block, spread):
    hidden, table, channel, codes = problem()
    weight = torch.rand(len(codes), dtype=torch.float64)
    loss, wanted = masked_cross_entropy(hidden, table, channel, codes, spread), plain(*problem(), spread)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-7)
    grads = torch.autograd.grad((loss * weight).sum(), (hidden, table))
    expected = torch.autograd.grad((plain(hidden, table, channel, codes, spread) * weight).sum(), (hidden, table))
    for grad, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-6, atol=1e-7)


def test_gradcheck(block):
    hidden, table, channel, codes = problem(rows=6, dim=3, codes=5)
    spread = torch.tensor([0.0, 1.0, 0.5, 0.0, 2.0, 1.0])
    assert torch.autograd.gradcheck(lambda h, t: masked_cross_entropy(h, t, channel, codes, spread), (hidden, table))


def test_the_likeliest_code(block):
    hidden, table, channel, _ = problem()
    scores = torch.einsum("rd,rkd->rk", hidden, table[channel])
    assert torch.equal(most_likely(hidden, table, channel), scores.argmax(1))


def test_no_rows_give_no_loss_and_no_gradient():
    hidden, table, channel, codes = problem(rows=0)
    loss = masked_cross_entropy(hidden, table, channel, codes)
    assert loss.shape == (0,)
    loss.sum().backward()
    assert not table.grad.any()


def test_autocast_does_not_reach_the_sums():
    hidden, table, channel, codes = problem(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = masked_cross_entropy(hidden, table, channel, codes)
    torch.testing.assert_close(loss, plain(hidden, table, channel, codes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": torch.tensor([0, 7])}, r"codes must be in 0..6, got 0..7"),
        ({"codes": torch.tensor([-1, 2])}, r"codes must be in 0..6, got -1..2"),
        ({"channel": torch.tensor([0, 3])}, r"channel must be in 0..2, got 0..3"),
        ({"table": torch.zeros(3, 7, 4)}, r"hidden \(R, D\), table \(C, K, D\)"),
        ({"codes": torch.tensor([1])}, r"codes \(R,\) wanted"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    hidden, table, channel, codes = problem(rows=2)
    given = {"hidden": hidden, "table": table, "channel": channel, "codes": codes} | change
    with pytest.raises(ValueError, match=message):
        masked_cross_entropy(**given)


SCRIPT = """
import ctypes, re, torch
from fusion.token_fusion.cross_entropy import masked_cross_entropy

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

def step(rows):
    hidden = torch.randn(rows, 8, requires_grad=True)
    channel = torch.arange(rows) % 2
    masked_cross_entropy(hidden, table, channel, torch.arange(rows) % 8192, 1.0).sum().backward()

torch.set_num_threads(1)
table = torch.randn(2, 8192, 8, requires_grad=True)
step(64)
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
step(16384)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_scores_of_all_tokens_for_all_codes_never_exist():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60  # MiB; 16384 x 8192 float32 are 512
