"""System 3 from a described folder to a dense store, as users type it."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from fusion.cli import main
from fusion.context import ContextFusion, SensorAutoencoder
from fusion.context.pieces import cut
from fusion.context.pretraining import pretrain_cubes
from fusion.data import Cube, Modality, open_cubes
from fusion.data.cubes import SensorCube
from fusion.embed import open_embeddings
from fusion.training import load_model

from .small_context import DATES, SIDE, SIZES, describe_field

SMALL = [*SIZES, "--training.epochs", "[1, 2]"]


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A Sentinel-1 and a Sentinel-2 series of one field; the radar is described first."""
    return describe_field(tmp_path_factory.mktemp("cubes"))


@pytest.fixture(scope="module")
def trained(described, tmp_path_factory):
    """Run folder, and what the command printed."""
    import contextlib
    import io

    run, told = tmp_path_factory.mktemp("runs") / "mine", io.StringIO()
    with contextlib.redirect_stdout(told):
        assert main(["pretrain", "--system", "context", "--data", str(described), "--out", str(run), *SMALL]) == 0
    return run, told.getvalue()


def test_both_stages_are_trained_into_one_run_folder(trained):
    run, told = trained
    model = load_model(run)
    assert isinstance(model, ContextFusion)
    assert model.config.embedding == 6
    assert list(model.sensors) == ["s2", "s1"]  # reflectance is the reference, wherever it is described
    assert model.config.sensors[0].bottleneck == 5
    assert model.config.sensors[1].bottleneck == 12
    assert all(isinstance(load_model(run / "sensors" / name), SensorAutoencoder) for name in ("s2", "s1"))
    assert "9 pieces of 8 x 8 pixels: 8 to train on, 1 for validation" in told


def test_the_printed_command_embeds_every_date_and_leads_to_a_probe(trained, described, capsys):
    run, told = trained
    following = next(line for line in told.splitlines() if line.startswith("next: ")).removeprefix("next: ")
    words = shlex.split(following)
    assert words[:2] == ["fusion", "embed"]
    assert main([*words[1:], "--block", "8"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == f"next: fusion probe {run} --data {described} --save linear"
    assert open_embeddings(run / "embeddings" / "field.zarr").embedding.shape == (DATES, 6, SIDE, SIDE)


def test_a_finished_run_is_not_trained_again(trained, described, capsys):
    run, _ = trained
    before = (run / "best.safetensors").read_bytes()
    assert main(["pretrain", "--system", "context", "--data", str(described), "--out", str(run), *SMALL]) == 0
    assert capsys.readouterr().out.count("is finished") == 3
    assert (run / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size", "huge"], "context: no size 'huge'; there are tiny, paper"),
        (["--model.depth", "3"], "context model: unknown setting depth; it has window, sensors, fusion"),
        (
            ["--model.sensors.s2.frame", "3", "--model.sensors.s1.depth", "1"],
            "sensor 's2': unknown setting frame; it has frames",
        ),
        (["--model.fusion.embeddings", "3"], "fusion: unknown setting embeddings; it has embedding"),
        (["--module.mask_ratio", "0.5"], "context pretraining: unknown setting mask_ratio"),
        (["--training.epoch", "3"], "training: unknown setting epoch; it has epochs"),
        (["--splits.val", "test"], "deals pieces of ground to training and validation itself"),
    ],
)
def test_options_are_refused_before_data_are_read(arguments, told, capsys, tmp_path):
    assert main(["pretrain", "--system", "context", "--data", str(tmp_path / "absent.yaml"), *arguments]) == 2
    assert told in capsys.readouterr().err


def test_sensors_that_are_not_there_are_named(described, tmp_path):
    with pytest.raises(ValueError, match=r"no sensor 's3'; the cubes have s1, s2"):
        pretrain_cubes(open_cubes(described), tmp_path, modalities=["s3"])


def cube(height: int, width: int, seen: slice = slice(None)) -> Cube:
    modality = Modality("s2", "series", ("B04",), 10.0, 1, "reflectance")
    values = np.full((2, 1, height, width), np.nan, dtype=np.float32)
    values[:, :, :, seen] = np.arange(height * width, dtype=np.float32).reshape(height, width)[:, seen]
    return Cube("field", {"s2": SensorCube(modality, np.array(["2020-01-01", "2020-02-01"]), values)})


def test_pieces_share_no_pixel_and_no_window_leaves_its_piece():
    pieces = cut([cube(40, 30)], 5, reference="s2", memory=1 << 20)
    values = [piece.sensors["s2"].values[0, 0].ravel() for piece in pieces.train + pieces.validation]
    assert pieces.side == 12
    assert len(np.unique(np.concatenate(values))) == 6 * 144  # 3 x 2 pieces
    inside = pieces.interior(5)
    assert inside.sum() == 64
    assert inside[2:10, 2:10].all()


def test_as_many_pieces_are_read_as_the_memory_holds_and_empty_ones_are_left_out():
    one = 2 * 64 * 64 * 9  # bytes of a piece
    assert "3 of 16, as many as the memory allows, pieces" in str(
        cut([cube(256, 256)], 5, reference="s2", memory=3 * one)
    )
    half = cut([cube(256, 256, slice(0, 128))], 5, reference="s2", memory=1 << 30)
    assert len(half.train) + len(half.validation) == 8


def test_too_little_ground_is_refused_with_its_size():
    with pytest.raises(ValueError, match=r"10 x 9 pixels are too few for two pieces of ground with windows of 5 x 5"):
        cut([cube(10, 9)], 5, reference="s2", memory=1 << 20)
    few = cube(256, 256, slice(0, 0))
    few.sensors["s2"].values[:, :, :64, :64] = 1.0
    with pytest.raises(ValueError, match=r"'s2' was observed on 1 of 16 pieces of 64 x 64 pixels, two are wanted"):
        cut([few], 5, reference="s2", memory=1 << 20)
