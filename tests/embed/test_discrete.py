import numpy as np
import pytest

from fusion.embed import open_embeddings
from fusion.embed.discrete import EmbeddingQuantizer, read_codes, write_codes
from fusion.embed.store import EmbeddingStore


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 3, (12, 5))
    values = centres[rng.integers(0, 12, (2, 20, 70))] + rng.normal(0, 0.1, (2, 20, 70, 5)) + 100
    values[0, :4] = np.nan
    values = np.moveaxis(values, -1, 1).astype(np.float32)
    made = EmbeddingStore.create(tmp_path / "e.zarr", [18_000, 18_010], 5, (20, 70), None, block=32)
    for i, j in made.blocks():
        made.write(i, j, values[:, :, *made.pixels(i, j)])
    made.finish()
    return made.path, values


def vectors(values):
    flat = np.moveaxis(values, 1, -1)
    return flat[np.isfinite(flat).all(-1)]


def test_codes_on_disk_decode_to_what_the_quantizer_says(store, tmp_path):
    path, values = store
    quantizer = EmbeddingQuantizer.fit(vectors(values), 16, 2)
    size = write_codes(path, tmp_path / "c.zarr", quantizer)
    found = read_codes(tmp_path / "c.zarr")
    wanted = np.moveaxis(quantizer.decode(quantizer.encode(np.moveaxis(values, 1, -1))), -1, 1)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.isnan(found[0, :, :4]).all()
    assert size < sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 3
    data = open_embeddings(tmp_path / "e.zarr")
    assert data.embedding.shape == found.shape


def test_more_layers_lose_less(store):
    _, values = store
    x = vectors(values)
    errors = []
    for layers in (1, 2, 3):
        quantizer = EmbeddingQuantizer.fit(x, 8, layers)
        errors.append(np.square(quantizer.decode(quantizer.encode(x)) - x).mean())
        assert quantizer.bits == 3 * layers
    assert errors[0] > errors[1] > errors[2]


def test_refuses_too_few_vectors_and_existing_files(store, tmp_path):
    path, values = store
    with pytest.raises(ValueError, match="64 codes want as many"):
        EmbeddingQuantizer.fit(vectors(values)[:10], 64)
    with pytest.raises(ValueError, match="there already"):
        write_codes(path, path, EmbeddingQuantizer.fit(vectors(values), 8))
