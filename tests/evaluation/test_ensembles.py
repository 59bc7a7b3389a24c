"""Several fine-tuned models that answer together: their mean, one file, one folder, another start for each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Geo, Modality, fit_statistics
from fusion.embed import predict_map
from fusion.evaluation import finetune, predict
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import Ensemble, load_finetuned, load_model, read_header
from fusion.training.loading import evaluation_loader

AERIAL = Modality("aerial", "image", ("R", "G"), 1.0, 4)
CLASSES = ("field", "forest", "town")
HOW = {"starts": ["pretrained"], "fractions": [1.0], "seeds": [0], "epochs": 2, "batch_size": 16, "progress": False}


def tiles(count: int, seed: int, task: str) -> ArrayTiles:
    """Tiles whose colours tell their class, classes or quantity."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, count)
    image = kind[:, None, None, None] + rng.normal(0, 0.3, (count, 2, 8, 8))
    labels = {
        "multiclass": torch.from_numpy(kind),
        "multilabel": torch.from_numpy(np.eye(3)[kind]).float(),
        "regression": torch.from_numpy(kind * 5.0 + 100).float(),
    }[task]
    names = ("biomass",) if task == "regression" else CLASSES
    places = [Geo((1.0, 0.0, 500_000.0 + 8 * i, 0.0, -1.0, 5_000_000.0), "EPSG:32632") for i in range(count)]
    images = {"aerial": image.astype(np.float32)}
    return ArrayTiles([AERIAL], images, grid=(2, 2), task=task, classes=names, labels=labels, places=places)


@pytest.fixture(scope="module")
def model() -> OmniSat:
    torch.manual_seed(0)
    config = OmniSatConfig.preset("tiny", fit_statistics(tiles(32, 0, "multiclass")), (2, 2), dim=16, mlp_dim=32)
    return OmniSat(config)


@pytest.fixture(scope="module", params=["multiclass", "multilabel", "regression"])
def run(request, model, tmp_path_factory):
    """Task, folder of the run, and its row."""
    folder = tmp_path_factory.mktemp("run")
    train, test = (tiles(n, seed, request.param) for n, seed in ((48, 1), (60, 2)))
    (row,) = finetune(model, train, test, folder, members=3, **HOW)
    return request.param, folder / "pretrained-1-0", row


def test_the_mean_of_what_members_say_is_the_answer(run):
    task, folder, row = run
    together, test = load_finetuned(folder), tiles(60, 2, task)
    batch = next(iter(evaluation_loader(test, 60)))
    with torch.inference_mode():
        members = [load_finetuned(folder / f"member-{m}")(batch) for m in range(3)]
        answer = together(batch)
    assert isinstance(together, Ensemble)
    assert not torch.allclose(members[0], members[1])
    how = {"multiclass": lambda x: x.softmax(1), "multilabel": torch.sigmoid, "regression": lambda x: x}[task]
    torch.testing.assert_close(how(answer), sum(how(one) for one in members) / 3)
    np.testing.assert_array_equal(row.result.prediction.squeeze(), predict(together, test).squeeze())
    assert row.result.labelled == 48


def test_the_file_is_of_an_encoder_too_and_holds_each_weight_once(run):
    _, folder, _ = run
    first = load_model(folder / "member-0").state_dict()
    encoder = load_model(folder).state_dict()
    assert all(torch.equal(encoder[name], value) for name, value in first.items())
    sizes = [(folder / f"member-{m}" / "best.safetensors").stat().st_size for m in range(3)]
    assert (folder / "best.safetensors").stat().st_size < 1.05 * sum(sizes)
    header = read_header(folder)
    assert header.finetuned["members"] == 3
    assert "train/loss" in header.metrics


def test_a_run_that_is_finished_is_not_trained_again(run, model, capsys):
    task, folder, row = run
    before = (folder / "member-2" / "last.ckpt").stat().st_mtime_ns
    (again,) = finetune(model, tiles(48, 1, task), tiles(60, 2, task), folder.parent, members=3, **HOW)
    assert (folder / "member-2" / "last.ckpt").stat().st_mtime_ns == before
    np.testing.assert_array_equal(again.result.prediction, row.result.prediction)


def test_a_folder_of_another_number_of_models_is_refused(run, model, tmp_path):
    task, folder, _ = run
    given = (model, tiles(48, 1, task), tiles(60, 2, task))
    with pytest.raises(ValueError, match="is the run of an ensemble, and members=1 asks for a single model"):
        finetune(*given, folder.parent, **HOW)
    (tmp_path / "pretrained-1-0").mkdir()
    (tmp_path / "pretrained-1-0" / "last.ckpt").touch()
    with pytest.raises(ValueError, match="is the run of a single model, and members=2 asks for an ensemble"):
        finetune(*given, tmp_path, members=2, **HOW)
    with pytest.raises(ValueError, match="members=0"):
        finetune(*given, tmp_path, members=0, **HOW)


def test_an_ensemble_makes_a_map(run, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    task, folder, _ = run
    together, four = load_finetuned(folder), tiles(4, 3, task)
    (made,) = predict_map(together, four, tmp_path / "map.tif", progress=False)
    with rasterio.open(made.path) as file:
        found = file.read()[:, 0]  # (bands, 4): the tiles lie side by side
    wanted = predict(together, four)
    if task == "multilabel":
        np.testing.assert_array_equal(found > 0.5, wanted.T > 0)
    else:
        np.testing.assert_allclose(found[0], wanted.squeeze(), rtol=1e-5)


def test_members_of_different_questions_are_refused(run):
    _, folder, _ = run
    other = load_finetuned(folder / "member-0")
    other.classes = ("another",)
    with pytest.raises(ValueError, match="answer different questions"):
        Ensemble([load_finetuned(folder / "member-1"), other])
