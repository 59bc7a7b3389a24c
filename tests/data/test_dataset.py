"""The base of every reader: views, what may leave it, statistics and few-label draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.data import Geo, Modality, Tile, TileDataset, collate, fit_statistics, fraction

S2 = Modality("s2", "series", ("B04", "B08"), 10.0, 1, "reflectance x 10000")
AERIAL = Modality("aerial", "image", ("R",), 5.0, 2, "8 bit")


class Toy(TileDataset):
    """Tile i has value i everywhere; ``spoil`` edits a tile before the base sees it."""

    def __init__(self, n=10, spoil=lambda row, tile: None, **fields):
        super().__init__([f"tile{i}" for i in range(n)], (S2, AERIAL), (3, 2), **fields)
        self.spoil = spoil

    def _read(self, row, rng):
        day = 100 if rng is None else int(rng.integers(366))
        tile = Tile(
            self._names[row],
            {"s2": torch.full((4, 2, 3, 2), float(row)), "aerial": torch.full((1, 6, 4), float(row))},
            {"s2": torch.tensor([day, 200, 300, 310])},
        )
        tile.values = {m.name: tile.values[m.name] for m in self.modalities}
        self.spoil(row, tile)
        return tile

    def _place(self, row):
        return Geo((10.0, 0, row * 20.0, 0, -10.0, 0), "EPSG:32632")


def test_views_share_the_index():
    data = Toy(task="multiclass", classes=("a", "b"), labels=torch.arange(10) % 2, splits={"train": range(6)})
    view = data.subset([7, 1, 5]).split("train")
    assert view.names == ["tile1", "tile5"]
    assert view.labels().tolist() == [1, 1]
    assert view[1].values["s2"].unique().tolist() == [5.0]
    assert view[1].label == 1
    assert view.places()[0].transform[2] == 20.0
    assert list(data.with_modalities(["aerial"])[0].values) == ["aerial"]
    assert len(data) == 10
    assert data.names[-1] == "tile9"


def test_a_seed_gives_a_random_view_and_none_the_same_view():
    data = Toy()
    assert data[3].days["s2"][0] == data[3].days["s2"][0] == 100
    assert data[3, 5].days["s2"][0] == data[3, 5].days["s2"][0]
    assert len({int(data[3, seed].days["s2"][0]) for seed in range(5)}) > 1
    assert data.subset([3])[0, 5].days["s2"][0] == data[3, 5].days["s2"][0]


def test_with_classes_reduces_labels():
    multilabel = torch.eye(3).repeat(2, 1)
    few = Toy(6, task="multilabel", classes=("a", "b", "c"), labels=multilabel).with_classes(["c", "a"])
    assert few.labels()[:3].tolist() == [[0, 1], [0, 0], [1, 0]]
    assert few[2].label.tolist() == [1, 0]
    single = Toy(6, task="multiclass", classes=("a", "b", "c"), labels=torch.arange(6) % 3).with_classes(["c", "a"])
    assert single.labels().tolist() == [1, 0, 1, 0]
    assert single.names == ["tile0", "tile2", "tile3", "tile5"]
    assert single[1].label == 0


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda d: d.subset([]), "none given"),
        (lambda d: d.subset([10]), "indices of 10 tiles"),
        (lambda d: d[10], "tile 10 of 10"),
        (lambda d: d.split("train"), "no split 'train'"),
        (lambda d: d.with_modalities(["s3"]), "has s2, aerial"),
        (lambda d: d.labels(), "has no labels"),
        (lambda d: fraction(d, 0.1), "has no labels"),
    ],
)
def test_user_errors_say_what_there_is(act, message):
    with pytest.raises((ValueError, IndexError), match=message):
        act(Toy())


def test_constructor_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="no tile found"):
        Toy(0)
    with pytest.raises(ValueError, match="3 labels for 10 tiles"):
        Toy(task="multiclass", labels=torch.zeros(3))
    with pytest.raises(ValueError, match="belong together"):
        Toy(task="multiclass")


def test_nan_never_leaves_a_data_set():
    def spoil(row, tile):
        if row == 0:
            tile.values["s2"][1, 0, 0, 0] = float("nan")
        if row == 1:
            tile.values["s2"][:] = float("inf")
        if row == 2:
            tile.values["aerial"][0, 0, 0] = float("nan")

    data = Toy(spoil=spoil)
    batch = collate([data[i] for i in range(3)])
    assert all(torch.isfinite(v).all() for v in batch.values.values())
    assert batch.valid["s2"].tolist() == [[True, False, True, True], [False] * 4, [True] * 4]
    assert batch.valid["aerial"].tolist() == [True, True, False]
    assert batch.values["s2"][0, 1].eq(0).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda _, t: t.values.update(s2=torch.zeros(4, 3, 3, 2)), r"'s2' has shape .*2 bands \(B04, B08\)"),
        (lambda _, t: t.values.update(aerial=torch.zeros(1, 6, 6)), "6 x 4 pixels"),
        (lambda _, t: t.days.update(s2=torch.zeros(3)), "4 dates of data and 3 days"),
        (lambda _, t: t.days.clear(), "4 dates of data and no days"),
    ],
)
def test_data_that_break_their_promise_are_refused(spoil, message):
    with pytest.raises(ValueError, match=message) as error:
        Toy(spoil=spoil)[4]
    assert "tile4" in str(error.value)


def test_a_batch_with_nothing_observed_is_refused():
    data = Toy(spoil=lambda _, tile: tile.values.clear())
    with pytest.raises(ValueError, match="nothing was observed in 2 tiles"):
        collate([data[0], data[1]])


def test_statistics_over_observed_values():
    def spoil(row, tile):  # a large offset, and dates that do not count
        tile.values["s2"] += 1e5
        tile.values["s2"][1] = -1e9
        tile.valid["s2"] = torch.tensor([True, False, True, True])

    s2, aerial = fit_statistics(Toy(spoil=spoil))
    expected = np.arange(10).std()
    assert s2.mean == pytest.approx((1e5 + 4.5,) * 2, rel=1e-9)
    assert s2.std == pytest.approx((expected,) * 2, rel=1e-6)
    assert aerial.mean == pytest.approx((4.5,))
    with pytest.raises(ValueError, match="'s2' has no observed value in 10 tiles"):
        fit_statistics(Toy(spoil=lambda _, tile: tile.values["s2"].fill_(float("nan"))))


def test_a_constant_band_has_unit_std():
    s2, _ = fit_statistics(Toy(1))
    assert s2.std == (1.0, 1.0)


def test_fraction_keeps_class_shares():
    labels = torch.tensor([0] * 80 + [1] * 18 + [2] * 2)
    data = Toy(100, task="multiclass", classes=("a", "b", "c"), labels=labels)
    chosen = fraction(data, 0.1, seed=3)
    assert chosen == sorted(set(chosen)) == fraction(data, 0.1, seed=3)
    assert torch.bincount(labels[chosen]).tolist() == [8, 2, 1]
    assert chosen != fraction(data, 0.1, seed=4)
    assert fraction(data, 1.0) == list(range(100))


def test_fraction_stratifies_several_labels():
    generator = torch.Generator().manual_seed(0)
    rates = torch.tensor([0.6, 0.3, 0.1, 0.02])
    labels = (torch.rand(1000, 4, generator=generator) < rates).float()
    data = Toy(1000, task="multilabel", classes=tuple("abcd"), labels=labels)
    chosen = fraction(data, 0.1, seed=1)
    assert abs(len(chosen) - 100) <= 5
    wanted = 0.1 * labels.sum(0)
    assert (labels[chosen].sum(0) - wanted).abs().max() <= 3
    assert labels[chosen].sum(0).min() >= 1


def test_fraction_covers_the_range_of_a_target():
    target = torch.linspace(0, 1, 200).square()[:, None]
    data = Toy(200, task="regression", classes=("biomass",), labels=target)
    chosen = fraction(data, 0.1)
    assert len(chosen) == 20
    edges = torch.linspace(0, 1, 11).square()
    assert torch.histogram(target[chosen].flatten(), edges)[0].tolist() == [2.0] * 10


@pytest.mark.parametrize("share", [0, -0.1, 1.5, 10])
def test_fraction_refuses_a_share_outside_0_1(share):
    with pytest.raises(ValueError, match=r"0\.1 is 10 %"):
        fraction(Toy(task="multiclass", labels=torch.zeros(10, dtype=torch.long)), share)
