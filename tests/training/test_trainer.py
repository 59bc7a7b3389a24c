"""Training is kept, can be interrupted at any moment, and goes on as if it had not been."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_system import S2, VHR, Meadows, TinyConfig, TinyTraining
from torchmetrics import MeanMetric

from fusion.training import fit, load_model, read_header, state
from fusion.training.state import KeepState


def module(**settings) -> TinyTraining:
    torch.manual_seed(7)
    return TinyTraining(**settings)


def train(run: Path, *, trained: TinyTraining | None = None, **arguments) -> TinyTraining:
    trained = trained or module()
    defaults = {"epochs": 4, "batch_size": 5, "progress": False, "memory": "ignore"}
    fit(trained, Meadows(24), Meadows(9), run, **defaults | arguments)
    return trained


def weights(trained: TinyTraining) -> torch.Tensor:
    return torch.cat([v.flatten().double() for v in trained.state_dict().values()])


def press(trained: TinyTraining, step: int, number: int = signal.SIGINT) -> TinyTraining:
    """The operating system's Ctrl-C (or SIGTERM) arrives while ``step`` is being computed."""

    def on_train_batch_start(batch, batch_idx) -> None:
        if trained.trainer.global_step == step:
            os.kill(os.getpid(), number)

    trained.on_train_batch_start = on_train_batch_start
    return trained


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[TinyTraining, Path]:
    run = tmp_path_factory.mktemp("straight")
    return train(run), run


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_models_numbers_and_its_circumstances(straight):
    trained, run = straight
    assert {p.name for p in run.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "last.ckpt",
        "metrics.csv",
        "tensorboard",
        "config.yaml",
        "environment.json",
        "commands.txt",
    }
    history = rows(run)
    assert [row["epoch"] for row in history] == ["0", "1", "2", "3"]
    assert {"train/loss", "val/loss", "lr", "seconds", "step"} <= set(history[0])
    best = min(history, key=lambda row: float(row["val/loss"]))
    header = read_header(run)
    assert header.metrics["epoch"] == float(best["epoch"])
    assert header.metrics["val/loss"] == pytest.approx(float(best["val/loss"]))
    last = load_model(run / "last.safetensors")
    pairs = zip(last.state_dict().values(), trained.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert list((run / "tensorboard").glob("events*"))


def test_training_learns(straight):
    history = rows(straight[1])
    assert float(history[-1]["train/loss"]) < 0.7 * float(history[0]["train/loss"])


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path, straight):
    assert torch.equal(weights(train(tmp_path / "a")), weights(straight[0]))
    assert not torch.equal(weights(train(tmp_path / "b", seed=1)), weights(straight[0]))


@pytest.mark.parametrize("steps", [(0,), (5,), (6,), (7,), (15,), (1, 2, 7, 9, 11, 14)])
def test_an_interrupted_run_goes_on_with_the_same_bits(tmp_path, straight, steps):
    """Four steps an epoch: at the first, in the middle, before a last one, at the very last, and again and again."""
    losses = []
    for step in steps:
        pressed = press(module(), step)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, trained=pressed)
        losses += pressed.losses
    resumed = train(tmp_path)
    assert losses + resumed.losses == straight[0].losses
    if steps != (15,):
        assert torch.equal(weights(resumed), weights(straight[0]))
    for column in ("epoch", "step", "train/loss", "val/loss", "lr"):
        assert [row[column] for row in rows(tmp_path)] == [row[column] for row in rows(straight[1])]
    assert read_header(tmp_path).metrics["val/loss"] == read_header(straight[1]).metrics["val/loss"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("steps", [(2,), (5, 6), (9,), (1, 2, 7, 9)])
def test_means_of_an_interrupted_epoch_are_of_all_its_steps(tmp_path, number, steps):
    """Without validation the mean training loss of an epoch chooses the best model and steps the plateau schedule."""

    def run(name: str, trained: TinyTraining) -> Path:
        fit(trained, Meadows(24), None, tmp_path / name, epochs=4, batch_size=5, progress=False, memory="ignore")
        return tmp_path / name

    def kept_from(run: Path) -> list:
        columns = ("epoch", "step", "train/loss", "lr")
        return [[row[c] for c in columns] for row in rows(run)] + [read_header(run).metrics]

    trained = module()
    whole = run("whole", trained)
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            run("interrupted", press(module(), step, number))
    resumed = module()
    interrupted = run("interrupted", resumed)
    assert kept_from(interrupted) == kept_from(whole)
    assert torch.equal(weights(resumed), weights(trained))
    for name in ("best.safetensors", "last.safetensors"):
        written, expected = load_model(interrupted / name).state_dict(), load_model(whole / name).state_dict()
        assert all(torch.equal(written[key], value) for key, value in expected.items())


class Logging(TinyTraining):
    """Logs the loss in every way in which Lightning adds values up, and a metric of torchmetrics."""

    def __init__(self) -> None:
        super().__init__()
        self.metric = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        for name, reduce in (("largest", "max"), ("least", "min"), ("total", "sum")):
            self.log(f"train/{name}", loss.detach(), on_step=False, on_epoch=True, reduce_fx=reduce)
        self.metric.update(loss.detach())
        self.log("train/metric", self.metric, on_step=False, on_epoch=True)
        return loss


def test_all_that_is_summed_over_an_epoch_is_of_all_its_steps(tmp_path):
    def run(name: str, step: int | None = None) -> Path:
        torch.manual_seed(7)
        train(tmp_path / name, trained=Logging() if step is None else press(Logging(), step), epochs=2)
        return tmp_path / name

    whole = run("whole")
    for step in (1, 2, 6):
        with pytest.raises(KeyboardInterrupt):
            run("interrupted", step)
    for one, other in zip(rows(run("interrupted")), rows(whole), strict=True):
        for name in ("loss", "largest", "least", "total", "metric"):
            assert float(one[f"train/{name}"]) == pytest.approx(float(other[f"train/{name}"]), rel=1e-6), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("epoch", [0, 2, 3])
def test_a_signal_in_validation_is_met_when_it_has_ended(tmp_path, straight, number, epoch):
    pressed = module()

    def on_validation_batch_start(batch, batch_idx) -> None:
        if (pressed.current_epoch, batch_idx) == (epoch, 0):
            os.kill(os.getpid(), number)

    pressed.on_validation_batch_start = on_validation_batch_start
    told = "training had just finished" if epoch == 3 else f"the end of epoch {epoch + 1}, .*last.ckpt is saved"
    with pytest.raises(KeyboardInterrupt, match=told):
        train(tmp_path, trained=pressed)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["fusion"]["epochs"] == epoch + 1
    resumed = train(tmp_path)
    assert pressed.losses + resumed.losses == straight[0].losses
    assert [row["val/loss"] for row in rows(tmp_path)] == [row["val/loss"] for row in rows(straight[1])]


def test_an_interruption_says_where_and_how_to_go_on(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"epoch 2, step 6; .*last.ckpt is saved, the same command goes on"):
        train(tmp_path, trained=press(module(), 5))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_termination_is_survived_like_ctrl_c(tmp_path, straight):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, trained=press(module(), 6, signal.SIGTERM))
    assert torch.equal(weights(train(tmp_path)), weights(straight[0]))


def test_a_finished_run_can_be_prolonged(tmp_path, straight):
    train(tmp_path, epochs=2)
    assert torch.equal(weights(train(tmp_path, epochs=4)), weights(straight[0]))
    assert [row["epoch"] for row in rows(tmp_path)] == ["0", "1", "2", "3"]


def test_a_finished_run_is_not_trained_again(tmp_path, straight, capsys):
    before = (straight[1] / "last.ckpt").stat().st_mtime_ns
    trained = train(straight[1], progress=True)
    assert trained.losses == []
    assert (straight[1] / "last.ckpt").stat().st_mtime_ns == before
    assert "is finished (4 epochs); resume=False starts over" in capsys.readouterr().out


def test_resume_false_starts_over_and_leaves_foreign_files(tmp_path):
    train(tmp_path, epochs=2)
    (tmp_path / "notes.txt").write_text("mine")
    train(tmp_path, epochs=1, resume=False)
    assert len(rows(tmp_path)) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_of_another_configuration_is_refused_by_field(tmp_path):
    train(tmp_path, epochs=1)
    other = module(lr=0.5)
    other.model.config = TinyConfig(dim=9)
    with pytest.raises(ValueError, match="another configuration") as caught:
        train(tmp_path, trained=other, batch_size=3)
    for line in ("model.dim: 8 in the folder, 9 wanted", "settings.lr: 0.01", "batch_size: 5 in the folder, 3"):
        assert line in str(caught.value)


def test_a_damaged_state_is_named(tmp_path):
    train(tmp_path, epochs=1)
    state = tmp_path / "last.ckpt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last.ckpt cannot be read .*resume=False starts over"):
        train(tmp_path)


def test_early_stopping_ends_the_run_for_good(tmp_path):
    stopped = module(lr=0.0)
    train(tmp_path, trained=stopped, epochs=9, patience=2, monitor="train/loss", mode="max")
    epochs = len(rows(tmp_path))
    assert epochs < 9
    assert train(tmp_path, trained=module(lr=0.0), epochs=9, patience=2, monitor="train/loss", mode="max").losses == []
    assert len(rows(tmp_path)) == epochs


def test_a_loss_that_is_no_number_stops_and_keeps_what_was_saved(tmp_path):
    with pytest.raises(RuntimeError, match=r"training loss is nan at epoch 3.*gradient_clip_val"):
        train(tmp_path, trained=module(explode_at=9))
    assert len(rows(tmp_path)) == 2
    assert all(v.isfinite().all() for v in load_model(tmp_path / "last.safetensors").state_dict().values())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"epochs": 0}, "epochs is 0; a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"seed": -1}, "seed is -1"),
        ({"patience": -1}, "patience is -1"),
        ({"workers": -2}, "workers is -2"),
        ({"gradient_clip_val": float("nan")}, "training: gradient_clip_val is nan; give a finite number"),
    ],
)
def test_numbers_that_nothing_can_be_trained_with_are_refused(tmp_path, given, told):
    with pytest.raises(ValueError, match=told):
        train(tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_learning_rate_that_is_no_number_is_refused(tmp_path, rate):
    with pytest.raises(ValueError, match=rf"TinyTraining: lr is {rate}; give a finite number"):
        train(tmp_path / "run", trained=module(lr=rate))


def test_an_unknown_metric_is_named_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"nothing called 'val/f1' is logged.*train/loss, val/loss"):
        train(tmp_path, monitor="val/f1")


def test_without_validation_the_training_loss_is_monitored(tmp_path):
    fit(module(), Meadows(8), None, tmp_path, epochs=2, batch_size=4, progress=False, memory="ignore")
    assert "train/loss" in read_header(tmp_path).metrics


def test_a_disk_that_fills_keeps_the_last_state(tmp_path, straight, monkeypatch):
    saved = KeepState._save
    full = RuntimeError("cannot save last.ckpt: the disk is full")

    def save(self, trainer, epoch, *place):
        if epoch == 2:
            raise full
        saved(self, trainer, epoch, *place)

    monkeypatch.setattr(state, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(KeepState, "_save", save)
    with pytest.raises(RuntimeError, match="the disk is full"):
        train(tmp_path)
    monkeypatch.undo()
    assert torch.equal(weights(train(tmp_path)), weights(straight[0]))


def test_short_epochs_share_a_save(tmp_path, straight, monkeypatch):
    saved, at = KeepState._save, []

    def save(self, trainer, epoch, *place):
        at.append(epoch)
        saved(self, trainer, epoch, *place)

    monkeypatch.setattr(KeepState, "_save", save)
    for seconds, epochs in ((0.0, [1, 2, 3, 4]), (1e9, [1, 4])):
        monkeypatch.setattr(state, "SECONDS_BETWEEN", seconds)
        at.clear()
        run = tmp_path / str(seconds)
        assert torch.equal(weights(train(run)), weights(straight[0]))
        assert at == epochs
        assert [row["epoch"] for row in rows(run)] == ["0", "1", "2", "3"]
        for name in ("best.safetensors", "last.safetensors"):
            written, expected = load_model(run / name).state_dict(), load_model(straight[1] / name).state_dict()
            assert all(torch.equal(written[key], value) for key, value in expected.items())
            assert read_header(run / name).metrics == read_header(straight[1] / name).metrics


def test_a_run_that_failed_between_saves_goes_on_from_the_last_of_them(tmp_path, straight, monkeypatch):
    monkeypatch.setattr(state, "SECONDS_BETWEEN", 1e9)
    failing = module()
    failing.on_validation_epoch_start = lambda: 1 / 0 if failing.current_epoch == 2 else None
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, trained=failing)
    assert len(rows(tmp_path)) == 2
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["fusion"]["epochs"] == 1
    assert torch.equal(weights(train(tmp_path)), weights(straight[0]))
    assert [row["epoch"] for row in rows(tmp_path)] == ["0", "1", "2", "3"]


def test_data_that_the_model_does_not_expect_are_refused_before_the_first_step(tmp_path):
    expecting = S2.with_statistics((20_000, 20_000, 20_000), (500, 500, 500))
    with pytest.raises(ValueError, match=r"modality 's2'.* times smaller"):
        train(tmp_path, trained=module(config=TinyConfig(modalities=(expecting, VHR))))
    assert not list(tmp_path.iterdir())


def test_too_much_memory_is_refused_with_the_batch_that_fits(tmp_path, monkeypatch):
    import fusion.training.memory as memory

    monkeypatch.setattr(memory, "available_memory", lambda device: 20_000)
    with pytest.raises(ValueError, match=r"training would need .* batch_size=\d+ fits, .*; memory='warn' tries"):
        train(tmp_path, memory="refuse", batch_size=24)
    with pytest.warns(UserWarning, match="training would need"):
        train(tmp_path, memory="warn", epochs=1, batch_size=24)
    with pytest.raises(ValueError, match="'refuse', 'warn', 'ignore' or 'accumulate', not 'never'"):
        train(tmp_path, memory="never")


def test_bf16_mixed_trains(tmp_path):
    assert train(tmp_path, epochs=1, precision="bf16-mixed").losses


def test_one_tile_trains(tmp_path):
    fit(module(), Meadows(1), None, tmp_path, epochs=1, progress=False)
    assert load_model(tmp_path)


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from tiny_system import *\n"
        "from fusion.training import System, fit, register\n"
        'register("tiny", System("tiny_system:TinyModel", "tiny_system:TinyConfig"))\n'
        "torch.manual_seed(7)\n"
        f"fit(TinyTraining(), Meadows(24), Meadows(9), {str(tmp_path / 'run')!r}, epochs=2, batch_size=5,\n"
        "    devices=2, accelerator='cpu', strategy='ddp', memory='ignore')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sync_dist" not in done.stderr
    assert [row["step"] for row in rows(tmp_path / "run")] == ["2", "4"]  # 24 tiles / 2 processes / 5
    assert load_model(tmp_path / "run")
