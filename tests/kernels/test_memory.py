"""What is worked out once, and when it must not be."""

from __future__ import annotations

import gc

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fusion.kernels.memory import remember, remember_numbers

CPU = torch.device("cpu")


def test_numbers_are_worked_out_once_for_each_key() -> None:
    made = [remember_numbers(("test", n), CPU, lambda n=n: torch.full((n,), 1.0)) for n in (2, 3, 2)]
    assert made[0] is made[2]
    assert made[1].shape == (3,)


def test_a_mode_of_fake_tensors_gets_its_own_and_leaves_nothing_behind() -> None:
    with FakeTensorMode():
        fake = remember_numbers(("test", "fake"), CPU, lambda: torch.ones(2))
    assert type(fake) is not torch.Tensor
    assert type(remember_numbers(("test", "fake"), CPU, lambda: torch.ones(2))) is torch.Tensor


def test_a_changed_tensor_is_looked_at_again_and_none_is_kept_alive() -> None:
    calls = []

    def make() -> int:
        calls.append(0)
        return len(calls)

    tensor, other = torch.zeros(2), torch.zeros(2)
    assert [remember((tensor, other), "test", make) for _ in range(2)] == [1, 1]
    other.add_(1)
    assert remember((tensor, other), "test", make) == 2
    reference = torch.utils.weak.TensorWeakRef(tensor)
    del tensor
    gc.collect()
    assert reference() is None
