"""The fused steps of the image encoder against the plain layers they stand for."""

import pytest
import torch
import torch.nn.functional as F

from fusion.omnisat import pooling
from fusion.omnisat.image import ImageDecoder, ImageEncoder, patchify_image, pyramid
from fusion.omnisat.pooling import max_pool, patch_slices
from fusion.omnisat.stem import Stem
from fusion.omnisat.unpooling import UnpoolConvolution, UnpoolProjection


@pytest.fixture
def small_slices(monkeypatch):
    """Makes every step go patch by patch, as it does on large batches."""
    monkeypatch.setitem(pooling._CACHED, "cpu", 1)
    monkeypatch.setitem(pooling._CHAINED, "cpu", 1)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)


def test_patches_are_in_raster_order():
    image = torch.zeros(1, 2, 300, 300)
    image[0, 1, 50:100, 150:200] = torch.arange(2500.0).view(50, 50)
    patches = patchify_image(image, 50)
    assert patches.shape == (36, 2, 50, 50)
    assert torch.equal(patches[9, 1], image[0, 1, 50:100, 150:200])
    assert patches.is_contiguous(memory_format=torch.channels_last)


def test_pyramid():
    assert pyramid(50) == (2, [25, 12, 6, 3, 1])
    assert pyramid(40) == (2, [20, 10, 5, 2, 1])
    assert pyramid(4) == (1, [4, 2, 1])
    assert pyramid(1) == (1, [1])


@pytest.mark.parametrize("side", [2, 3, 7, 8])
@pytest.mark.parametrize("last", [True, False])
def test_max_pool(side, last, small_slices):
    x = random(5, 3, side, side)
    if not last:
        x = x.contiguous()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    pooled, ours = max_pool(a)
    expected, index = F.max_pool2d(b, 2, return_indices=True)
    assert torch.equal(pooled, expected)
    assert torch.equal(ours.long(), index)
    grad = torch.randn_like(expected)
    pooled.backward(grad)
    expected.backward(grad)
    assert torch.equal(a.grad, b.grad)


def test_ties_go_to_the_first():
    _, index = max_pool(torch.ones(1, 1, 4, 4))
    assert index.tolist() == [[[[0, 2], [8, 10]]]]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [6, 9])
def test_stem_is_its_layers(stride, side, small_slices):
    fused, plain = Stem(3, 8, stride, pooled=True).double(), Stem(3, 8, stride, pooled=True).double()
    torch.nn.init.normal_(fused.norm.weight)
    torch.nn.init.normal_(fused.norm.bias)
    plain.load_state_dict(fused.state_dict())
    a = (3 * random(4, 3, side, side) + 20).requires_grad_()  # an offset, as raw 8-bit data has
    b = a.detach().clone().requires_grad_()
    ours, position = fused(a, fused.folded(a))
    theirs, index = F.max_pool2d(F.gelu(plain.norm(plain.conv(b))), 2, return_indices=True)
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(position.long(), index)
    grad = torch.randn_like(theirs)
    ours.backward(grad)
    theirs.backward(grad)
    for (name, p), q in zip(fused.named_parameters(), plain.parameters(), strict=True):
        if name == "conv.bias":  # a shift that the norm takes out again
            torch.testing.assert_close(p.grad, q.grad, atol=1e-10, rtol=0)
        else:
            torch.testing.assert_close(p.grad, q.grad, msg=name)
    torch.testing.assert_close(a.grad, b.grad)
    for (name, p), q in zip(fused.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


def test_stem_in_evaluation_is_the_same_with_and_without_gradients():
    stem = Stem(3, 8, 2, pooled=True).double()
    stem.folded(random(6, 3, 20, 20))
    stem.eval()
    x = random(6, 3, 20, 20)
    with torch.no_grad():
        assert stem.folded(x) is None
        plain, index = stem(x, None)
    folded, same_index = stem(x, stem.folded(x))
    torch.testing.assert_close(plain, folded)
    assert torch.equal(index, same_index)


def test_missing_patches_do_not_shift_the_statistics():
    x = random(6, 3, 12, 12)
    valid = torch.tensor([1, 1, 0, 1, 0, 0], dtype=torch.bool)
    some, all_valid = Stem(3, 8, 1, pooled=True).double(), Stem(3, 8, 1, pooled=True).double()
    all_valid.load_state_dict(some.state_dict())
    masked, observed = some(x, some.folded(x, valid)), all_valid(x[valid], all_valid.folded(x[valid]))
    torch.testing.assert_close(masked[0][valid], observed[0])
    torch.testing.assert_close(some.norm.running_var, all_valid.norm.running_var)
    before = some.norm.running_mean.clone()
    weight, bias = some.folded(x, torch.zeros_like(valid))
    assert weight.isfinite().all()
    assert bias.isfinite().all()
    assert torch.equal(some.norm.running_mean, before)


@pytest.mark.parametrize("options", [None, (1, 0), (2, 1), (2, 0)])
def test_unpooled_convolutions(options, small_slices):
    layer = (UnpoolConvolution(4) if options is None else UnpoolProjection(4, 3, *options)).double()
    layer.to(memory_format=torch.channels_last)
    small, index = max_pool(random(3, 4, 7, 7))
    x = torch.randn_like(small, requires_grad=True)
    maps = F.max_unpool2d(x, index.long(), 2, output_size=(7, 7))
    stride, output_padding = options or (1, 0)
    expected = F.conv_transpose2d(maps, layer.weight, layer.bias, stride, 1, output_padding)
    torch.testing.assert_close(layer(x, index, 7), expected)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x, index, 7), (x, *layer.parameters()))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 10, 16, 33, 40, 50])
def test_any_patch_size(size):
    encoder, decoder = ImageEncoder(3, size, dim=16), ImageDecoder(3, size, dim=16)
    patches = torch.randn(5, 3, size, size)
    tokens, indices = encoder(patches)
    out = decoder(tokens, indices)
    assert tokens.shape == (5, 16)
    assert out.shape == patches.shape
    out.square().sum().backward()
    for name, parameter in (*encoder.named_parameters(), *decoder.named_parameters()):
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_recomputing_several_slices_under_autocast_is_only_about_memory(monkeypatch):
    """Gradients of weights are summed over slices in another precision."""
    monkeypatch.setitem(pooling._CHAINED, "cpu", 1)
    one, other = (ImageEncoder(3, 20, dim=8, recompute=recompute) for recompute in (False, True))
    other.load_state_dict(one.state_dict())
    x = torch.randn(4, 3, 20, 20)
    results = []
    for encoder in (one, other):
        with torch.autocast("cpu", torch.bfloat16):
            tokens, _ = encoder(x)
        tokens.float().square().sum().backward()
        results.append((tokens, [p.grad for p in encoder.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert (a - b).norm() <= 0.02 * a.norm()


def test_recomputing_changes_nothing():
    one = ImageEncoder(3, 20, dim=8, recompute=False).double()
    other = ImageEncoder(3, 20, dim=8, recompute=True).double()
    other.load_state_dict(one.state_dict())
    x = random(4, 3, 20, 20)
    gradients = []
    for encoder in (one, other):
        tokens, _ = encoder(x)
        tokens.square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_slicing_changes_nothing(monkeypatch):
    encoder, decoder = ImageEncoder(3, 20, dim=8).double(), ImageDecoder(3, 20, dim=8).double()
    x, results = random(5, 3, 20, 20), []
    for limit in (1 << 30, 1):
        monkeypatch.setitem(pooling._CHAINED, "cpu", limit)
        tokens, indices = encoder(x)
        out = decoder(tokens, indices)
        gradients = torch.autograd.grad(out.square().sum(), [*encoder.parameters(), *decoder.parameters()])
        results.append((tokens, *indices, out, *gradients))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_slices_cover_every_patch_once():
    parts = list(patch_slices(10, 1 << 20, torch.device("cpu")))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(10))
    assert len(parts) > 1
    assert not list(patch_slices(0, 1 << 20, torch.device("cpu")))
