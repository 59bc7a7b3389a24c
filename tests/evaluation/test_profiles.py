"""Pictures of profiles, images, counterfactuals and sensitivities."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.evaluation.profiles import (
    counterfactual_plot,
    image_plot,
    profile_plot,
    sensitivity_bars,
    sensitivity_dates,
)

DAYS = np.arange(0, 365, 30)
RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(5, 4, len(DAYS)))
PNG = b"\x89PNG"


def test_profiles_are_drawn_with_gaps_and_without_truth():
    truth = SAMPLES[0].copy()
    truth[1, 3:6] = np.nan
    whole = profile_plot(DAYS, truth, SAMPLES, names=list("abcd"), unit="degC", conditions="Seed 0.")
    assert whole.png.startswith(PNG)
    assert whole.caption == "Generated and observed profiles. 5 samples a place. Seed 0."
    assert whole == profile_plot(DAYS, truth, SAMPLES, names=list("abcd"), unit="degC", conditions="Seed 0.")
    alone = profile_plot(DAYS, None, SAMPLES[:1], expected=SAMPLES[1])
    assert alone.png.startswith(PNG)
    assert alone.png != whole.png


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"truth": SAMPLES[0, :2]}, r"truth \(2, 13\) must be \(n, T\)"),
        ({"names": ["a"]}, "and 1 names"),
        ({"days": DAYS[:5]}, r"days \(T,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(settings, told):
    given = {"days": DAYS, "truth": None, "samples": SAMPLES} | settings
    with pytest.raises(ValueError, match=told):
        profile_plot(**given)


def test_a_counterfactual_shows_what_is_not_determined_as_such():
    change = {"mean": RNG.normal(size=4), "amplitude": np.full(4, np.nan), "phase": np.array([1.0, np.nan, 2.0, 3.0])}
    shown = counterfactual_plot(DAYS, SAMPLES[0], SAMPLES[1], change, unit="degC", edit="raised", conditions="4 tiles.")
    assert shown.png.startswith(PNG)
    assert shown.caption.endswith("4 tiles.")


def test_images_of_one_quantity_stand_above_each_other():
    field = RNG.normal(size=(3, 4, 4))
    shown = image_plot({"observed": field, "median": field + 1, "spread": np.abs(field)}, names=list("abc"), unit="m")
    assert shown.png.startswith(PNG)
    assert image_plot({"observed": np.full((1, 2, 2), np.nan)}).png.startswith(PNG)


def test_shares_are_drawn_by_modality_band_and_date():
    bars = sensitivity_bars({"s2": 0.7, "s1": 0.3}, {"s2": {"B04": 0.4, "B08": 0.3}, "s1": {"VV": 0.3}})
    lines = sensitivity_dates({"s2": (DAYS, np.full(13, 1 / 13))}, conditions="Of the mean.")
    assert bars.png.startswith(PNG)
    assert lines.caption == "Sensitivity of every date, as shares of 1. Of the mean."
    with pytest.raises(ValueError, match="none of the modalities seen has dates"):
        sensitivity_dates({})
