"""State dicts of the published OmniSat, in every form its code writes them, into our model."""

from __future__ import annotations

import logging

import pytest
import torch

from fusion.compat.omnisat import OriginalOmniSat
from fusion.data import Modality

AERIAL = Modality("aerial", "image", tuple("IGBR"), 0.2, 10)
S2 = Modality("s2", "series", ("B2", "B3", "B4"), 10, 1)
S1 = Modality("s1-asc", "series", ("VV", "VH"), 10, 1)
THREE = (AERIAL, S2, S1)


def build(modalities=THREE, **options):
    return OriginalOmniSat(modalities, 9, **{"dim": 32, "depth": 3, "heads": 2, **options}).eval()


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = build()
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture
def state(trained):
    return trained.original_state_dict()


def encoder_alone(state):
    return {name.removeprefix("encoder."): x for name, x in state.items() if name.startswith("encoder.")}


def same(model, other):
    """Whether two models give the same tokens."""
    torch.manual_seed(1)
    values = {
        "aerial": torch.randn(2, 4, 30, 30),
        "s2": torch.randn(2, 4, 3, 3, 3),
        "s1-asc": torch.randn(2, 4, 2, 3, 3),
    }
    days = {name: torch.tensor([[5, 40, 80, 120], [15, 60, 150, 250]]) for name in ("s2", "s1-asc")}
    with torch.no_grad():
        return torch.equal(model(values, days), other(values, days))


@pytest.mark.parametrize(
    "form",
    [
        lambda state: state,
        lambda state: {f"model.{name}": x for name, x in state.items()},
        lambda state: {"state_dict": {f"model.{name}": x for name, x in state.items()}, "epoch": 3},
        lambda state: {f"module.model.{name}": x for name, x in state.items()},
        lambda state: {f"model._orig_mod.{name}": x for name, x in state.items()},
        lambda state: {f"module._orig_mod.model.{name}": x for name, x in state.items()},
        lambda state: {name.replace("encoder.", "encoder._orig_mod."): x for name, x in state.items()},
    ],
    ids=["plain", "lightning", "checkpoint", "distributed", "compiled", "both", "encoder compiled"],
)
def test_pretraining_is_loaded_whole(trained, state, form):
    model = build()
    loaded = model.load_original(form(state))
    assert loaded.unused == loaded.kept == ()
    for (name, a), b in zip(model.state_dict().items(), trained.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_fine_tuned_and_scratch_models_give_their_encoder(trained, state, caplog):
    head = {"model.head.0.weight": torch.ones(15, 32), "model.head.0.bias": torch.ones(15)}
    tuned = {f"model.model.{name}": x for name, x in encoder_alone(state).items()}
    scratch = {f"model.{name}": x for name, x in state.items() if name.startswith("encoder.")}
    mlp = {f"model.mlp.mlp.{k}.{leaf}": torch.ones(1) for k in (0, 1) for leaf in ("weight", "bias")}
    for given, unused in (({**tuned, **head}, head), ({**scratch, **mlp}, mlp), (encoder_alone(state), ())):
        model = build()
        before = {name: x.clone() for name, x in model.decoders.state_dict().items()}
        with caplog.at_level(logging.WARNING):
            loaded = model.load_original(given)
        assert same(model, trained)
        assert loaded.unused == tuple(unused)
        assert {name.split(".")[0] for name in loaded.kept} == {"masked_token", "decoder"}
        assert all(torch.equal(x, before[name]) for name, x in model.decoders.state_dict().items())
    assert "2 entries are not used: model.head.0.weight, model.head.0.bias" in caplog.text
    assert "weights keep their values: masked_token, decoder.projector_aerial" in caplog.text


def test_modalities_that_the_model_lacks_are_left_out(trained, state):
    model = build((AERIAL, S2))
    loaded = model.load_original(state)
    assert loaded.kept == ()
    assert set(loaded.unused) == {name for name in state if ".projector_s1-asc." in name}
    alone = build((AERIAL, S2))
    alone.load_original({name: x for name, x in state.items() if "s1-asc" not in name})
    assert same(model, alone)
    for name, x in trained.encoders["s2"].state_dict().items():
        assert torch.equal(model.encoders["s2"].state_dict()[name], x)


def test_image_decoders_without_index_bypass_are_left_out(trained, state):
    other = {name: x for name, x in state.items() if not name.startswith("decoder.projector_aerial.")}
    for k in range(4):  # numbered one after another, where the others have an unpooling between
        other[f"decoder.projector_aerial.decode.{k}.weight"] = torch.ones(32, 32, 3, 3)
    model = build()
    before = model.decoders["aerial"].convolutions[0].weight.clone()
    loaded = model.load_original(other)
    assert loaded.unused == tuple(f"decoder.projector_aerial.decode.{k}.weight" for k in range(4))
    assert all(name.startswith("decoder.projector_aerial.") for name in loaded.kept)
    assert torch.equal(model.decoders["aerial"].convolutions[0].weight, before)
    assert torch.equal(model.decoders["s2"].weight, trained.decoders["s2"].weight)
    assert same(model, trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 64}, r"masked_token \(1, 1, 32\), here \(1, 1, 64\).* and \d+ more; build the model with"),
        ({"period": 734.0}, r"decoder\.projector_s2\.temp_encoding\.weight is of days with period 367, here 734"),
        ({"depth": 2, "modalities": (S2,)}, r"encoder\.blocks\.2\.attn\.qkv\.weight \(96, 32\).*have no place"),
        ({"depth": 4}, r"encoder\.blocks\.3\.attn\.q_learned.*have no place"),
        (
            {"modalities": (AERIAL, S2, Modality("s1-des", "series", ("VV", "VH"), 10, 1))},
            "missing: encoder.projector_s1-des",
        ),
    ],
)
def test_models_of_other_sizes_are_refused(state, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options).load_original(state)


def test_fewer_blocks_than_modalities_are_refused():
    with pytest.raises(ValueError, match="depth=2 is below the number of modalities, 3"):
        build(depth=2)


def test_patches_of_another_number_are_refused(state):
    model = OriginalOmniSat((S2,), 16, dim=32, depth=3, heads=2)
    with pytest.raises(ValueError, match=r"encoder\.pos_embed \(1, 10, 32\), here \(1, 17, 32\)"):
        model.load_original(state)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: {**s, "encoder.surprise": torch.ones(1)}, ValueError, r"encoder\.surprise \(1,\) has no place"),
        (lambda s: {"masked_token": s["masked_token"]}, ValueError, r"\d+ entries are missing: encoder\.cls_token"),
        (
            lambda s: {n: x for n, x in s.items() if not n.endswith("wv.weight")},
            ValueError,
            r"missing: .*attn\.wv\.weight",
        ),
        (
            lambda s: {n: x for n, x in s.items() if n != "decoder.projector_s2.decode.0.bias"},
            ValueError,
            r"missing: decoder\.projector_s2\.decode\.0\.bias",
        ),
        (lambda s: {**s, "model.masked_token": s["masked_token"]}, ValueError, "both masked_token"),
        (lambda s: {"epoch": 3, "weights": s}, TypeError, "epoch is of type int, not a tensor"),
        (lambda s: "last.ckpt", TypeError, "got a str; torch.load it first"),
    ],
)
def test_what_is_no_state_of_the_model_is_refused(state, change, error, message):
    model = build()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(error, match=message):
        model.load_original(change(state))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
