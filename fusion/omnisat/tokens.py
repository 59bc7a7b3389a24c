"""What the encoders of all modalities say of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Tokens"]


@dataclass
class Tokens:
    """What the encoders say before anything is combined, and what the decoders need of the inputs.

    Attributes:
        names: the M modalities, in the order of the model.
        tokens: (M, B, P, D), meaningless where a modality is missing.
        valid: (M, B) bool, which tiles have which modality.
        patches: by modality, the standardised input: (B*P, C, s, s) for images, (B, P, L, C*s*s) for series.
        indices: images, the pooling positions of all B*P patches.
        attention: series, (B, L).
        maps: images, what the encoder has before each pooling, coarse to fine (B*P, D, side, side); if asked for.
    """

    names: tuple[str, ...]
    tokens: Tensor
    valid: Tensor
    patches: dict[str, Tensor]
    indices: dict[str, list[Tensor]]
    attention: dict[str, Tensor]
    maps: dict[str, list[Tensor]] = field(default_factory=dict)
