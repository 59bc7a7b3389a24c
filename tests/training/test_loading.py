"""The order of tiles follows from seed and epoch alone."""

import pytest
from tiny_system import Meadows

from fusion.training.loading import RandomViews, evaluation_loader, readers, training_loader


def names(loader) -> list[tuple[str, ...]]:
    return [batch.names for batch in loader]


def test_an_epoch_sees_every_tile_once_in_an_order_of_its_own():
    views = RandomViews(10, 2, seed=3)
    first = list(views)
    assert sorted(i for i, _ in first) == list(range(10))
    assert list(views) == first
    views.set_epoch(1)
    second = list(views)
    assert second != first
    assert {seed for _, seed in first}.isdisjoint(seed for _, seed in second)


def test_resuming_leaves_out_what_was_seen_and_only_in_that_epoch():
    views = RandomViews(10, 2, seed=3)
    views.set_epoch(4)
    whole = list(views)
    views.resume(4, 3)
    assert list(views) == whole[6:]
    views.set_epoch(4)  # as Lightning does after a resume
    assert list(views) == whole[6:]
    assert len(views) == 10
    views.set_epoch(5)
    assert len(list(views)) == 10


def test_processes_share_an_epoch_without_overlap():
    parts = [list(RandomViews(11, 2, seed=0, rank=r, ranks=2)) for r in range(2)]
    assert [len(part) for part in parts] == [5, 5]  # equally many, or one process would wait for ever
    assert {i for i, _ in parts[0]}.isdisjoint(i for i, _ in parts[1])


def test_workers_change_nothing():
    data = Meadows(12)
    alone, helped = (training_loader(data, 4, seed=1, workers=w) for w in (0, 2))
    for epoch in range(2):  # the second with the processes of the first
        for loader in (alone, helped):
            loader.sampler.set_epoch(epoch)
        for a, b in zip(alone, helped, strict=True):
            assert a.names == b.names
            assert a.values["s2"].equal(b.values["s2"])


@pytest.mark.parametrize(
    ("device", "cores", "devices", "wanted"),
    [
        ("cpu", 64, 1, 0),
        ("cuda", 1, 1, 0),
        ("cuda", 4, 1, 3),
        ("cuda", 64, 4, 8),
        ("cuda", 16, 4, 3),
        ("cuda", 2, 4, 0),
    ],
)
def test_who_reads_for_whom(device, cores, devices, wanted, monkeypatch):
    monkeypatch.setattr("fusion.kernels.machine.cores", lambda: cores)
    assert readers(device, devices) == wanted


def test_the_batch_is_lowered_to_a_small_data_set():
    assert [len(batch) for batch in training_loader(Meadows(3), 32)] == [3]
    assert [len(batch) for batch in training_loader(Meadows(7), 3)] == [3, 3]
    assert [len(batch) for batch in evaluation_loader(Meadows(7), 3)] == [3, 3, 1]


def test_evaluation_goes_in_order_and_keeps_the_modalities():
    data = Meadows(5).with_modalities(["vhr", "s2"])
    assert names(evaluation_loader(data, 2)) == [("tile0", "tile1"), ("tile2", "tile3"), ("tile4",)]
    assert next(iter(evaluation_loader(data, 2))).modalities == ("vhr", "s2")


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        training_loader(Meadows(3), 0)
    with pytest.raises(ValueError, match="3 training tiles cannot be shared by 4 devices"):
        training_loader(Meadows(3), 2, ranks=4)


def test_parts_are_the_batches_cut_in_their_order():
    data = Meadows(14)
    whole, parts = names(training_loader(data, 6, seed=1)), names(training_loader(data, 6, seed=1, parts=3))
    assert [len(part) for part in parts] == [2] * 6
    assert [sum(parts[i : i + 3], ()) for i in (0, 3)] == whole
    with pytest.raises(ValueError, match="6 tiles a step cannot be cut into 4 equal parts"):
        training_loader(data, 6, parts=4)
