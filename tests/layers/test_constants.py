"""Models made without memory, then filled from a checkpoint, are the models that were saved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fusion.compat.omnisat import OriginalOmniSat
from fusion.compat.vector_quantize_pytorch import FSQ
from fusion.data import Modality, TileBatch
from fusion.layers.constants import Constants
from fusion.omnisat import OmniSat, OmniSatConfig

pytestmark = pytest.mark.usefixtures("seeded")

IMAGE = Modality("aerial", "image", ("R", "G"), 5.0, 2, mean=(100.0, 50.0), std=(20.0, 10.0))
IMAGES = 100 + 20 * torch.arange(2 * 2 * 4 * 6).view(2, 2, 4, 6).sin()


def _omnisat() -> OmniSat:
    return OmniSat(OmniSatConfig.preset("tiny", (IMAGE,), (2, 3), dim=16, mlp_dim=32, heads=2, series_heads=2)).eval()


def _original() -> OriginalOmniSat:
    modality = Modality("aerial", "image", ("R", "G"), 5.0, 2)
    return OriginalOmniSat((modality,), 4, dim=16, depth=1, heads=2).eval()


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]] = {
    "OmniSat": (
        _omnisat,
        lambda m: m(TileBatch({"aerial": IMAGES}, {}, {"aerial": torch.ones(2, dtype=torch.bool)}, ("a", "b"))).patches,
    ),
    "OriginalOmniSat": (_original, lambda m: m({"aerial": IMAGES[..., :4]}, {})),
    "FSQ": (lambda: FSQ([8, 5, 5], dim=6), lambda m: m(IMAGES.view(2, -1, 6) / 100)[0]),
}


def _on_meta_then_empty(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        model = make()
    model.to_empty(device="cpu").load_state_dict(state)
    return model


def _on_meta_then_assigned(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        model = make()
    model.load_state_dict(state, assign=True)
    return model


def _to_meta_and_back(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    model = make().to("meta").to_empty(device="cpu")
    model.load_state_dict(state)
    return model


def _emptied(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    model = make().to_empty(device="cpu")
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("fill", [_on_meta_then_empty, _on_meta_then_assigned, _to_meta_and_back, _emptied])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_filled_from_a_checkpoint_is_the_one_that_was_saved(name: str, fill: Callable[..., nn.Module]) -> None:
    make, use = MODELS[name]
    saved = make()
    assert torch.equal(use(fill(make, saved.state_dict()).eval()), use(saved))


def test_constants_are_cast_moved_and_changed_like_buffers() -> None:
    module = Constants()
    module.register_constant("scale", lambda: torch.tensor([1.5, 2.5]))
    assert module.state_dict() == {}
    assert module.double().scale.dtype == torch.float64
    module.scale.mul_(2)  # a user's own
    assert module.float().scale.tolist() == [3.0, 5.0]
    assert module.to("meta").scale.is_meta
    assert module.to_empty(device="cpu").scale.tolist() == [3.0, 5.0]
