"""What configurations of models of tiles share, and that former names of fields are understood."""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from fusion.data import Modality
from fusion.omnisat import OmniSatConfig
from fusion.token_fusion import TokenFusionConfig
from fusion.training import load_model

HEIGHT = Modality("height", "image", ("mean",), 10.0, 1, "m")
GRID = (2, 2)
BOTH = pytest.mark.parametrize("kind", [OmniSatConfig, TokenFusionConfig])


@BOTH
def test_former_names_mean_what_they_meant(kind):
    today = kind((HEIGHT,), GRID, mlp_dim=64)
    assert kind((HEIGHT,), GRID, width=64) == today
    saved = today.to_dict()
    assert kind.from_dict(saved) == today
    saved["width"] = saved.pop("mlp_dim")
    assert kind.from_dict(saved) == today
    assert kind.preset("tiny", (HEIGHT,), GRID, width=64) == kind.preset("tiny", (HEIGHT,), GRID, mlp_dim=64)
    assert replace(today, mlp_dim=32).mlp_dim == 32
    assert "mlp_dim" in inspect.signature(kind).parameters


def test_the_mlp_of_series_too():
    assert OmniSatConfig.preset("tiny", (HEIGHT,), GRID, series_hidden=8).series_mlp_dim == 8


@BOTH
def test_what_is_wrong_is_named(kind):
    name = kind.__name__
    with pytest.raises(TypeError, match=rf"{name}\(\): width is the former name of mlp_dim; give mlp_dim alone"):
        kind((HEIGHT,), GRID, mlp_dim=64, width=64)
    with pytest.raises(ValueError, match=f"{name}: no modality given"):
        kind((), GRID)
    with pytest.raises(ValueError, match=f"{name}: modalities share a name: height, height"):
        kind((HEIGHT, HEIGHT), GRID)
    with pytest.raises(ValueError, match=f"{name}: grid must be"):
        kind((HEIGHT,), (0, 2))
    with pytest.raises(ValueError, match=f"{name}: unknown field colour"):
        kind.from_dict(kind((HEIGHT,), GRID).to_dict() | {"colour": 3})
    with pytest.raises(ValueError, match=f"{name}: unknown preset 'huge'; one of tiny"):
        kind.preset("huge", (HEIGHT,), GRID)
    with pytest.raises(ValueError, match="unknown modality 's2'; the model has height"):
        kind((HEIGHT,), GRID).modality("s2")
    with pytest.raises(TypeError, match="colour"):
        kind.preset("tiny", (HEIGHT,), GRID, colour=3)


def test_a_checkpoint_from_before_is_of_the_configuration_it_was_of():
    saved = Path(__file__).parents[1] / "training" / "saved" / "omnisat.safetensors"
    model = load_model(saved)
    load_model(saved, config=model.config)
    with pytest.raises(ValueError, match="mlp_dim: 16 in the checkpoint, 32 wanted"):
        load_model(saved, config=replace(model.config, mlp_dim=32))
