import torch

from fusion.evaluation.temporal import TemporalRegressor, fit_regressor


def series(samples: int = 200):
    """The target is how much later dates exceed earlier ones: a matter of order alone."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 5, 3, generator=generator)
    days = torch.tensor([0, 10, 20, 30, 40]).repeat(samples, 1) + 18_000
    target = (x[:, 3:, 0].mean(1) - x[:, :2, 0].mean(1)).float()
    return x, days, torch.ones(samples, 5, dtype=torch.bool), target


def test_order_in_time_is_learned():
    x, days, valid, target = series()
    model = fit_regressor(x, days, valid, target, steps=250, dropout=0.0, dim=16)
    with torch.no_grad():
        error = (model(x, days, valid) - target).square().mean()
        reversed_days = days.flip(1)
        confused = (model(x, reversed_days, valid) - target).square().mean()
    assert error < 0.3 * target.var()
    assert confused > 3 * error  # without positions both would be the same


def test_absent_dates_change_nothing():
    x, days, valid, _ = series(8)
    torch.manual_seed(0)
    model = TemporalRegressor(3).eval()
    torch.nn.init.normal_(model.head[-1].weight)
    valid[:, 4] = False
    other = x.clone()
    other[:, 4] = 1e3
    torch.testing.assert_close(model(x, days, valid), model(other, days, valid))


def test_days_count_from_the_target():
    x, days, valid, _ = series(8)
    model = TemporalRegressor(3).eval()
    torch.nn.init.normal_(model.head[-1].weight)
    torch.testing.assert_close(model(x, days, valid), model(x, days + 365, valid))


def test_fitting_leaves_the_global_random_state_alone_and_repeats_itself():
    x, days, valid, target = series(40)
    torch.manual_seed(3)
    first = fit_regressor(x, days, valid, target, steps=5)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    second = fit_regressor(x, days, valid, target, steps=5)
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
