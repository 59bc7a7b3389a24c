import copy

import pytest
import torch
from torch import Tensor, nn

from fusion.context import ContextFusion, FusionConfig, SensorAutoencoder
from fusion.context.module import FusionPretraining, SensorPretraining
from fusion.context.samples import ContextSamples
from fusion.data import collate
from fusion.training import load_model, save_model

from .conftest import LANDSAT, S1, S2, small
from .golden import DAYS, in_original_order, sensor, window
from .golden import fill as fill_in_order


@pytest.fixture
def model(cube) -> ContextFusion:
    torch.manual_seed(0)
    sensors = (small(S2, cube), small(S1, cube, bottleneck=2))
    return ContextFusion(FusionConfig(sensors, embedding=5, dim=16, heads=2, mlp_dim=32)).eval()


def samples(cube, *sensors, **settings):
    return ContextSamples([cube], sensors, stride=3, **settings)


def test_has_the_papers_number_of_parameters(golden):
    wanted = golden("quantize_and_context")["peters_context_aware"]["param_counts"]
    model = ContextFusion(FusionConfig((sensor("s1"), sensor("s2", reduced=6))))
    unused = wanted["fusion_unused_bottleneck_expander"]  # the original has a layer that nothing calls
    assert sum(p.numel() for p in model.parameters()) == wanted["fusion_total"] - unused
    own = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.sensors.parameters())
    assert own == wanted["fusion_only"] - unused
    assert sum(p.numel() for p in model.transformer.parameters()) == wanted["fusion_transformer"]
    assert model.gap_table.weight.numel() == wanted["fusion_pair_pos"]


def test_fuses_and_decodes_like_the_original(golden):
    """Its numbers contain the encoders' attention across the batch, so that is put in by hand."""
    wanted = golden("quantize_and_context")["peters_context_aware"]["forward"]["fusion"]
    model = ContextFusion(FusionConfig((sensor("s1"), sensor("s2", reduced=6)))).eval()
    kinds = torch.empty(2, 128)
    fill_in_order(_as_registered(model, kinds))
    for name, kind in zip(("s1", "s2"), kinds, strict=True):
        model.kind[name].data.copy_(kind)
    valid = torch.ones(2, 11, dtype=torch.bool)
    with torch.no_grad():
        codes = {name: _across_the_batch(model.sensors[name]) for name in ("s1", "s2")}
        gaps = {"s1": torch.zeros(2, dtype=torch.int64), "s2": torch.tensor([1, 3])}
        there = {name: torch.ones(2, dtype=torch.bool) for name in codes}
        fused = model.fuse(codes, gaps, there)
        outputs = {n: s.decode(model.to_code[n](fused), DAYS, valid) for n, s in model.sensors.items()}
    torch.testing.assert_close(fused, torch.tensor(wanted["z_fused"]), atol=5e-6, rtol=0)
    for name, key in (("s1", "y1_center"), ("s2", "y2_center")):
        torch.testing.assert_close(outputs[name][:, 5, :, 7, 7], torch.tensor(wanted[key]), atol=5e-6, rtol=0)


def _across_the_batch(model: SensorAutoencoder) -> Tensor:
    frames = model.encode_frames(window(model.config.modality.channels).flatten(0, 1)).unflatten(0, (2, 11))
    x = (frames + model.day_table(DAYS) / 16).transpose(0, 1)
    x = nn.functional.selu(model.narrow(model.transformer(x).transpose(0, 1)))
    return nn.functional.softplus(model.to_code(nn.functional.selu(model.reduce(x.mT)).flatten(1)))


def _as_registered(model: ContextFusion, kinds: Tensor) -> list[tuple[bool, Tensor]]:
    encoders, decoders = [], []
    for name in ("s1", "s2"):
        autoencoder = model.sensors[name]
        listed = in_original_order(autoencoder)
        of_decoder = {id(p) for m in _decoding(autoencoder) for p in m.parameters()}
        table, rest = listed[0], listed[1:]
        in_encoder = [entry for entry in rest if id(entry[1]) not in of_decoder]
        inner = len(list(autoencoder.frame_encoder.parameters()))
        encoders += [*in_encoder[:inner], table, *in_encoder[inner:]]  # there the convolutions come before the table
        decoders += [entry for entry in rest if id(entry[1]) in of_decoder]
    own: list[nn.Module | Tensor] = [model.lift["s1"], model.lift["s2"], kinds, model.gap_table, model.transformer]
    own += [model.norm, model.to_code["s1"], model.to_code["s2"], model.to_embedding]
    listed = encoders + decoders
    for part in own:
        named = [("", part)] if isinstance(part, Tensor) else part.named_parameters()
        is_norm = isinstance(part, nn.LayerNorm)
        listed += [((is_norm or "norm" in n) and n.endswith("weight"), p) for n, p in named]
    return listed


def _decoding(model: SensorAutoencoder) -> list[nn.Module]:
    return [model.frame_decoder, model.widen, model.expand, model.from_code]


def test_an_absent_sensor_is_as_if_there_were_none(cube, model):
    s2, s1 = model.config.sensors
    batch = collate([samples(cube, s2, s1)[i] for i in range(4)])
    batch.valid["s1"][:2] = False
    batch.values["s1"][:2] = 1e4
    together = model(batch).embedding
    without = model(batch.select(["s2"])).embedding
    torch.testing.assert_close(together[:2], without[:2])
    assert (together[2:] - without[2:]).abs().max() > 1e-4


def test_the_days_between_the_sensors_matter(cube, model):
    batch = collate([samples(cube, *model.config.sensors)[i] for i in range(3)])
    before = model(batch).embedding
    batch.days["s1"] += 3
    assert (model(batch).embedding - before).abs().max() > 1e-4


def test_frozen_sensors_keep_every_bit(cube, model):
    batch = collate([samples(cube, *model.config.sensors)[i] for i in range(6)])
    model.freeze_sensors().train()
    before = copy.deepcopy(model.state_dict())
    module = FusionPretraining(model, lr=1e-2, warmup=0)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        module.losses(batch)[0].backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("sensors."), name
    assert not any(s.training for s in model.sensors.values())


def test_a_third_sensor_needs_only_its_autoencoder_and_the_fusion_layers(cube, model):
    """The promise of the two stages: Landsat joins, no old encoder or decoder changes, and Landsat is rebuilt."""
    torch.manual_seed(0)
    landsat = SensorAutoencoder(small(LANDSAT, cube, norm_first=True, variance_preserving_init=True))
    data = samples(cube, *model.config.sensors, landsat.config, longest_gap=16)
    batch = collate([data[i] for i in range(0, len(data), len(data) // 20)])

    def train(losses, parameters, steps):
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        values = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = losses()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        return values

    stage1 = SensorPretraining(landsat, warmup=0)
    errors = train(lambda: stage1.losses(batch)[0], landsat.parameters(), 80)
    assert errors[-1] < 0.7 * errors[0]

    extended = model.with_sensor(landsat)
    for name, tensor in model.state_dict().items():
        assert torch.equal(extended.state_dict()[name], tensor), name
    old = copy.deepcopy(extended.sensors.state_dict())
    extended.freeze_sensors().train()
    stage2 = FusionPretraining(extended, warmup=0)
    before = stage2.losses(batch)[2]["landsat/centre"].item()
    train(lambda: stage2.losses(batch)[0], [p for p in extended.parameters() if p.requires_grad], 80)
    after = stage2.losses(batch)[2]["landsat/centre"].item()
    assert after < 0.8 * before
    for name, tensor in extended.sensors.state_dict().items():
        assert torch.equal(tensor, old[name]), name
    assert extended(batch).embedding.shape == (len(batch), 5)


def test_checkpoints_rebuild_the_model(cube, model, tmp_path):
    batch = collate([samples(cube, *model.config.sensors)[i] for i in range(3)])
    save_model(tmp_path / "fusion.safetensors", model)
    loaded = load_model(tmp_path / "fusion.safetensors", system="context")
    assert loaded.config == model.config
    torch.testing.assert_close(loaded(batch).embedding, model(batch).embedding, rtol=0, atol=0)
    autoencoder = model.sensors["s2"]
    save_model(tmp_path / "s2.safetensors", autoencoder)
    assert load_model(tmp_path / "s2.safetensors", system="context-sensor").config == autoencoder.config


def test_refuses_foreign_autoencoders_and_batches(cube, model):
    s2, s1 = model.config.sensors
    with pytest.raises(ValueError, match="has the configuration"):
        ContextFusion(model.config, {"s2": SensorAutoencoder(small(S2, cube, frames=7))})
    with pytest.raises(ValueError, match="no sensors of the configuration"):
        ContextFusion(FusionConfig((s2,)), {"s1": SensorAutoencoder(s1)})
    landsat = small(LANDSAT, cube)
    with pytest.raises(ValueError, match="none of the sensors s2, s1"):
        model(collate([samples(cube, landsat)[0]]))
