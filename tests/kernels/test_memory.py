"""What is worked out once, and when it must not be."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fusion.kernels import relative_attention
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


def test_a_change_through_an_array_that_shares_the_memory_is_noticed() -> None:
    array = np.zeros(3)
    for tensor, shared in ((torch.from_numpy(array), array), ((own := torch.zeros(3)), own.numpy())):
        calls: list[float] = []

        def make(tensor: torch.Tensor = tensor, calls: list[float] = calls) -> int:
            calls.append(float(tensor[0]))
            return len(calls)

        assert [remember((tensor,), "test", make) for _ in range(2)] == [1, 1]
        shared[0] = 5
        assert [remember((tensor,), "test", make) for _ in range(2)] == [2, 2]
        assert calls == [0, 5]


def test_a_tensor_that_is_shared_after_it_was_looked_at_is_looked_at_again() -> None:
    tensor, calls = torch.zeros(3), []

    def make() -> int:
        calls.append(0)
        return len(calls)

    assert [remember((tensor,), "test", make) for _ in range(2)] == [1, 1]
    array = tensor.numpy()
    assert [remember((tensor,), "test", make) for _ in range(2)] == [2, 2]
    array[0] = 5
    assert [remember((tensor,), "test", make) for _ in range(2)] == [3, 3]


def test_attention_sees_a_table_of_buckets_that_is_changed_through_an_array() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 8, generator=generator) for _ in range(3))
    table, buckets = torch.randn(1, 8, 4, generator=generator), np.zeros((5, 5), np.int64)
    bucket = torch.from_numpy(buckets)
    before = relative_attention(query, key, value, table=table, bucket=bucket)
    buckets[:, 2:] = 3
    after = relative_attention(query, key, value, table=table, bucket=bucket)
    assert not torch.equal(before, after)
    assert torch.equal(after, relative_attention(query, key, value, table=table, bucket=bucket.clone()))
    buckets[0, 0] = 9
    with pytest.raises(ValueError, match="bucket"):
        relative_attention(query, key, value, table=table, bucket=bucket)
