import pytest
import torch
import torch.nn.functional as F

from fusion.context import SensorAutoencoder, SensorConfig, paper_scale
from fusion.data import Modality

from .golden import DAYS, fill, in_original_order, sensor, window


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("key", "name", "reduced"), [("s1", "s1", 7), ("s2", "s2", 7), ("s2_released_ckpt", "s2", 6)])
def test_has_the_papers_number_of_parameters(golden, key, name, reduced):
    wanted = golden("quantize_and_context")["peters_context_aware"]["param_counts"][key]
    model = SensorAutoencoder(sensor(name, reduced=reduced))
    assert count(model) == wanted["total_params"]
    parts = {
        "transformer": model.transformer,
        "pos_embedding": model.day_table,
        "enc_cnn": model.frame_encoder,
        "dec_cnn": model.frame_decoder,
        "enc_token_linear": model.narrow,
        "enc_token_reducer": model.reduce,
        "enc_bottleneck": model.to_code,
    }
    assert {part: count(module) for part, module in parts.items()} == {part: wanted[part] for part in parts}


@pytest.mark.parametrize(("name", "reduced"), [("s1", 7), ("s2", 6)])
def test_decodes_like_the_original(golden, name, reduced):
    wanted = golden("quantize_and_context")["peters_context_aware"]["forward"][name]
    model = SensorAutoencoder(sensor(name, reduced=reduced)).eval()
    fill(in_original_order(model))
    with torch.no_grad():
        output = model.decode(torch.tensor(wanted["z_batch"]), DAYS, torch.ones(2, 11, dtype=torch.bool))
    torch.testing.assert_close(output[:, 5, :, 7, 7], torch.tensor(wanted["y_center"]), atol=3e-6, rtol=0)
    assert output.mean().item() == pytest.approx(wanted["y_mean"], abs=1e-6)


@pytest.mark.parametrize(("name", "reduced"), [("s1", 7), ("s2", 6)])
def test_encodes_like_the_original_if_attention_goes_across_the_batch(golden, name, reduced):
    """The original's encoder hands the transformer a time-first tensor. With that defect put in here, and only then,
    every other part of our encoder is compared with it."""
    wanted = golden("quantize_and_context")["peters_context_aware"]["forward"][name]
    model = SensorAutoencoder(sensor(name, reduced=reduced)).eval()
    fill(in_original_order(model))
    with torch.no_grad():
        frames = model.encode_frames(window(model.config.modality.channels).flatten(0, 1)).unflatten(0, (2, 11))
        x = frames + model.day_table(DAYS) / 16
        x = model.transformer(x.transpose(0, 1)).transpose(0, 1)
        x = F.selu(model.reduce(F.selu(model.narrow(x)).mT)).flatten(1)
        defective = F.softplus(model.to_code(x))
        ours = model.summarise(frames, DAYS, torch.ones(2, 11, dtype=torch.bool))
        alone = model.summarise(frames[:1], DAYS[:1], torch.ones(1, 11, dtype=torch.bool))
    torch.testing.assert_close(defective, torch.tensor(wanted["z_batch"]), atol=3e-6, rtol=0)
    torch.testing.assert_close(ours[:1], alone)
    assert (ours - defective).abs().max() > 1e-2  # attention across time is something else


@pytest.fixture
def model() -> SensorAutoencoder:
    torch.manual_seed(0)
    modality = Modality("s2", "series", ("a", "b"), 10.0, 7, mean=(1.0, 2.0), std=(2.0, 4.0))
    return SensorAutoencoder(
        SensorConfig(modality, frames=5, bottleneck=3, reduced=3, widths=(8, 8, 8, 4), depth=2, heads=4)
    ).eval()


def batch(samples: int = 3):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(samples, 5, 2, 7, 7, generator=generator)
    days = torch.tensor([[0, 6, 20, 31, 44]]).repeat(samples, 1)
    return values, days, torch.ones(samples, 5, dtype=torch.bool), torch.ones(values.shape, dtype=torch.bool)


def test_a_sample_does_not_depend_on_its_batch(model):
    values, days, valid, observed = batch()
    together = model(values, days, valid, observed)[0]
    alone = torch.cat([model(values[i : i + 1], days[:1], valid[:1], observed[:1])[0] for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_frames_of_a_sample_inform_each_other(model):
    values, days, valid, observed = batch()
    changed = values.clone()
    changed[:, 0] += 1
    before, after = model(values, days, valid, observed)[0], model(changed, days, valid, observed)[0]
    assert (before - after).abs().max() > 1e-4


def test_what_was_not_observed_changes_nothing(model):
    values, days, valid, observed = batch()
    valid[:, 4] = False
    observed[:, 4] = False
    observed[0, 2, 1, :3] = False
    other = torch.where(observed, values, 1e6)
    other_days = days.clone()
    other_days[:, 4] = 17
    torch.testing.assert_close(
        model(values, days, valid, observed)[0], model(other, other_days, valid, observed)[0], rtol=0, atol=0
    )


def test_a_sample_without_any_frame_is_finite(model):
    values, days, valid, observed = batch()
    valid[0], observed[0] = False, False
    assert all(torch.isfinite(part).all() for part in model(values, days, valid, observed))


def test_days_are_counted_from_the_first_frame_that_exists(model):
    values, days, valid, observed = batch()
    valid[:, 0], observed[:, 0] = False, False
    shifted = model(values, days + 18_000, valid, observed)[0]
    torch.testing.assert_close(model(values, days, valid, observed)[0], shifted, rtol=0, atol=0)


def test_a_smooth_table_tells_days_apart_and_keeps_neighbours_close():
    modality = Modality("s2", "series", ("a", "b"), 10.0, 7)
    table = SensorAutoencoder(SensorConfig(modality, smooth_days=True)).day_table.weight.detach()
    distance = torch.cdist(table, table)
    assert table.square().mean().item() == pytest.approx(1, rel=1e-5)
    apart = [distance.diagonal(days).mean() for days in (1, 3, 10, 40)]
    assert apart == sorted(apart)
    assert apart[0] < 0.5 * apart[2]
    assert (distance + 1e9 * torch.eye(len(table))).min() > 1


def test_after_a_variance_preserving_init_the_reconstruction_depends_on_the_window():
    values, days, valid, _ = batch(16)
    modality = Modality("s2", "series", ("a", "b"), 10.0, 7)
    settings = {"frames": 5, "widths": (16, 16, 16, 8), "depth": 1, "heads": 4, "norm_first": True}
    told = {}
    for preserving in (False, True):
        torch.manual_seed(0)
        model = SensorAutoencoder(SensorConfig(modality, **settings, variance_preserving_init=preserving)).eval()
        outputs = model.decode(model.encode(values, days, valid), days, valid)
        told[preserving] = outputs.std(0).mean().item()  # among samples, whose values vary by 1
    assert told[False] < 1e-4
    assert 0.02 < told[True] < 2


@pytest.mark.parametrize(
    ("window", "cnn"), [(1, True), (5, True), (7, True), (9, True), (13, True), (3, False), (7, False)]
)
def test_any_odd_window_is_rebuilt_in_its_size(window, cnn):
    modality = Modality("s", "series", ("a", "b", "c"), 10.0, window)
    config = SensorConfig(modality, frames=3, reduced=2, widths=(4, 4, 4, 4), heads=2, convolutional=cnn)
    values = torch.randn(2, 3, 3, window, window)
    days, valid = torch.tensor([[0, 5, 9]] * 2), torch.ones(2, 3, dtype=torch.bool)
    code, output, target = SensorAutoencoder(config)(values, days, valid, torch.ones(values.shape, dtype=torch.bool))
    assert output.shape == target.shape == values.shape
    assert code.shape == (2, 9)
    assert (code > 0).all()


def test_the_configuration_survives_plain_types():
    config = sensor("s2")
    assert SensorConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"frames": 10}, "no middle"), ({"heads": 7}, "do not divide"), ({"window": 3}, "at least 5")],
)
def test_refuses_what_cannot_be_built(fields, message):
    modality = Modality("s2", "series", ("a",), 10.0, fields.pop("window", 15))
    with pytest.raises(ValueError, match=message):
        SensorConfig(modality, **fields)


def test_the_papers_scale_maps_reflectance_and_backscatter_to_0_1():
    s1 = SensorAutoencoder(SensorConfig(paper_scale(Modality("s1", "series", ("VV",), 10.0, 15, "dB"))))
    values = torch.full((1, 1, 15, 15), 5.0)
    assert s1.normalise(values, torch.ones(values.shape, dtype=torch.bool)).max().item() == pytest.approx(1)
    assert s1.restore(torch.zeros(1, 1, 1)).item() == -30
    with pytest.raises(ValueError, match="no scale"):
        paper_scale(Modality("t", "series", ("T",), 10.0, 15, "K"))
