"""Area-adjusted accuracy against a published example, a calculation by hand, and repeated sampling."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.evaluation import area_accuracy

CLASSES = ("deforestation", "forest gain", "stable forest", "stable non-forest")
# Table 8 of Olofsson et al. 2014: samples, rows the map and columns the reference; pixels of 30 m, 0.09 ha each.
COUNTS = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
PIXELS = [200_000, 150_000, 3_200_000, 6_450_000]
HECTARES = 0.09


def known(estimates):
    return [estimate.value for estimate in estimates], [estimate.half_width for estimate in estimates]


def test_the_example_of_olofsson_et_al_2014_comes_out():
    found = area_accuracy(COUNTS, PIXELS, CLASSES)
    assert found.overall.value == pytest.approx(0.947, abs=5e-4)
    assert found.overall.half_width == pytest.approx(0.018, abs=5e-4)
    users, users_half = known(found.users)
    assert users == pytest.approx([0.88, 0.73, 0.93, 0.96], abs=5e-3)
    assert users_half == pytest.approx([0.07, 0.10, 0.04, 0.02], abs=5e-3)
    producers, producers_half = known(found.producers)
    assert producers == pytest.approx([0.75, 0.85, 0.93, 0.96], abs=5e-3)
    # The article's text prints 0.23 and 0.01 for the second and the last; its equation 7 gives 0.25 and 0.02, which
    # the test below calculates by hand.
    assert producers_half == pytest.approx([0.21, 0.25, 0.03, 0.02], abs=5e-3)
    areas, areas_half = known(found.areas)
    assert np.multiply(areas, HECTARES) == pytest.approx([21_158, 11_686, 285_770, 581_386], abs=0.5)
    assert np.multiply(areas_half, HECTARES) == pytest.approx([6_158, 3_756, 15_510, 16_282], abs=1)  # there by 1.96
    assert found.proportions.sum() == pytest.approx(1)
    assert found.notes == ()


def test_the_producers_accuracy_of_forest_gain_by_hand():
    """Equation 7 for j = 2, term by term, in pixels."""
    ground = 150_000 * 55 / 75 + 6_450_000 * 1 / 325  # of forest gain: 129,846 pixels
    accuracy = 150_000 * 55 / 75 / ground
    omitted = 6_450_000**2 * (1 / 325) * (324 / 325) / 324  # the one sample mapped as stable non-forest
    variance = (150_000**2 * (1 - accuracy) ** 2 * (55 / 75) * (20 / 75) / 74 + accuracy**2 * omitted) / ground**2
    found = area_accuracy(COUNTS, PIXELS, CLASSES).producers[1]
    assert found.value == pytest.approx(accuracy)
    assert found.standard_error == pytest.approx(np.sqrt(variance))
    assert found.half_width == pytest.approx(0.254, abs=5e-4)


def test_intervals_are_cut_where_no_share_can_be():
    found = area_accuracy(COUNTS, PIXELS, CLASSES).producers[1]
    assert found.high == 1.0  # 0.85 + 0.25
    assert found.low == pytest.approx(found.value - found.half_width)


def test_repeated_samples_spread_as_the_standard_errors_say():
    """A map whose truth is known, sampled 2000 times: estimates are right on average, and their deviation is told."""
    rng = np.random.default_rng(0)
    truth = np.array([[0.9, 0.1, 0.0], [0.05, 0.85, 0.1], [0.0, 0.1, 0.9]])  # shares of each mapped class
    mapped = np.array([10.0, 30.0, 60.0])
    samples = np.stack([rng.multinomial(200, row, size=2000) for row in truth], axis=1)  # (2000, 3, 3)
    found = [area_accuracy(one, mapped) for one in samples]
    for name, expected in (("areas", mapped @ truth), ("producers", mapped * truth.diagonal() / (mapped @ truth))):
        values = np.array([[e.value for e in getattr(one, name)] for one in found])
        told = np.array([[e.standard_error for e in getattr(one, name)] for one in found])
        assert values.mean(0) == pytest.approx(expected, rel=0.01)
        assert told.mean(0) == pytest.approx(values.std(0), rel=0.06)


def test_areas_come_in_the_unit_they_were_given_in():
    pixels = area_accuracy(COUNTS, PIXELS, CLASSES)
    metres = area_accuracy(COUNTS, np.multiply(PIXELS, 900.0), CLASSES)
    assert metres.areas[0].value == pytest.approx(900 * pixels.areas[0].value)
    assert metres.areas[0].standard_error == pytest.approx(900 * pixels.areas[0].standard_error)
    assert metres.producers[0].standard_error == pytest.approx(pixels.producers[0].standard_error)


def test_a_class_that_is_not_mapped_still_has_an_area_on_the_ground():
    found = area_accuracy([[8, 2, 0], [1, 17, 2], [0, 0, 0]], [100, 300, 0], ("a", "b", "c"))
    assert found.areas[2].value == pytest.approx(300 * 2 / 20)
    assert found.areas[2].standard_error == pytest.approx(300 * np.sqrt(0.1 * 0.9 / 19))
    assert found.producers[2].value == 0  # there, and never mapped
    assert np.isnan(found.users[2].value)
    assert found.overall.value == pytest.approx((100 * 0.8 + 300 * 0.85) / 400)
    assert found.notes == ("The map has no area of c: no user's accuracy.",)


def test_one_sample_gives_an_estimate_without_a_standard_error():
    found = area_accuracy([[1, 0], [3, 27]], [10, 90], ("a", "b"))
    assert found.overall.value == pytest.approx(0.1 + 0.9 * 0.9)
    assert np.isnan(found.overall.standard_error)
    assert found.users[0].value == 1
    assert np.isnan([found.users[0].standard_error, found.areas[0].low, found.producers[1].half_width]).all()
    assert found.users[1].standard_error == pytest.approx(np.sqrt(0.9 * 0.1 / 29))
    assert "One sample only of what is mapped as a: no standard error" in found.notes[0]


def test_a_mapped_class_without_a_sample_leaves_all_but_the_others_users_accuracy_unknown():
    found = area_accuracy([[0, 0], [3, 27]], [10, 90], ("a", "b"))
    unknown = [found.overall, found.users[0], *found.producers, *found.areas]
    assert np.isnan([estimate.value for estimate in unknown]).all()
    assert found.users[1].value == 0.9
    assert found.notes[0].startswith("Mapped as a without a sample: what lies there is unknown")
    assert found.to_dict()["overall"]["value"] is None  # JSON has no NaN


def test_a_class_that_the_reference_never_has_is_told():
    found = area_accuracy([[9, 1, 0], [2, 8, 0], [1, 4, 0]], [50, 40, 10], ("a", "b", "c"))
    assert found.areas[2].value == 0
    assert np.isnan(found.producers[2].value)
    assert found.users[2].value == 0
    assert found.notes[0].startswith("No sample is c in the reference")


def test_the_table_is_what_a_paper_prints():
    table = area_accuracy(COUNTS, PIXELS, CLASSES).table("ha", HECTARES)
    assert table.columns[1:3] == ["mapped area (ha)", "area (ha)"]
    assert table.rows[0] == ["deforestation", "18,000", "21,158 ± 6,158", "0.88 ± 0.07", "0.75 ± 0.21"]
    assert table.caption.startswith("Overall accuracy 0.947 ± 0.018. Area-adjusted after Olofsson et al. 2014")


@pytest.mark.parametrize(
    ("counts", "mapped", "message"),
    [
        ([[1, 2, 3], [1, 2, 3]], [1, 1], r"counts of shape \(2, 3\) are no square"),
        ([[0.5, 1], [1, 2]], [1, 1], "whole and not negative, not 0.5"),
        ([[-1, 1], [1, 2]], [1, 1], "whole and not negative, not -1"),
        ([[1, 1], [1, 2]], [1, 1, 1], r"2 classes counted, mapped areas of shape \(3,\)"),
        ([[1, 1], [1, 2]], [1, -1], "mapped areas are 0 or more"),
        ([[1, 1], [1, 2]], [0, 0], "mapped areas are 0 or more and one of them is more"),
        ([[0, 0], [0, 0]], [1, 1], "no sample was counted"),
        ([[1, 1], [1, 2]], [1, 0], "samples were mapped as 1, of which the map has no area; rows of the counts are"),
    ],
)
def test_what_does_not_fit_is_refused(counts, mapped, message):
    with pytest.raises(ValueError, match=message):
        area_accuracy(counts, mapped)
    with pytest.raises(ValueError, match="level 95 is no share"):
        area_accuracy(COUNTS, PIXELS, level=95)
