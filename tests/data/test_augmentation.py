"""Augmented views: the same ground in every modality, its own seeds, nothing else."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from fusion.data import Augmentation, FlairDataset, Geo, Landscape, LandscapeTiles, Modality, Tile, TileDataset, collate

from .flair_archive import write_flair

ALL = Augmentation(flips=True, rotations=True)
ROWS, COLUMNS = 3, 3


class Numbered(TileDataset):
    """Every value tells its patch: 10 * row + column, and hundredths from pixel to pixel within the patch."""

    def __init__(self, grid=(ROWS, COLUMNS), label="map"):
        image = Modality("image", "image", ("a", "b"), 5.0, 4)
        series = Modality("series", "series", ("a",), 10.0, 2)
        coarse = Modality("coarse", "series", ("a",), 20.0, 1)
        labels = (
            torch.arange(4 * grid[0] * grid[1]).reshape(1, 2 * grid[0], 2 * grid[1])
            if label == "map"
            else torch.tensor([[1.0]])
        )
        kind = (
            {"task": "multiclass", "classes": tuple("abcd")}
            if label == "map"
            else {"task": "regression", "classes": ("x",)}
        )
        super().__init__(["t"], [image, series, coarse], grid, labels=labels, **kind)

    def _read(self, row, rng):
        tile = Tile("t", {})
        for modality in self.modalities:
            side = modality.patch_size
            y, x = np.mgrid[: self.grid[0] * side, : self.grid[1] * side]
            pixels = torch.tensor(10.0 * (y // side) + x // side + 0.01 * (y % side) + 0.001 * (x % side)).float()
            if modality.kind == "image":
                tile.values[modality.name] = pixels.expand(2, -1, -1)
            else:
                tile.values[modality.name] = pixels + 100.0 * torch.arange(20)[:, None, None, None]
                tile.days[modality.name] = torch.arange(20) * 7
                tile.valid[modality.name] = torch.arange(20) != 4
        observed = torch.ones_like(tile.values["series"], dtype=torch.bool)
        observed[:, :, :2, 2:4] = False  # patch (0, 1)
        tile.observed["series"] = observed
        tile.geo = Geo((20.0, 0.0, 0.0, 0.0, -20.0, 0.0), "EPSG:32632")
        return tile


def patches(values, side):
    """(rows, columns) of the patch that each pixel says it is from; every pixel of a patch must say the same."""
    said = values.reshape(-1, *values.shape[-2:])[0] % 100 // 1
    rows, columns = said.shape[0] // side, said.shape[1] // side
    cells = said.reshape(rows, side, columns, side).permute(0, 2, 1, 3).flatten(2)
    assert (cells == cells[..., :1]).all()
    return cells[..., 0]


def test_a_patch_is_the_same_ground_in_every_modality_and_in_the_map():
    data = Numbered().with_augmentation(ALL)
    plain = Numbered()[0]
    arrangements = set()
    for seed in range(60):
        tile = data[0, seed]
        ground = patches(tile.values["image"], 4)
        assert torch.equal(patches(tile.values["series"], 2), ground)
        assert torch.equal(patches(tile.values["coarse"], 1), ground)
        hidden = ~tile.observed["series"][0, 0].reshape(ROWS, 2, COLUMNS, 2).permute(0, 2, 1, 3).flatten(2)
        assert torch.equal(hidden.all(dim=2), ground == 1)
        assert torch.equal(hidden.any(dim=2), ground == 1)
        label = tile.label.reshape(ROWS, 2, COLUMNS, 2).permute(0, 2, 1, 3).flatten(2).sort(dim=2).values
        before = plain.label.reshape(ROWS, 2, COLUMNS, 2).permute(0, 2, 1, 3).flatten(2)
        rows, columns = (ground // 10).long(), (ground % 10).long()
        assert torch.equal(label, before[rows, columns])
        assert tile.days["series"].tolist() == plain.days["series"].tolist()
        assert tile.valid["series"].tolist() == plain.valid["series"].tolist()
        moved = not torch.equal(ground, patches(plain.values["image"], 4))
        assert (tile.geo is None) == moved
        arrangements.add(tuple(ground.flatten().tolist()))
    assert len(arrangements) == 8  # the symmetries of a square


@pytest.mark.parametrize(
    ("augmentation", "count"), [(Augmentation(flips=True), 4), (Augmentation(rotations=True), 4), (ALL, 8)]
)
def test_how_many_ways_a_tile_can_lie(augmentation, count):
    data = Numbered().with_augmentation(augmentation)
    assert len({data[0, seed].values["image"].numpy().tobytes() for seed in range(60)}) == count


def test_pixels_move_within_their_patches():
    """The pixels of a patch are mirrored too, not only the patches."""
    data = Numbered().with_augmentation(Augmentation(flips=True))
    plain = Numbered()[0].values["image"]
    expected = {plain.flip(axes).numpy().tobytes() for axes in ([], [-1], [-2], [-1, -2])}
    assert {data[0, seed].values["image"].numpy().tobytes() for seed in range(40)} == expected


def test_evaluation_views_and_labels_of_the_tile_stay():
    data = Numbered(label="tile").with_augmentation(Augmentation(True, True, 0.5))
    plain = Numbered(label="tile")[0]
    tile = data[0]
    assert all(torch.equal(tile.values[name], plain.values[name]) for name in plain.values)
    assert tile.geo == plain.geo
    assert all(data[0, seed].label.tolist() == [1.0] for seed in range(8))


def test_an_augmentation_that_does_nothing_leaves_every_bit(tmp_path):
    write_flair(tmp_path, train=["D004_2021"], test=[], images=1)
    plain = FlairDataset(tmp_path, labels="map", max_dates=2)
    idle, moved = (plain.with_augmentation(Augmentation(flips=flips)) for flips in (False, True))
    for seed in range(6):
        before, after, flipped = plain[0, seed], idle[0, seed], moved[0, seed]
        for name in ("aerial", "s2"):
            assert torch.equal(before.values[name], after.values[name])
            assert any(
                torch.equal(before.values[name].flip(axes), flipped.values[name]) for axes in ([], [-1], [-2], [-1, -2])
            )
        assert torch.equal(before.label, after.label)
        assert torch.equal(before.days["s2"], flipped.days["s2"])  # the reader draws what it drew
        assert (after.geo, after.origin) == (before.geo, before.origin)


def test_dates_are_left_out_with_their_values():
    data = Numbered().with_augmentation(Augmentation(date_dropout=0.4))
    plain = Numbered()[0]
    share = []
    for seed in range(50):
        tile = data[0, seed]
        for name in ("series", "coarse"):
            kept = (tile.days[name] // 7).tolist()
            assert 4 in kept  # not valid: nothing to drop
            assert torch.equal(tile.values[name], plain.values[name][kept])
            assert torch.equal(tile.valid[name], plain.valid[name][kept])
            share.append((len(kept) - 1) / 19)
        assert torch.equal(tile.observed["series"], plain.observed["series"][(tile.days["series"] // 7).tolist()])
        assert torch.equal(tile.values["image"], plain.values["image"])
        assert tile.geo == plain.geo
    assert np.mean(share) == pytest.approx(0.6, abs=0.03)
    assert any(not torch.equal(data[0, s].days["series"], data[0, s].days["coarse"]) for s in range(5))


def test_one_valid_date_stays():
    data = Numbered().with_augmentation(Augmentation(date_dropout=0.999))
    kept = [data[0, seed].valid["series"] for seed in range(30)]
    assert {int(valid.sum()) for valid in kept} == {1}
    assert len({int(data[0, seed].days["series"][valid][0]) for seed, valid in enumerate(kept)}) > 5


def test_the_same_seed_is_the_same_view_in_every_process():
    data = Numbered().with_augmentation(Augmentation(True, True, 0.3)).subset([0])
    again = pickle.loads(pickle.dumps(data))
    for seed in range(10):
        first, second = data[0, seed], again[0, seed]
        assert all(torch.equal(first.values[name], second.values[name]) for name in first.values)


def test_views_of_real_readers_make_batches():
    tiles = LandscapeTiles(Landscape(96, seed=1, field_metres=90, fine=4), block=3)
    data = tiles.with_augmentation(Augmentation(True, True, 0.2)).split("train").with_modalities(["s2", "aerial"])
    batch = collate([data[i, 7] for i in range(4)])
    assert batch.values["s2"].shape[2:] == (10, 8, 8)
    assert any(place is None for place in batch.geo)


def test_what_cannot_be_is_refused():
    oblong = Numbered((2, 3))
    with pytest.raises(ValueError, match="rotations need a square grid, this one is 2 x 3 patches; take flips alone"):
        oblong.with_augmentation(ALL)
    flipped = oblong.with_augmentation(Augmentation(flips=True))
    assert flipped[0, 1].values["image"].shape == (2, 8, 12)
    for probability in (1.0, -0.1):
        with pytest.raises(ValueError, match="date_dropout is a probability from 0 to below 1"):
            Augmentation(date_dropout=probability)
