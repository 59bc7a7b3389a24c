"""The losses against their formulas written out, and what must not enter them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from fusion.data import TileBatch
from fusion.omnisat import OmniSat, PretrainingObjective
from fusion.omnisat.objectives import draw_masked
from fusion.omnisat.series import select_dates


@pytest.fixture
def system(config):
    """Model and objective without dropout, in training."""
    return OmniSat(config), PretrainingObjective(config)


def run(system, batch, seed=0):
    model, objective = system
    return objective(model, batch, torch.Generator().manual_seed(seed))


def hidden_by(tiles, modalities, patches, seed=0, ratio=0.75):
    return draw_masked(tiles, modalities, patches, ratio, torch.Generator().manual_seed(seed))


def test_masking_hides_the_share_of_each_tile_jointly():
    masked = hidden_by(200, 3, 36)
    assert masked.shape == (3, 200, 36)
    assert (masked.sum((0, 2)) == 81).all()  # 27 of 108 are kept
    by_modality = masked.sum(2)
    assert by_modality.min() < 27 < by_modality.max()  # the share of one modality varies
    assert masked.double().mean((1, 2)).sub(0.75).abs().max() < 0.02
    assert torch.equal(masked, hidden_by(200, 3, 36))


@pytest.mark.parametrize("targets", ["modality", "instance"])
@torch.no_grad()
def test_reconstruction_is_the_mean_over_masked_tokens(config, batch, targets):
    """Eq. 5, token by token."""
    model = OmniSat(config).eval()
    objective = PretrainingObjective(config, targets=targets).eval()
    data = batch(3)
    data.valid["s2"][1, 3:] = False
    data.valid["s2"][2, 1:] = False
    data.valid["aerial"][0] = False
    losses = objective(model, data, torch.Generator().manual_seed(0))

    seen = model.encode(data)
    masked = hidden_by(3, 3, 6)
    tokens = torch.where(masked[..., None], objective.mask_token, seen.tokens)
    encoding = model.combine(tokens, seen.valid).patches
    dates, chosen = select_dates(seen.attention["s2"], data.valid["s2"])
    errors = {name: [] for name in seen.names}
    for m, name in enumerate(seen.names):
        for b in range(3):
            for p in range(6):
                if not (masked[m, b, p] and seen.valid[m, b]):
                    continue
                token, decoder = encoding[b, p][None], objective.decoders[name]
                if name == "s2":
                    picked = dates[b][chosen[b]]
                    target = seen.patches[name][b, p][picked]
                    if targets == "instance":
                        whole = seen.patches[name][b][:, picked]  # (P, K, C)
                        var, mean = torch.var_mean(whole, (0, 2))
                        target = (target - mean[:, None]) / (var[:, None] + 1e-6).sqrt()
                    predicted = decoder(token, data.days[name][b, picked][None], torch.tensor([0]))[0]
                else:
                    row = b * 6 + p
                    target = seen.patches[name][row]
                    if targets == "instance":  # the single value of "dem" by itself is 0
                        var = target.var() if target.numel() > 1 else 0
                        target = (target - target.mean()) / (var + 1e-6) ** 0.5
                    predicted = decoder(token, [i[row : row + 1] for i in seen.indices[name]])[0]
                errors[name].append((predicted - target).square().mean())
    for name in seen.names:
        torch.testing.assert_close(losses.by_modality[name], torch.stack(errors[name]).mean())
    torch.testing.assert_close(losses.reconstruction, torch.stack([e for part in errors.values() for e in part]).mean())


def test_contrast_is_equation_3(system, batch):
    model, objective = system
    model.eval()
    objective.eval()
    data = batch(2)
    data.valid["dem"][1] = False
    with torch.no_grad():
        losses, seen = run(system, data), model.encode(data)
    unit = F.normalize(seen.tokens.double(), dim=-1)  # (M, B, P, D)
    names = [(m, b, p) for m in range(3) for b in range(2) for p in range(6) if seen.valid[m, b]]
    rows, hits = [], []
    for m, b, p in names:
        others = [(n, c, q) for n, c, q in names if (n, c) != (m, b)]
        scores = {o: (unit[m, b, p] @ unit[o]).item() / 0.1 for o in others}
        positive = [scores[o] for o in others if o[1:] == (b, p)]
        rows.append(
            torch.logsumexp(torch.tensor(list(scores.values())), 0) - torch.logsumexp(torch.tensor(positive), 0)
        )
        hits.append(max(positive) == max(scores.values()))
    torch.testing.assert_close(losses.contrastive, torch.stack(rows).mean(), atol=1e-4, rtol=1e-4)
    assert losses.retrieval.item() == pytest.approx(sum(hits) / len(hits), abs=1e-6)
    torch.testing.assert_close(losses.total, losses.contrastive + losses.reconstruction)


def test_what_is_missing_changes_no_loss_and_no_gradient(config, batch):
    results = []
    for filling in (0.0, 50.0):
        torch.manual_seed(2)
        system = OmniSat(config), PretrainingObjective(config)
        data = batch(3)
        data.valid["aerial"][0] = False
        data.valid["s2"][1] = False
        data.valid["s2"][2, 2:] = False
        data.values["aerial"][0] = filling
        data.values["s2"][1] = filling
        data.values["s2"][2, 2:] = filling
        losses = run(system, data)
        losses.total.backward()
        results.append((losses.total, [p.grad for part in system for p in part.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


def test_every_parameter_learns(system, batch):
    run(system, batch(3)).total.backward()
    for part in system:
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("names", [["s2"], ["aerial"], ["dem", "s2"]])
def test_fewer_modalities(system, batch, names):
    losses = run(system, batch(2).select(names))
    losses.total.backward()
    assert losses.total.isfinite()
    assert set(losses.by_modality) == set(names)
    assert (losses.contrastive == 0) == (len(names) == 1)


def test_a_batch_without_anything_gives_zero(system, batch):
    empty = batch(2)
    for valid in empty.valid.values():
        valid[:] = False
    losses = run(system, empty)
    assert losses.total == 0


def test_weights_and_reproducibility(config, batch):
    model, data = OmniSat(config).eval(), batch(2)
    objective = PretrainingObjective(config, contrastive_weight=0.5, reconstruction_weight=2.0).eval()
    with torch.no_grad():
        a, b, c = (run((model, objective), data, seed) for seed in (0, 0, 1))
    torch.testing.assert_close(a.total, 0.5 * a.contrastive + 2 * a.reconstruction)
    assert torch.equal(a.total, b.total)
    assert a.reconstruction != c.reconstruction


def test_tiles_of_one_patch(config):
    """Four tokens, one of them kept: a modality may have nothing to reconstruct."""
    image = config.modalities[0]
    fine = [dataclasses.replace(image, name=f"camera{i}") for i in range(4)]
    config = dataclasses.replace(config, modalities=tuple(fine), grid=(1, 1))
    system = OmniSat(config), PretrainingObjective(config)
    values = {m.name: torch.randn(2, 3, 10, 10) for m in fine}
    data = TileBatch(values, {}, {m.name: torch.ones(2, dtype=torch.bool) for m in fine})
    for seed in range(20):
        losses = run(system, data, seed)
        losses.total.backward()
        assert losses.total.isfinite()
    assert hidden_by(50, 1, 2, ratio=0.9).sum() == 50


def test_autocast(config, batch):
    """Half precision where it is cheap, float32 for every statistic."""
    model, objective, data = OmniSat(config), PretrainingObjective(config), batch(4, 20)
    data.values["s2"] += 100  # an offset that half precision would drown in
    expected = run((model, objective), data)
    with torch.autocast("cpu", torch.bfloat16):
        losses = run((model, objective), data)
    losses.total.backward()
    assert losses.total.dtype == torch.float32
    torch.testing.assert_close(losses.total, expected.total, atol=0, rtol=0.05)
    for part in (model, objective):
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in part.parameters())


def test_options_are_checked(config):
    with pytest.raises(ValueError, match=r"mask_ratio must lie between 0 and 1, not 1\.5"):
        PretrainingObjective(config, mask_ratio=1.5)
    with pytest.raises(ValueError, match="targets is 'modality' or 'instance', not 'raw'"):
        PretrainingObjective(config, targets="raw")
