"""Training, end to end on a few tiles."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from fusion.omnisat import OmniSat, OmniSatPretraining
from fusion.training import Finetuning

LABELS = {
    "multilabel": torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]]),
    "multiclass": torch.tensor([0, 1, 2, 1]),
    "regression": torch.tensor([[100.0, 1, -5], [120, 2, -6], [140, 3, -7], [90, 1.5, -4]]),
}


class Batches(torch.utils.data.Dataset):
    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, i):
        return self.batches[i]


def loader(*batches):
    return DataLoader(Batches(*batches), batch_size=None)


def trainer(tmp_path, epochs):
    return L.Trainer(
        max_epochs=epochs,
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def labelled(batch, task):
    data = batch(4)
    data.labels = LABELS[task]
    return data


@pytest.mark.filterwarnings("ignore")
def test_pretraining_learns_and_logs(config, batch, tmp_path):
    module, data = OmniSatPretraining(config, lr=3e-3), batch(4)
    fit = trainer(tmp_path, 1)
    fit.fit(module, loader(data), loader(data))
    first = dict(fit.callback_metrics)
    assert {"train/loss", "val/loss", "val/contrastive", "val/retrieval"} <= set(first)
    assert {f"val/reconstruction/{name}" for name in data.values} <= set(first)
    fit = trainer(tmp_path, 40)
    fit.fit(module, loader(data), loader(data))
    last = fit.callback_metrics
    assert last["train/loss"] < 0.5 * first["train/loss"]
    path = tmp_path / "run.ckpt"
    fit.save_checkpoint(path)
    again = OmniSatPretraining.load_from_checkpoint(path)
    assert again.model.config == config
    assert again.hparams.lr == 3e-3
    with torch.no_grad():
        a, b = (m.eval().model(data).patches for m in (module, again))
    torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", list(LABELS))
def test_finetuning_overfits_a_few_tiles(config, batch, task, tmp_path):
    data, target = labelled(batch, task), LABELS[task]
    options = {}
    if task == "regression":
        options = {"target_mean": target.mean(0).tolist(), "target_std": target.std(0).tolist()}
    module = Finetuning(OmniSat(config), task, ["a", "b", "c"], lr=1e-2, dropout=0, label_smoothing=0, **options)
    fit = trainer(tmp_path, 50)
    fit.fit(module, loader(data), loader(data))
    assert fit.callback_metrics["train/loss"] < 0.1
    fit.test(module, loader(data), verbose=False)
    scores = fit.callback_metrics
    if task == "regression":
        assert {"test/r2", "test/rmse"} <= set(scores)
        with torch.no_grad():
            assert module.eval()(data).mean(0)[0] == pytest.approx(112, abs=40)  # in the unit of the targets
    else:
        assert {"test/f1_weighted", "test/f1_macro", "test/f1_micro"} <= set(scores)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("head", ["linear", "mlp", "attention"])
def test_a_frozen_model_stays_as_it_is(config, batch, head, tmp_path):
    data = labelled(batch, "multiclass")
    module = Finetuning(OmniSat(config), "multiclass", ["a", "b", "c"], freeze=True, head=head, lr=1e-2)
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    weights = [p.clone() for p in module.head.parameters()]
    trainer(tmp_path, 3).fit(module, loader(data))
    for name, value in module.model.state_dict().items():  # batch-norm statistics included
        assert torch.equal(value, before[name]), name
    assert any(not torch.equal(a, b) for a, b in zip(weights, module.head.parameters(), strict=True))
    module.train()
    assert not module.model.training
    assert module.head.training


def test_wrong_options_are_named(config, batch):
    model = OmniSat(config)
    with pytest.raises(ValueError, match="task is 'multilabel', 'multiclass' or 'regression', not 'counting'"):
        Finetuning(model, "counting", ["a"])
    with pytest.raises(ValueError, match="no class or target named"):
        Finetuning(model, "multiclass", [])
    with pytest.raises(ValueError, match="2 target_mean for 1 targets"):
        Finetuning(model, "regression", ["a"], target_mean=(1.0, 2.0))
    with pytest.raises(ValueError, match="head is 'linear' or 'mlp' or 'attention', not 'tree'"):
        Finetuning(model, "multiclass", ["a"], head="tree")
    with pytest.raises(ValueError, match="tile t0 and its batch have no labels"):
        Finetuning(model, "multiclass", ["a", "b"]).training_step(batch(2), 0)
