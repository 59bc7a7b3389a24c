"""A trained model in terratorch's registry of backbones, for its decoders and tasks.

Written after terratorch 1.2.13: ``terratorch.registry.TERRATORCH_BACKBONE_REGISTRY.register`` takes a callable and
keeps it by its ``__name__``; ``BACKBONE_REGISTRY.build(name, **kwargs)`` calls it; a backbone has ``out_channels``, a
list with the width of each of the feature maps that ``forward`` returns as a list, tokens (B, N, D) or maps
(B, D, h, w) (``EncoderDecoderFactory``, ``ReshapeTokensToImage``). It was read and not run: it depends on torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ..arrays import ArrayModel
from .backbone import Backbone

__all__ = ["TerratorchBackbone", "register_backbone"]


class TerratorchBackbone(nn.Module):
    """What terratorch's factories take: features as a list, and their widths.

    Args:
        run, options: see :class:`~fusion.adapters.backbone.Backbone`.
        features: ``"map"``: (B, D, h, w), which necks for images pass on; ``"tokens"``: (B, h * w, D) in raster order
            without a class token (``ReshapeTokensToImage`` wants ``remove_cls_token=False`` then).
        levels: so many times the same features, for decoders that want several (UperNet: 4). Necks such as
            ``LearnedInterpolateToPyramidal`` make a pyramid of them.

    Attributes:
        out_channels: D for each level. There is no ``patch_size``, so that terratorch does not pad: give images of a
            tile's size or of whole multiples of it.
    """

    def __init__(
        self,
        run: str | Path | ArrayModel,
        *,
        features: Literal["map", "tokens"] = "map",
        levels: int = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        if features not in ("map", "tokens") or levels < 1:
            raise ValueError(f"terratorch: features 'map' or 'tokens' and levels >= 1, not {features!r}, {levels}")
        self.backbone = Backbone(run, **options)
        self.features = features
        self.out_channels = [self.backbone.num_features] * levels

    def forward(self, x: Tensor | Mapping[str, Tensor], days: Any = None, **ignored: Any) -> list[Tensor]:
        """Features of B inputs.

        Args:
            x: (B, C, H, W); of a series (B, C, T, H, W), bands before dates as terratorch has them; or a mapping of
                these by modality.
            days: see :meth:`fusion.adapters.backbone.Backbone.forward`.
            ignored: coordinates and the like, which other backbones take.
        """
        given = x if isinstance(x, Mapping) else {self.backbone.modality: x}
        maps = self.backbone({n: one.transpose(1, 2) if one.ndim == 5 else one for n, one in given.items()}, days)
        out = maps if self.features == "map" else maps.flatten(2).transpose(1, 2)
        return [out] * len(self.out_channels)


def register_backbone(name: str, run: str | Path | ArrayModel, **defaults: Any) -> Callable[..., TerratorchBackbone]:
    """Makes a trained model known to terratorch: ``backbone: NAME`` in its configurations.

    ::

        register_backbone("fields_s2", "runs/mine", dates=dates)
        BACKBONE_REGISTRY.build("fields_s2", features="tokens")

    Args:
        name: a Python identifier. terratorch takes what is before the first ``_`` for a source of models if it is one:
            ``terratorch_``, ``timm_``, ``smp_``, ``mmseg_``.
        run: loaded whenever the backbone is built.
        defaults: arguments of :class:`TerratorchBackbone`, which ``backbone_kwargs`` may change.

    Returns:
        what was registered.

    Raises:
        ImportError: terratorch is not installed. ValueError: a name that is taken or no identifier.
    """
    if not name.isidentifier():
        raise ValueError(f"register_backbone: {name!r} is no identifier; take letters, digits and _")
    try:
        from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
    except ImportError as error:
        raise ImportError("register_backbone needs terratorch: pip install terratorch") from error
    if name in TERRATORCH_BACKBONE_REGISTRY:
        raise ValueError(f"register_backbone: terratorch already has a backbone {name!r}; take another name")

    def build(**changes: Any) -> TerratorchBackbone:
        return TerratorchBackbone(run, **{**defaults, **changes})

    build.__name__ = name
    TERRATORCH_BACKBONE_REGISTRY.register(build)
    return build
