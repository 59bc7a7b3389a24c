"""A step too large for the memory is computed in parts: the same tiles and steps, and the same bits after a Ctrl-C."""

import csv
import os
import signal
from pathlib import Path

import pytest
import torch
from tiny_system import Meadows, TinyTraining

from fusion.training import estimate_memory, fit

STEP, PART = 6, 2  # tiles
DATA = Meadows(26)  # four steps an epoch, and two tiles that make none


def module() -> TinyTraining:
    torch.manual_seed(7)
    return TinyTraining()


def enough_for(tiles: int) -> float:
    """GiB."""
    estimate = estimate_memory(module(), DATA, tiles)
    return (estimate.state + estimate.fixed + (tiles + 0.5) * estimate.per_tile) / 0.9 / 2**30


def train(run: Path, trained: TinyTraining | None = None, **arguments) -> TinyTraining:
    trained = trained or module()
    defaults = {"epochs": 3, "batch_size": STEP, "progress": False, "memory": "accumulate"}
    fit(trained, DATA, Meadows(9), run, **defaults | arguments)
    return trained


def press(trained: TinyTraining, part: int) -> TinyTraining:
    """Ctrl-C arrives while ``part``, counted over all epochs, is being computed."""
    seen = []

    def on_train_batch_start(batch, batch_idx) -> None:
        seen.append(batch_idx)
        if len(seen) == part + 1:
            os.kill(os.getpid(), signal.SIGINT)

    trained.on_train_batch_start = on_train_batch_start
    return trained


def weights(trained: TinyTraining) -> torch.Tensor:
    return torch.cat([v.flatten().double() for v in trained.state_dict().values()])


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def limit() -> float:
    return enough_for(PART)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, limit) -> tuple[TinyTraining, Path]:
    run = tmp_path_factory.mktemp("straight")
    return train(run, memory_limit=limit), run


def test_an_epoch_has_the_steps_that_it_has_without_parts(straight, tmp_path):
    trained, run = straight
    assert len(trained.losses) == 3 * 4 * STEP // PART
    whole = train(tmp_path, memory="ignore")
    assert len(whole.losses) == 3 * 4
    assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(tmp_path)] == ["4", "8", "12"]


def test_the_gradient_is_the_mean_of_that_of_the_parts_of_the_tiles_of_the_step(tmp_path):
    data, trained, batches, steps = Meadows(8), module(), [], []
    trained.model.dropout.p = 0.0
    trained.on_train_batch_start = lambda batch, index: batches.append(batch)
    trained.on_before_optimizer_step = lambda optimizer: steps.append([p.grad.clone() for p in trained.parameters()])
    arguments = {"epochs": 1, "batch_size": 8, "progress": False}
    fit(trained, data, None, tmp_path, memory="accumulate", memory_limit=enough_for(4), **arguments)
    again = module()
    again.model.dropout.p = 0.0
    losses = [torch.nn.functional.cross_entropy(again.classify(again.model(b).summary), b.labels) for b in batches]
    parts = [torch.autograd.grad(loss, list(again.parameters())) for loss in losses]
    assert [len(b) for b in batches] == [4, 4]
    assert {name for b in batches for name in b.names} == set(data.names)
    assert len(steps) == 1
    for found, one, other in zip(steps[0], *parts, strict=True):
        torch.testing.assert_close(found, (one + other) / 2)


@pytest.mark.parametrize("parts", [(0,), (1,), (2,), (10,), (11,), (12,), (35,), (4, 3, 7)])
def test_an_interrupted_step_is_finished_and_the_run_goes_on_with_the_same_bits(tmp_path, straight, limit, parts):
    """In every part of a step, in the last one of an epoch, in the first of the next, in the very last."""
    losses = []
    for part in parts:
        pressed = press(module(), part)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, pressed, memory_limit=limit)
        losses += pressed.losses
        assert len(losses) % (STEP // PART) == 0
    resumed = train(tmp_path, memory_limit=limit)
    assert losses + resumed.losses == straight[0].losses
    if parts != (35,):
        assert torch.equal(weights(resumed), weights(straight[0]))
    for column in ("epoch", "step", "val/loss", "lr"):
        assert [row[column] for row in rows(tmp_path)] == [row[column] for row in rows(straight[1])]


@pytest.mark.parametrize("later", [{"memory": "accumulate"}, {"memory": "refuse"}, {"memory": "ignore"}])
def test_a_run_keeps_the_parts_it_was_begun_with_though_more_is_free_now(tmp_path, straight, limit, later):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, press(module(), 7), memory_limit=limit)
    assert torch.equal(weights(train(tmp_path, **later)), weights(straight[0]))


def test_a_run_whose_parts_no_longer_fit_is_refused(tmp_path, limit):
    train(tmp_path, epochs=1, memory_limit=limit)
    with pytest.raises(ValueError, match=r"begun with steps of 6 tiles in parts of 2 and can only .*resume=False"):
        train(tmp_path, memory_limit=enough_for(1))


def test_a_run_that_was_begun_whole_is_not_cut_later(tmp_path, limit):
    train(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"batch_size=2 fits, in a run of its own \(another folder, or resume=False"):
        train(tmp_path, memory_limit=limit)


def test_one_line_says_how_a_step_is_cut(tmp_path, limit, capsys):
    train(tmp_path, epochs=1, memory_limit=limit, progress=True)
    assert "optimizer); steps of 6 tiles in 3 parts of 2\n" in capsys.readouterr().out


def test_the_largest_part_that_divides_a_step_is_taken(tmp_path, capsys):
    train(tmp_path, epochs=1, batch_size=12, memory_limit=enough_for(5), progress=True)
    assert "steps of 12 tiles in 3 parts of 4\n" in capsys.readouterr().out


def test_what_fits_is_not_cut(tmp_path, capsys):
    trained = train(tmp_path, epochs=1, memory_limit=enough_for(STEP), progress=True)
    assert len(trained.losses) == 4
    assert "parts" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"limit_train_batches": 2}, ["2", "4", "6"]), ({"limit_train_batches": 0.5}, ["2", "4", "6"])],
)
def test_settings_of_the_trainer_count_steps(tmp_path, limit, settings, steps):
    train(tmp_path, memory_limit=limit, **settings)
    assert [row["step"] for row in rows(tmp_path)] == steps


def test_the_most_steps_are_steps_not_parts(tmp_path, limit):
    assert len(train(tmp_path, memory_limit=limit, max_steps=5).losses) == 5 * STEP // PART


def test_a_limit_bounds_without_accumulation_too(tmp_path, limit):
    message = (
        r"\(memory_limit=[\d.e-]+ GiB\). batch_size=2 fits, and memory='accumulate' in 3 parts of 2; memory='warn'"
    )
    with pytest.raises(ValueError, match=message):
        train(tmp_path, memory="refuse", memory_limit=limit)
    with pytest.warns(UserWarning, match=message):
        train(tmp_path, memory="warn", memory_limit=limit, epochs=1)


def test_one_tile_too_many_is_refused_naming_the_limit(tmp_path):
    with pytest.raises(ValueError, match=r"memory_limit=1e-06 GiB\). not even one tile fits"):
        train(tmp_path, memory_limit=1e-6)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"accumulate_grad_batches": 2},
            "sets accumulate_grad_batches itself, and accumulate_grad_batches=2 was given",
        ),
        ({"overfit_batches": 2}, "does not go with overfit_batches"),
        ({"memory_limit": 0}, "memory_limit is a positive number of GiB, or None, not 0"),
        ({"memory_limit": "20"}, "memory_limit is a positive number of GiB, or None, not '20'"),
        ({"memory": "ignore", "memory_limit": 3}, "memory='ignore' estimates nothing, so memory_limit=3"),
        ({"memory": "never"}, "'refuse', 'warn', 'ignore' or 'accumulate', not 'never'"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, **settings)


def test_several_processes_are_refused(tmp_path, limit):
    with pytest.raises(ValueError, match="is for one process, not for 2"):
        train(tmp_path, memory_limit=limit, devices=2, accelerator="cpu", strategy="ddp")
