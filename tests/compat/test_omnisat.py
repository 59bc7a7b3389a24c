"""The published model's own numbers, which are float32's on one processor, against ours in float64.

Of values up to 8, another processor's float32 is up to 4e-5 from them, float64 within 1.3e-5: tolerances are 5e-6
and 5e-6 relative on values, and 1e-6 relative on sums of absolute values.
"""

import math

import pytest
import torch

from fusion.compat.omnisat import (
    OriginalOmniSat,
    image_loss,
    retrieval_accuracy,
    select_dates,
    sequence_buckets,
    series_loss,
)
from fusion.data import Modality
from fusion.kernels import euclidean_buckets, patch_info_nce
from fusion.layers import encode_days
from fusion.omnisat.image import ImageDecoder, ImageEncoder, patchify_image
from fusion.omnisat.series import SeriesEncoder, patchify_series

AERIAL = Modality("aerial", "image", tuple("IGBR"), 0.2, 50)
S2 = Modality("s2", "series", tuple(f"B{i}" for i in range(10)), 10, 1)
S1 = Modality("s1-asc", "series", ("VV", "VH"), 10, 1)


def ramp(*shape):
    return torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)


def rule(name, shape, strong=False):
    """The weight that a parameter of the original is filled with."""
    count = math.prod(shape)
    v = ((7919 * torch.arange(count) + 31 * count) % 10007).double() / 10007 - 0.5
    v = v.reshape(shape)
    if name.endswith(("cls_token", "pos_embed", "q_learned", "masked_token")):
        v = 0.04 * v
    elif strong and name.endswith("lookup_table_weight"):
        v = 8 * v
    elif len(shape) >= 2:
        v = 2 * v / math.sqrt(count / shape[0])
    elif name.endswith("running_var"):
        v = 1 + 0.5 * v
    elif name.endswith(("bias", "running_mean")):
        v = 0.1 * v
    else:
        v = 1 + 0.1 * v
    return v.float()


def fill(model, strong=False):
    """Fills a model by the rule, through the original's names."""
    state = model.original_state_dict()
    filled = {
        n: p if n.endswith(("num_batches_tracked", "temp_encoding.weight")) else rule(n, tuple(p.shape), strong)
        for n, p in state.items()
    }
    model.load_original(filled)
    return model.double().eval()


def fill_module(module):
    """Fills a module whose own parameters have the original's shapes."""
    state = module.state_dict()
    module.load_state_dict({n: p if n.endswith("tracked") else rule(n, tuple(p.shape)) for n, p in state.items()})
    return module.double().eval()


@pytest.fixture(scope="module")
def reference(golden):
    return golden("omnisat")


@pytest.fixture(scope="module")
def inputs():
    values = {
        "aerial": (0.0137 * ramp(2, 4, 300, 300)).sin().float(),
        "s2": (0.0211 * ramp(2, 6, 10, 6, 6)).cos().float(),
        "s1-asc": (0.0173 * ramp(2, 5, 2, 6, 6) + 0.5).sin().float(),
    }
    values["s2"][1, 4:] = 0
    values["s1-asc"][1, 3:] = 0
    values = {name: value.double() for name, value in values.items()}
    days = {
        "s2": torch.tensor([[5, 40, 80, 120, 200, 300], [15, 60, 150, 250, 0, 0]]),
        "s1-asc": torch.tensor([[3, 77, 140, 222, 365], [30, 90, 180, 0, 0]]),
    }
    return values, days


@pytest.fixture(scope="module")
def model():
    return fill(OriginalOmniSat((AERIAL, S2, S1), 36))


def agrees(tensor, expected):
    """Compares with {shape, sum, abs_sum, first, last} of a tensor."""
    tensor = tensor.detach()
    assert list(tensor.shape) == expected["shape"]
    flat = tensor.contiguous().flatten()
    first, last = (torch.tensor(expected[end], dtype=torch.float64) for end in ("first", "last"))
    torch.testing.assert_close(flat[: len(first)].double(), first, atol=5e-6, rtol=5e-6)
    torch.testing.assert_close(flat[-len(last) :].double(), last, atol=5e-6, rtol=5e-6)
    assert flat.double().abs().sum().item() == pytest.approx(expected["abs_sum"], rel=1e-6)
    assert flat.double().sum().item() == pytest.approx(expected["sum"], abs=max(1e-3, 1e-6 * expected["abs_sum"]))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


# G1


@pytest.mark.parametrize("size", ["3,2,2,4", "3,2,3,4", "2,3,4,8", "3,4,6,16", "3,1,3,4"])
def test_contrastive(reference, size):
    m, b, p, d = map(int, size.split(","))
    expected = reference["contrastive"][f"M={m},B={b},P={p},D={d}"]
    tokens = torch.stack([(0.1 * ramp(b, p, d) * (i + 1) + i).sin() for i in range(m)]).float()
    for exclude, key in (("tile", "MILNCE"), ("self", "naive"), ("modality", "nointra")):
        loss = patch_info_nce(tokens, exclude=exclude)
        torch.testing.assert_close(loss.item(), expected[key], atol=5e-6, rtol=0)
    literal = -patch_info_nce(tokens.double(), normalize=False).item()
    assert literal == pytest.approx(expected["Eq3_literal_raw_dot_no_minus"], rel=1e-6)
    cosines = torch.nn.functional.normalize(tokens.flatten(0, 2), dim=1)
    row = torch.tensor(expected["logits_row0"])
    torch.testing.assert_close((cosines @ cosines[0])[: len(row)], row, atol=5e-6, rtol=0)


def test_contrastive_gradient(reference):
    expected = reference["contrastive"]["gradient M=3,B=2,P=3,D=4"]
    tokens = torch.stack([(0.1 * ramp(2, 3, 4) * (i + 1) + i).sin() for i in range(3)]).float()
    with torch.enable_grad():
        tokens.requires_grad_()
        patch_info_nce(tokens).backward()
    for gradient, name in zip(tokens.grad, ("aerial", "s2", "s1-asc"), strict=True):
        torch.testing.assert_close(gradient.flatten(), torch.tensor(expected[name]), atol=5e-6, rtol=0)


def test_contrastive_of_equal_tokens(reference):
    loss = patch_info_nce(torch.ones(3, 2, 3, 4))
    assert loss.item() == pytest.approx(reference["contrastive"]["all_equal M=3,B=2,P=3"]["MILNCE"], abs=5e-6)


# G2


def test_position_buckets(reference):
    expected = reference["rpe"]
    assert euclidean_buckets(6, 6, extra=1).tolist() == expected["bucket_6x6_skip1_37x37"]
    sequence = sequence_buckets(109)
    assert sequence[9].tolist() == expected["bucket_109x109_row9"]
    assert sequence[50].tolist() == expected["bucket_109x109_row50"]
    counts = {str(k): int((sequence == k).sum()) for k in sequence.unique().tolist()}
    assert counts == expected["bucket_109x109_hist"]
    same_patch = next(v for k, v in expected.items() if k.startswith("same_patch"))
    pairs = [[int(sequence[1 + a + p, 1 + b + p]) for a, b in ((0, 36), (0, 72), (36, 72))] for p in range(36)]
    assert pairs == same_patch
    place = torch.arange(36).repeat(3)
    true = euclidean_buckets(6, 6, extra=0)[place][:, place]
    agreement = (sequence[1:, 1:] == true).double().mean().item()
    assert agreement == pytest.approx(expected["agreement_code_vs_position_based_M3_P36"], abs=1e-7)


def test_square_sequences_are_refused():
    with pytest.raises(ValueError, match="square number of tokens, 100"):
        sequence_buckets(100)


def test_position_bias(reference, model):
    query = (0.0123 * ramp(2, 16, 109, 16)).sin().float().double()
    bias = (query @ model.blocks[0].attention.table[0]).gather(
        -1, sequence_buckets(109).expand(2, 16, -1, -1)
    )  # (2, 16, 109, 109)
    agrees(bias, reference["modules_tsaits"]["rpe_k of block0 on q=(2,16,109,16)=sin(0.0123 i): value"])


# G3


@pytest.mark.parametrize("period", [367, 734])
def test_day_encoding(reference, period):
    expected = reference["positional_encoding"]
    key = "LTAE d=16 T=734 day->16 values" if period == 734 else "LTAE d=16 (per head) T=367 day->16 values"
    for day, values in expected[key].items():
        code = encode_days(torch.tensor(float(day)), 16, period=period)
        torch.testing.assert_close(code, torch.tensor(values), atol=5e-6, rtol=0)
    table = encode_days(torch.arange(period), 256, period=period)
    total = expected[f"temporal decoder table T={period} sum over all"]
    assert table.double().sum().item() == pytest.approx(total, abs=1e-3)
    if period == 367:
        for key, entries in (("first 8", slice(0, 8)), ("entries 100,101,254,255", [100, 101, 254, 255])):
            for day, values in expected[f"temporal decoder table T=367 D=256: day->{key}"].items():
                torch.testing.assert_close(table[int(day), entries], torch.tensor(values), atol=5e-6, rtol=0)


# G4


def test_date_selection(reference):
    expected = reference["date_selection"]
    days = torch.tensor(expected["dates"])
    selected = select_dates(torch.tensor(expected["attention"]), days)
    assert selected.tolist() == expected["selected (sample,date index)"]
    counts = expected["number selected for T valid dates (distinct attentions)"]
    for length, count in counts.items():
        attention = torch.rand(1, int(length), generator=torch.Generator().manual_seed(3))
        assert len(select_dates(attention, torch.arange(1, int(length) + 1)[None])) == count


# G5


def test_reconstruction_losses(reference):
    expected = reference["reconstruction"]
    loss = image_loss((0.11 * ramp(2, 4, 3, 4, 4)).cos().float(), (0.37 * ramp(2, 3, 8, 8)).sin().float(), 4)
    assert loss.item() == pytest.approx(expected["aerial"]["loss"], abs=5e-6)
    masked = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]])
    i = ramp(2, 4, 3, 2, 2)
    series = ((0.29 * i).sin() + 0.1 * i.cos()).float()
    selected = torch.tensor([[0, 1], [0, 3], [1, 2]])
    loss = series_loss((0.17 * ramp(3, 3, 4)).cos().float(), series, selected, masked, 1)
    assert loss.item() == pytest.approx(expected["sentinel"]["loss"], abs=5e-6)
    series = (0.07 * ramp(2, 3, 2, 8, 8)).sin().float()
    loss = series_loss((0.05 * ramp(2, 32, 4)).cos().float(), series, torch.tensor([[0, 2], [1, 0]]), masked, 4)
    assert loss.item() == pytest.approx(expected["sentinel_pastis"]["loss"], abs=5e-6)


# G6


@pytest.mark.parametrize(("name", "short"), [("s2", "s2"), ("s1-asc", "s1")])
def test_series_encoder(reference, model, inputs, name, short):
    expected = reference["modules_tsaits"]
    values, days = inputs
    tokens, attention = model.encoders[name](patchify_series(values[name], 1), days[name].double())
    key = "LTAE s2 out (B,256,6,6)" if short == "s2" else "LTAE s1 out"
    agrees(tokens.transpose(1, 2).unflatten(2, (6, 6)), expected[key])
    key = "LTAE s2 attention (B,T) head+pixel mean" if short == "s2" else "LTAE s1 attention"  # names as stored
    torch.testing.assert_close(attention, torch.tensor(expected[key], dtype=torch.float64), atol=5e-6, rtol=5e-6)


def test_image_encoder(reference, model, inputs):
    expected = reference["modules_tsaits"]
    patches = patchify_image(inputs[0]["aerial"], 50)
    tokens, indices = model.encoders["aerial"](patches)
    agrees(tokens.view(2, 36, 256), expected["image tokens (B,36,256)"])
    shapes = [list(index.shape) for index in reversed(indices)]
    assert shapes == expected["image pool indices shapes (last pool first)"]
    assert indices[-1][0, :8, 0, 0].tolist() == expected["image last-pool indices [patch 0, ch 0..7]"]


@pytest.mark.parametrize("strong", [False, True])
def test_blocks_and_whole_encoder(reference, inputs, strong):
    """G6 and, with position tables that matter, G12."""
    expected = reference["modules_tsaits_strong_rpe" if strong else "modules_tsaits"]
    model = fill(OriginalOmniSat((AERIAL, S2, S1), 36), strong)
    x = (0.0123 * ramp(2, 109, 256)).sin().float().double()
    agrees(model.blocks[0](x), expected["RPEBlock0 on (2,109,256)=sin(0.0123 i)"])
    crossed = model.cross(x, model.query + model.query_position, model.key_position, None)
    agrees(crossed, expected["CrossRPEBlock on the same input"])
    encoded = model(*inputs)
    agrees(encoded, expected["full encoder forward (B,37,256)"])
    alone = fill(OriginalOmniSat((S2,), 36), strong)
    key = next(k for k in expected if k.startswith("mono-modal S2"))
    agrees(alone(*inputs), expected[key])
    if not strong:
        first = expected["full encoder cls token b=0 first 8"]
        torch.testing.assert_close(encoded[0, 0, :8], torch.tensor(first, dtype=torch.float64), atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize("strong", [False, True])
def test_true_positions(reference, inputs, strong):
    """The same weights with the paper's relative positions, as the combiner of fusion.omnisat has them."""
    expected = reference["derived_patch_layout (NOT from the original code)"]
    expected = expected["strong RPE (tables 8*v)"] if strong else expected
    model = fill(OriginalOmniSat((AERIAL, S2, S1), 36), strong)
    for block in model.blocks:
        block.attention.bucket = euclidean_buckets(6, 6, extra=1)
    x = (0.0123 * ramp(2, 109, 256)).sin().float().double()
    out = model.blocks[0](x, key_position=model.key_position)
    agrees(out, expected["RPEBlock0 on (2,109,256)=sin(0.0123 i)"])


# G7


def test_pretraining(reference, model, inputs):
    expected = reference["modules_tsaits"]
    noise = ((ramp(2, 108) + 1) * 0.6180339887498949) % 1
    out = model.pretrain(*inputs, noise)
    for tile in (0, 1):
        kept = (~out.masked[tile]).nonzero().flatten().tolist()
        assert kept == expected[f"kept token ids b={tile}"]
    agrees(out.tokens, expected["mm_tokens"])
    agrees(out.reconstructed["aerial"], expected["reconstruct aerial (B,36,4,50,50)"])
    for name in ("s2", "s1-asc"):
        assert out.selected[name].tolist() == expected[f"reconstruct {name} selected (sample,date)"]
        agrees(out.reconstructed[name], expected[f"reconstruct {name} (K,C,36)"])
    for name, value in expected["losses"].items():
        assert out.losses[name].item() == pytest.approx(value, abs=5e-6, rel=1e-6), name


# G8


def test_pastis_modules(reference):
    expected = reference["modules_pastis"]
    series = patchify_series((0.05 * ramp(2, 3, 3, 8, 8)).sin().float().double(), 4)
    encoder = fill_module(SeriesEncoder(48, period=734.0, normalise=False))
    tokens, attention = encoder(series, torch.tensor([[10.0, 300, 600], [40, 400, 700]], dtype=torch.float64))
    key = next(k for k in expected if k.startswith("LTAE2dPastis"))
    agrees(tokens.transpose(1, 2), expected[key])
    torch.testing.assert_close(
        attention, torch.tensor(expected["attention"], dtype=torch.float64), atol=5e-6, rtol=5e-6
    )
    image = fill_module(ImageEncoder(3, 40).to(memory_format=torch.contiguous_format))
    tokens, indices = image(patchify_image((0.0137 * ramp(2, 3, 80, 80)).sin().float().double(), 40))
    key = next(k for k in expected if k.startswith("PatchEmbedPastis"))
    agrees(tokens.view(2, 4, 256), expected[key])
    decoder = fill_module(ImageDecoder(3, 40).to(memory_format=torch.contiguous_format))
    decoded = decoder(tokens, indices)
    agrees(decoded.view(2, 4, 3, 40, 40), expected["decoder recon (2,4,3,40,40)"])


# G9


@pytest.mark.parametrize("name", ["tsaits", "flair", "pastis"])
def test_parameter_counts(reference, name):
    expected = reference["parameter_counts"][name]
    modalities, patches, period = {
        "tsaits": ((AERIAL, S2, S1), 36, 367.0),
        "flair": ((Modality("aerial", "image", tuple("RGBNH"), 0.2, 50), S2), 100, 367.0),
        "pastis": (
            (
                Modality("aerial", "image", tuple("RGB"), 1.0, 40),
                Modality("s2", "series", S2.bands, 10, 4),
                Modality("s1-asc", "series", ("VV", "VH", "ratio"), 10, 4),
            ),
            1024,
            734.0,
        ),
    }[name]
    model = OriginalOmniSat(modalities, patches, period=period)

    def count(module):
        return sum(p.numel() for p in module.parameters())

    frozen = 0
    for m in modalities:
        table = 0 if m.kind == "image" else int(period) * 256
        frozen += table
        assert count(model.encoders[m.name]) == expected[f"encoder {m.name}"]
        assert count(model.decoders[m.name]) == expected[f"decoder {m.name}"]
        assert count(model.decoders[m.name]) + table == expected[f"decoder {m.name} incl frozen"]
    queries = model.query.numel() + model.query_position.numel()
    assert count(model.blocks[0]) == expected["one RPEBlock"]
    assert count(model.cross) + queries == expected["CrossRPEBlock"]
    assert count(model.blocks) + count(model.cross) + queries == expected["combiner blocks total"]
    assert model.position.numel() == expected["pos_embed"]
    assert count(model) == expected["pretrain total trainable"]
    assert count(model) + frozen == expected["pretrain total incl frozen tables"]
    decoding = count(model.decoders) + model.mask_token.numel()
    assert count(model) - decoding == expected["encoder total (OmniModule)"]
    rates = [block.drop_path.probability for block in (*model.blocks, model.cross)]
    assert rates == pytest.approx(expected["drop_path per block"], abs=1e-7)


# G10


def test_retrieval_accuracy_has_a_ceiling(reference):
    tokens = torch.randn(1, 2, 18, 32, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    expected = reference["metric_contrastive_ceiling_identical_modalities"]
    assert retrieval_accuracy(tokens).tolist() == pytest.approx(list(expected.values()))


def test_f1(reference):
    from fusion.training.label_settings import label_metrics

    expected = reference["metric_f1"]
    scores = label_metrics("multilabel", 3)(
        torch.tensor(expected["logits"]).sigmoid(), torch.tensor(expected["labels"])
    )
    for average in ("macro", "micro", "weighted"):
        assert scores[f"f1_{average}"].item() == pytest.approx(expected[f"F1_Score_{average}"], abs=1e-6)


# Names


def test_state_dict_has_the_original_names(reference, model):
    state = model.original_state_dict()
    shapes = reference["parameter_shapes"]
    prefixes = {
        "image_encoder": "encoder.projector_aerial.",
        "ltae_s2": "encoder.projector_s2.",
        "RPEBlock": "encoder.blocks.0.",
        "CrossRPEBlock": "encoder.blocks.6.",
        "decoders": "decoder.",
        "own": "",
    }
    for group, prefix in prefixes.items():
        for name, shape in shapes[group].items():
            assert list(state[prefix + name].shape) == shape, name
