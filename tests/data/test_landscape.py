"""The synthetic landscape: seeded, georeferenced, and neither trivial nor hopeless."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import cross_val_score

from fusion.data import Landscape, LandscapeTiles, block_splits, collate, fit_statistics
from fusion.data.landscape import CLASSES
from fusion.data.landscape.climate import air_temperature


@pytest.fixture(scope="module")
def scene():
    return Landscape(96, seed=1, field_metres=90, fine=4)


@pytest.fixture(scope="module")
def tiles(scene):
    return LandscapeTiles(scene, block=3)


def test_the_same_seed_gives_the_same_ground_in_any_order(scene):
    again = Landscape(96, seed=1, field_metres=90, fine=4)
    radar_first = again.radar[1]
    assert np.array_equal(radar_first, scene.radar[1])
    assert np.array_equal(again.optical.values, scene.optical.values)
    assert np.array_equal(again.aerial, scene.aerial)
    other = Landscape(96, seed=2, field_metres=90, fine=4)
    assert not np.array_equal(other.class_share, scene.class_share)


def test_another_year_has_the_same_fields_and_another_season(scene):
    later = Landscape(96, seed=1, field_metres=90, fine=4, year=2024)
    assert np.array_equal(later.class_share, scene.class_share)
    assert not np.array_equal(later.optical.days, scene.optical.days)


def test_tiles_have_the_promised_shapes_units_and_range(tiles):
    tile = tiles[5]
    length = len(tile.days["s2"])
    assert tile.values["s2"].shape == (length, 10, 8, 8)
    assert tile.values["s1"].shape[1:] == (2, 8, 8)
    assert tile.values["aerial"].shape == (4, 32, 32)
    assert tiles.grid == (4, 4)
    assert all(m.patch_metres == 20 for m in tiles.modalities)
    aerial, s2, s1 = fit_statistics(tiles, tiles=30)
    assert 500 < s2.mean[2] < 3000
    assert -20 < s1.mean[0] < -5
    assert 20 < aerial.mean[0] < 230
    assert tile.days["s2"].min() >= 0
    assert tile.days["s2"].max() <= 364
    assert (tile.days["s2"].diff() > 0).all()


def test_nothing_unobserved_leaves_as_a_number(tiles):
    batch = collate([tiles[i] for i in range(len(tiles))])
    assert all(torch.isfinite(v).all() for v in batch.values.values())
    used = batch.values["s2"][batch.valid["s2"]]
    assert used.min() >= 1  # the fill value 0 of the swath edge was replaced or masked
    lengths = batch.valid["s2"].sum(dim=1)
    assert lengths.min() >= 5
    assert lengths.float().std() > 0  # clouds differ from tile to tile


def test_tiles_lie_where_their_pixels_do(scene, tiles):
    place = tiles[13].geo
    row, column = divmod(13, 12)
    assert place.crs == "EPSG:32632"
    assert place.transform == (10, 0, 600_000 + 80 * column, 0, -10, 5_400_000 - 80 * row)
    assert place == tiles.places()[13]
    s1 = tiles.with_modalities(["s1"])[13].values["s1"]
    window = scene.radar[1][:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
    assert np.array_equal(s1.numpy(), window)


def test_labels_follow_the_map(scene):
    share = scene.class_share[8:16, 16:24].mean(axis=(0, 1))
    row = 1 * 12 + 2
    assert LandscapeTiles(scene, block=3).labels()[row] == share.argmax()
    several = LandscapeTiles(scene, block=3, target="classes")
    assert several.task == "multilabel"
    assert np.array_equal(several.labels()[row].numpy(), share > 0.07)
    biomass = LandscapeTiles(scene, block=3, target="biomass")
    assert biomass.labels()[row, 0] == pytest.approx(scene.biomass[8:16, 16:24].mean(), rel=1e-4)
    assert biomass.classes == ("biomass",)
    with pytest.raises(ValueError, match="has no labels"):
        LandscapeTiles(scene, block=3, target=None).labels()


def test_every_pixel_is_shared_out_completely(scene):
    assert np.allclose(scene.class_share.sum(axis=-1), 1, atol=1e-5)
    mixed = (scene.class_share.max(axis=-1) < 0.999).mean()
    assert 0.02 < mixed < 0.5


def test_the_year_tells_classes_apart_and_no_single_date_does():
    """Linear discrimination of whole parcels under light and haze, without cloud and mixing."""
    scene = Landscape(200, seed=0, field_metres=100, fine=2)
    days = np.arange(20, 365, 15)
    canopy = scene._canopy(days)
    rng = np.random.default_rng(0)
    spectra = scene._spectra(canopy, rng)
    spectra = spectra * rng.normal(1, 0.1, spectra.shape[:2])[..., None] + rng.normal(0, 0.01, spectra.shape)

    def score(x):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        return cross_val_score(model, x, scene.parcel_class, cv=3).mean()

    year = score(spectra.reshape(len(spectra), -1))
    best_date = max(score(spectra[:, l]) for l in range(0, len(days), 2))
    assert year > 0.9
    assert best_date < 0.75


def test_splits_are_blocks_without_overlap(tiles):
    parts = {name: set(tiles.split(name).names) for name in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(tiles) == len(set.union(*parts.values()))
    assert len(parts["train"]) > 2 * len(parts["test"]) > 0
    of_tile = {name: split for split, names in parts.items() for name in names}
    first_block = {of_tile[f"r{8 * r:04d}c{8 * c:04d}"] for r in range(3) for c in range(3)}
    assert len(first_block) == 1
    blocks = tiles.blocks()
    together = {tiles.names.index(f"r{8 * r:04d}c{8 * c:04d}") for r in range(3) for c in range(3)}
    assert set(np.flatnonzero(blocks == blocks[0])) == together
    assert not set(tiles.split("test").blocks()) & set(tiles.split("train").blocks())
    with pytest.raises(ValueError, match="use smaller blocks"):
        block_splits(np.array([[0, 0], [0, 1]]), block=8)


def test_dates_are_limited_evenly_or_at_random(scene):
    few = LandscapeTiles(scene, block=3, max_dates=6)
    dates = few[40].days["s1"]
    assert len(dates) == 6
    assert dates.diff().max() < 150
    assert dates.equal(few[40].days["s1"])
    draws = {tuple(few[40, seed].days["s1"].tolist()) for seed in range(4)}
    assert len(draws) > 1
    assert few[40, 3].days["s1"].equal(few[40, 3].days["s1"])


def test_overlapping_tiles_and_terrain(scene):
    dense = LandscapeTiles(scene, ("terrain",), tile=16, patch=4, stride=8, block=3)
    assert len(dense) == 11 * 11
    assert dense[0].values["terrain"][:, 8:, 8:].equal(dense[12].values["terrain"][:, :8, :8])


def test_temperature_is_a_daily_series_of_the_patches(scene):
    data = LandscapeTiles(scene, ("temperature",), block=3)
    tile = data[13]
    assert tile.values["temperature"].shape == (365, 1, 4, 4)
    field = scene.temperature(slice(8, 16), slice(8, 16))
    assert tile.values["temperature"][100, 0, 1, 3].item() == pytest.approx(field[100, 2:4, 6:8].mean(), rel=1e-5)


def test_biomass_and_temperature_follow_elevation(scene):
    warm = scene.temperature(latitude=50)
    assert warm.shape == (365, 96, 96)
    high = scene.terrain.elevation.ravel()
    assert np.corrcoef(high, warm.mean(axis=0).ravel())[0, 1] < -0.9  # lapse rate
    assert warm[200].mean() > warm[20].mean() + 8
    assert scene.biomass.min() >= 0
    forest = scene.class_share[..., CLASSES.index("forest")] > 0.99
    wheat = scene.class_share[..., CLASSES.index("wheat")] > 0.99
    assert scene.biomass[forest].mean() > 5 * scene.biomass[wheat].mean()


def test_temperature_follows_the_formula_it_always_had(scene):
    """Experiments and figures from before latitudes and snow must come out the same to the bit."""
    season = -np.cos(2 * np.pi * (np.arange(365) - 17) / 365)
    trees = scene.class_share[..., CLASSES.index("orchard") :].sum(axis=-1)
    constant = 27.0 - 0.35 * 48.75 - 0.0065 * scene.terrain.elevation - 0.1 * scene.terrain.wetness
    wave = season[:, None, None] * (0.19 * 48.75 * (1 - 0.10 * trees))
    wanted = constant + wave + scene._weather[:, None, None] * (1 - 0.25 * trees)
    assert np.array_equal(scene.temperature(), wanted.astype(np.float32))


def test_production_of_a_window_is_that_of_the_whole(scene):
    days = np.arange(3, 366, 40)
    whole = scene.production(days)
    assert np.array_equal(scene.production(days, slice(8, 16), slice(40, 56)), whole[:, 8:16, 40:56])
    assert scene.production(days, latitude=65).sum() < whole.sum()  # colder


@pytest.fixture(scope="module")
def moved(scene):
    """Tiles whose blocks lie between Madrid and Oslo."""
    names = ("terrain", "location", "temperature")
    return LandscapeTiles(scene, names, block=2, latitudes=(40, 60), snow=4.0, target="production")


def test_blocks_of_ground_are_placed_at_drawn_latitudes(scene, moved):
    assert 40 <= moved.latitude.min() < 45
    assert 55 < moved.latitude.max() <= 60
    assert len(np.unique(moved.latitude)) == 36  # a block each
    tile = moved[13]  # row 1, column 1
    assert moved.latitude[13] == moved.latitude[0]
    assert tile.values["location"].shape == (2, 4, 4)
    assert tile.values["location"][0].unique().item() == pytest.approx(moved.latitude[13], abs=1e-5)
    assert tile.values["location"][1].unique().item() == pytest.approx(10.36, abs=0.01)
    again = LandscapeTiles(scene, ("location",), block=2, latitudes=(40, 60))
    assert np.array_equal(again.latitude, moved.latitude)
    stay = LandscapeTiles(scene, ("location",), block=2)[13].values["location"]
    assert stay[0, 0, 0].item() == pytest.approx(48.74, abs=0.01)
    latitude, yearly = torch.from_numpy(moved.latitude), moved.labels()[:, 0]
    assert 0.3 < yearly.mean() < 2.5  # kg of carbon
    assert torch.corrcoef(torch.stack([latitude.float(), yearly]))[0, 1] < -0.3


def test_the_truth_of_a_counterfactual_is_known(moved):
    part = moved.split("test")
    own, shares = part.air(3), part.tree_share()
    assert own == pytest.approx(part[3].values["temperature"].mean(dim=(1, 2, 3)).numpy(), abs=1e-4)
    assert shares.shape == (len(part),)
    assert (part.air(3, raised=200) < own - 1.2).all()
    north = part.air(3, north=5)
    assert north.mean() < own.mean() - 1.5
    assert np.ptp(north) > np.ptp(own)
    woods, open_land = (part.air(3, trees_of=int(i)) for i in (shares.argmax(), shares.argmin()))
    assert np.ptp(woods) < np.ptp(open_land)


def test_snow_cools_open_land_where_it_freezes_and_only_there():
    flat, open_land, woods = np.full((1, 1), 400.0), np.zeros((1, 1)), np.ones((1, 1))

    def cooling(latitude, trees):
        with_snow, without = (
            air_temperature(flat, 0 * flat, trees, np.zeros(365), latitude=latitude, snow=snow) for snow in (4, 0)
        )
        return (without - with_snow)[:, 0, 0]

    north = cooling(60, open_land)
    assert north[17] > 3.9
    assert north[200] < 0.01
    assert cooling(60, woods)[17] == pytest.approx(0.2 * north[17], rel=0.01)
    assert cooling(40, open_land).max() < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latitudes": (60, 40)}, r"within 0 to 70, not \(60, 40\)"),
        ({"tile": 9}, "multiple of the patch of 2"),
        ({"tile": 200}, "at most the landscape's 96"),
        ({"modalities": ["s3"]}, "it has aerial, s2, s1, terrain, temperature"),
        ({"target": "height"}, "not 'height'"),
    ],
)
def test_options_that_do_not_fit_are_refused(scene, options, message):
    with pytest.raises(ValueError, match=message):
        LandscapeTiles(scene, **options)


def test_a_landscape_too_small_is_refused():
    with pytest.raises(ValueError, match="no two parcels"):
        Landscape(20)
