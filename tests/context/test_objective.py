import pytest
import torch

from fusion.context.objective import (
    ContextObjective,
    centre_error,
    spectral_angle,
    structural_dissimilarity,
    window_weights,
)

from .golden import window

STAGES = {  # bands of the input, objective
    "stage1_default": (10, ContextObjective()),
    "fusion_s1": (2, ContextObjective.stage2(optical=False)),
    "fusion_s2": (10, ContextObjective.stage2(optical=True)),
}


def example(channels: int):
    """What the reference numbers were taken with."""
    target = window(channels)
    wave = torch.cos(0.01 * torch.arange(target.numel(), dtype=torch.float64)).view(target.shape)
    observed = torch.ones(target.shape, dtype=torch.bool)
    observed[:, 3] = False
    observed[0, ..., :4, :] = False
    return (target + 0.05 * wave).float(), target, observed


@pytest.mark.parametrize("stage", STAGES)
def test_losses_are_the_originals(golden, stage):
    reference = golden("quantize_and_context")["peters_context_aware"]["loss"][stage]
    channels, objective = STAGES[stage]
    output, target, observed = example(channels)
    losses = objective(output, target, observed)
    assert losses.total.item() == pytest.approx(reference["total"], rel=1e-5)
    assert losses.mae.item() == pytest.approx(reference["mae"], rel=2e-6)
    assert losses.ssim.item() == pytest.approx(reference["ssim"], rel=1e-5, abs=1e-12)
    assert losses.angle.item() == pytest.approx(reference["sam"], rel=3e-5, abs=1e-12)  # we keep off cos = 1
    everywhere = torch.ones_like(observed)  # the original's monitored error takes no mask
    assert centre_error(output, target, everywhere).item() == pytest.approx(reference["center_mae"], rel=2e-6)


def test_weights_are_the_originals(golden):
    reference = golden("quantize_and_context")["peters_context_aware"]["loss"]
    weights = window_weights(11, 15)
    wanted = torch.tensor(reference["spatial_weights_by_chebyshev_distance_0_to_7"])
    torch.testing.assert_close(weights[5, 7, 7:], wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(weights[:, 7, 7], torch.tensor(reference["temporal_weights"]), rtol=1e-6, atol=0)
    for stage, (_, objective) in STAGES.items():
        weights = window_weights(11, 15, centre=objective.centre)
        share = (weights[5, 7, 7] / weights.sum()).item()
        assert share == pytest.approx(reference[stage]["center_weight_share"], rel=1e-6)


def test_slower_decay_gives_the_neighbours_more_weight():
    flat = window_weights(5, 7, neighbour=1.0, space=1.0, time=1.0)
    torch.testing.assert_close(flat, torch.ones(5, 7, 7))


def test_unobserved_values_leave_error_and_angle_alone():
    output, target, observed = example(4)
    objective = ContextObjective(angle=1.0)
    spoilt = torch.where(observed, output, 1e3)
    clean, dirty = objective(output, target, observed), objective(spoilt, target, observed)
    for term in ("total", "mae", "angle"):
        torch.testing.assert_close(getattr(clean, term), getattr(dirty, term))


def test_a_batch_without_observations_costs_nothing():
    output, target, observed = example(2)
    output.requires_grad_()
    losses = ContextObjective(angle=1.0)(output, target, torch.zeros_like(observed))
    losses.total.backward()
    assert losses.total == 0
    assert torch.equal(output.grad, torch.zeros_like(output))


def test_the_angle_is_taken_on_physical_values():
    """Spectra that are multiples of each other have no angle between them, however they are standardised."""
    physical = torch.rand(2, 3, 4, 5, 5) + 0.5
    mean, std = torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1), torch.tensor([1.0, 0.5, 2, 3]).view(4, 1, 1)
    target, output = (physical - mean) / std, (2 * physical - mean) / std
    observed = torch.ones(physical.shape, dtype=torch.bool)
    losses = ContextObjective(angle=1.0)(output, target, observed, lambda z: z * std + mean)
    assert losses.angle < 1e-3
    assert ContextObjective(angle=1.0)(output, target, observed).angle > 0.1


def test_the_angle_has_a_bounded_gradient_where_spectra_agree():
    spectrum = torch.rand(1, 1, 6, 1, 1) + 0.1
    output = spectrum.clone().requires_grad_()
    spectral_angle(output, spectrum, torch.ones(1, 1, 1, 1)).backward()
    assert torch.isfinite(output.grad).all()


def test_identical_frames_are_not_dissimilar():
    frames = torch.rand(2, 3, 4, 9, 9)
    assert structural_dissimilarity(frames, frames).abs() < 1e-6
    assert structural_dissimilarity(frames, 1 - frames) > 0.5
