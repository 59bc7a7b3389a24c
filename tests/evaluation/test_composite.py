"""The image and the labels of a data set on the pixels of a map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from affine import Affine

from fusion.data import ArrayTiles, Geo, Modality
from fusion.evaluation.composite import label_classes, label_values, photograph, visible_bands
from fusion.evaluation.viewer import Ground

CRS, SIDE = "EPSG:32632", 8  # pixels of 10 m of a tile


def ground(rows: int, columns: int, pixel: float = 10.0, *, left: float = 500_000, top: float = 5_400_000) -> Ground:
    return Ground((rows, columns), Affine(pixel, 0, left, 0, -pixel, top), CRS, (pixel, pixel))


def scene(rows: int = 16, columns: int = 24) -> np.ndarray:
    """(3, rows, columns): red grows to the south, green to the east, blue is always the same."""
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return np.stack([row, column, np.full_like(row, 7)]).astype(np.float32)


def tiles(image: np.ndarray, bands: tuple[str, ...] = ("red", "green", "blue"), **more) -> ArrayTiles:
    corners = [(r, c) for r in range(0, image.shape[-2], SIDE) for c in range(0, image.shape[-1], SIDE)]
    values = np.stack([image[..., r : r + SIDE, c : c + SIDE] for r, c in corners])
    places = [Geo((10.0, 0, 500_000 + 10.0 * c, 0, -10.0, 5_400_000 - 10.0 * r), CRS) for r, c in corners]
    modality = Modality("eye", "image", bands, 10.0, 4)
    return ArrayTiles([modality], {"eye": values}, grid=(2, 2), places=places, **more)


def stretched(values: np.ndarray) -> np.ndarray:
    """Each band from its 2nd to its 98th percentile to 0..255."""
    low, high = np.percentile(values.reshape(-1, 3), [2, 98], axis=0)
    share = np.clip((values - low) / np.where(high > low, high - low, 1), 0, 1)
    return np.rint(255 * share).astype(np.uint8)


def test_the_image_lies_where_its_tiles_lie():
    photo = photograph(tiles(scene()), ground(16, 24))
    assert np.array_equal(photo.colours, stretched(np.moveaxis(scene(), 0, -1)))
    assert photo.seen.all()
    assert photo.note.startswith("True colour from eye (red, green, blue)")


def test_coarser_pixels_are_means_and_finer_ones_repeat():
    values = np.moveaxis(scene(), 0, -1)
    coarse = photograph(tiles(scene()), ground(4, 6, 40.0))
    assert np.array_equal(coarse.colours, stretched(values.reshape(4, 4, 6, 4, 3).mean((1, 3))))
    fine = photograph(tiles(scene()), ground(32, 48, 5.0))
    assert np.array_equal(fine.colours, stretched(values.repeat(2, 0).repeat(2, 1)))
    uneven = photograph(tiles(scene()), ground(11, 16, 15.0))
    assert uneven.seen.all()  # also where no whole number of pixels fits


def test_a_map_of_a_part_shows_that_part_and_beside_the_tiles_nothing():
    photo = photograph(tiles(scene()), ground(10, 10, left=500_200, top=5_399_960))
    assert photo.seen.tolist() == [[c < 4 for c in range(10)]] * 10
    assert photograph(tiles(scene()), ground(10, 10, left=700_000)) is None


def test_a_series_is_the_median_of_its_valid_dates():
    image = np.stack([scene(), scene() + 2, scene() + 4, np.full_like(scene(), np.nan)])  # no data
    corners = [(0, 0), (0, 8), (0, 16), (8, 0), (8, 8), (8, 16)]
    values = np.stack([image[:, :, r : r + SIDE, c : c + SIDE] for r, c in corners])
    places = [Geo((10.0, 0, 500_000 + 10.0 * c, 0, -10.0, 5_400_000 - 10.0 * r), CRS) for r, c in corners]
    modality = Modality("s2", "series", ("B04", "B03", "B02"), 10.0, 4)
    data = ArrayTiles(
        [modality],
        {"s2": values},
        grid=(2, 2),
        places=places,
        days={"s2": np.tile(np.arange(4), (6, 1))},
    )
    photo = photograph(data, ground(16, 24))
    assert np.array_equal(photo.colours, stretched(np.moveaxis(scene() + 2, 0, -1)))
    assert "median of the valid dates" in photo.note


@pytest.mark.parametrize(
    ("bands", "chosen", "true"),
    [
        (("B2", "B3", "B4", "B8"), (2, 1, 0), True),
        (("B1", "B2", "B3", "B4", "B5", "B7"), (2, 1, 0), True),  # the Thematic Mapper: red is B3
        (("B1", "B2", "B3", "B4", "B5", "B6", "B7"), (3, 2, 1), True),  # Landsat 8
        (("NIR", "G", "B", "R"), (3, 1, 2), True),
        (("VV", "VH"), (0,), False),
        (("x", "y", "z", "w"), (0, 1, 2), False),
    ],
)
def test_red_green_and_blue_are_known_by_name(bands, chosen, true):
    visible = visible_bands([Modality("m", "image", bands, 10.0, 4)])
    assert (visible.bands, visible.true) == (chosen, true)
    assert ("no true colours" in visible.told or "in grey" in visible.told) is not true


def test_what_is_no_true_colour_is_said():
    photo = photograph(tiles(scene()[:1], ("VV",)), ground(16, 24))
    assert photo.title == "Image"
    assert "eye VV in grey" in photo.note
    assert (photo.colours[..., 0] == photo.colours[..., 2]).all()


def test_of_very_many_tiles_an_even_part_is_read(monkeypatch):
    monkeypatch.setattr("fusion.evaluation.composite._TILES", (1, 3))
    photo = photograph(tiles(scene()), ground(16, 24))
    assert "3 of 6 tiles, evenly spaced" in photo.note
    assert photo.seen.sum() == 3 * SIDE**2


def test_labels_lie_on_the_map_by_the_name_of_their_class():
    truth = (np.arange(16)[:, None] // 4 + np.arange(24)[None] // 4) % 3
    truth[0, 0] = -1
    corners = [(r, c) for r in (0, 8) for c in (0, 8, 16)]
    maps = torch.tensor(np.stack([truth[r : r + 8, c : c + 8] for r, c in corners]))
    data = tiles(scene(), task="multiclass", classes=("a", "b", "c"), labels=maps)
    found, note = label_classes(data, ground(16, 24), ("c", "a"))
    expected = np.select([truth == 0, truth == 2], [1, 0], 255)
    assert np.array_equal(found, expected)
    assert note.startswith("Label maps of 6 of 6 tiles")
    whole = tiles(scene(), task="multiclass", classes=("a", "b"), labels=torch.tensor([0, 1, 0, 1, 0, 1]))
    found, note = label_classes(whole, ground(2, 3, 80.0), ("a", "b"))
    assert found.tolist() == [[0, 1, 0], [1, 0, 1]]
    assert note.startswith("One label a tile")


def test_quantities_of_tiles_and_of_pixels_lie_on_the_map():
    whole = tiles(scene(), task="regression", classes=("mass",), labels=torch.arange(6.0)[:, None])
    found, _ = label_values(whole, ground(4, 6, 40.0))
    assert found.tolist() == np.arange(6.0).reshape(2, 3).repeat(2, 0).repeat(2, 1).tolist()
