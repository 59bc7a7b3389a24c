"""What a stage-1 autoencoder and a stage-2 fusion are made of; plain types go into checkpoints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fusion.data import Modality
from fusion.settings import renamed, with_tuples

__all__ = ["FusionConfig", "SensorConfig", "paper_scale"]


@renamed(feedforward="mlp_dim", lively_start="variance_preserving_init")
@dataclass(frozen=True)
class SensorConfig:
    """One sensor's autoencoder. The defaults are those of Peters et al. for Sentinel-2.

    Attributes:
        modality: bands, unit, statistics; ``patch_size`` is the side of the context window in pixels. 1 means a series
            without spatial context (a site, a parcel mean).
        frames: dates in a context window, odd; the embedded date is the middle one.
        bottleneck: dimensions of the code (2 for Sentinel-1).
        reduced: frames left by the linear map over time.
        widths: channels of the frame encoder, from the first convolution to the last.
        depth, heads, mlp_dim, dropout: of the temporal transformer; an MLP of width 8 is no slip, theirs is.
        span: largest number of days from the first to the last frame.
        drop_maps: share of whole feature maps dropped in the frame encoder and decoder; little for narrow ones,
            which cannot spare many.
        convolutional: False takes a frame's window as one vector through two linear maps instead of the CNN: fifteen
            times as fast a training of a small window on a CPU, and what a window of 1 always gets.
        spacing: least number of days from one frame to the next; 0 takes the nearest dates, as the paper does. A
            sensor that comes every few days sees half a season through spaced frames, and a fortnight through others.
        smooth_days: the table of days starts as sines and cosines, so that neighbouring days are alike, instead of at
            random; a few thousand samples do not teach 201 unrelated rows.
        norm_first: the temporal transformer normalises before its layers, not after them.
        variance_preserving_init: convolutions and linear maps start with weights that keep a signal's variance. With
            PyTorch's own a window changes the reconstruction by a millionth at first, and half of a short training is
            spent on that.
    """

    modality: Modality
    frames: int = 11
    bottleneck: int = 9
    reduced: int = 7
    widths: tuple[int, int, int, int] = (149, 128, 64, 16)
    depth: int = 3
    heads: int = 8
    mlp_dim: int = 8
    dropout: float = 0.25
    span: int = 200
    drop_maps: tuple[float, float] = (0.07, 0.1)
    convolutional: bool = True
    spacing: int = 0
    smooth_days: bool = False
    norm_first: bool = False
    variance_preserving_init: bool = False

    def __post_init__(self) -> None:
        name = self.modality.name
        if self.frames < 1 or self.frames % 2 == 0 or self.window % 2 == 0:
            raise ValueError(
                f"sensor {name!r}: {self.frames} frames of {self.window} x {self.window} pixels have no middle; both "
                "must be odd"
            )
        if self.window == 3 and self.convolutional:
            raise ValueError(f"sensor {name!r}: the CNN wants a window of at least 5 pixels, or 1 (no context), not 3")
        if self.code % self.heads:
            raise ValueError(f"sensor {name!r}: {self.heads} heads do not divide the {self.code} entries of a frame")

    @property
    def modalities(self) -> tuple[Modality]:
        """The one there is; training checks the data against it."""
        return (self.modality,)

    @property
    def window(self) -> int:
        """Pixels per side of the context window."""
        return self.modality.patch_size

    @property
    def centre(self) -> int:
        """Position of the embedded date."""
        return self.frames // 2

    @property
    def flat(self) -> bool:
        """Whether a frame's window is one vector."""
        return self.window == 1 or not self.convolutional

    @property
    def grid(self) -> int:
        """Side of the map that two strided convolutions leave of a window."""
        return 1 if self.flat else self.window // 2 // 2 + 1

    @property
    def code(self) -> int:
        """Entries of one frame's code: the width of the temporal transformer."""
        return self.widths[-1] * self.grid**2

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"modality": self.modality.to_dict()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> SensorConfig:
        """From :meth:`to_dict`, or from a YAML; former names of fields are understood."""
        plain = with_tuples(fields)
        modality = plain["modality"]
        return cls(**plain | {"modality": modality if isinstance(modality, Modality) else Modality.from_dict(modality)})


@renamed(feedforward="mlp_dim")
@dataclass(frozen=True)
class FusionConfig:
    """Several sensors' autoencoders and what joins them. The defaults are those of Peters et al.

    Attributes:
        sensors: in the order of their tokens; the first is the reference, whose dates are embedded.
        embedding: dimensions of the fused code.
        dim, depth, heads, mlp_dim, dropout: of the transformer over one token a sensor.
        longest_gap: days between the reference's date and another sensor's; longer gaps count as this one.
    """

    sensors: tuple[SensorConfig, ...]
    embedding: int = 7
    dim: int = 128
    depth: int = 2
    heads: int = 4
    mlp_dim: int = 256
    dropout: float = 0.1
    longest_gap: int = 350

    def __post_init__(self) -> None:
        names = [s.modality.name for s in self.sensors]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"fusion: sensors must be named and distinct, not {names}")

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(s.modality for s in self.sensors)

    @property
    def reference(self) -> SensorConfig:
        return self.sensors[0]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"sensors": [s.to_dict() for s in self.sensors]}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> FusionConfig:
        """From :meth:`to_dict`; former names of fields are understood."""
        sensors = tuple(SensorConfig.from_dict(s) for s in fields["sensors"])
        return cls(**fields | {"sensors": sensors})


def paper_scale(modality: Modality) -> Modality:
    """The scale of Peters et al. as mean and std: reflectance to 0..1, backscatter from -30..5 dB to 0..1.

    Raises:
        ValueError: another unit; use the statistics of the data (``fusion.data.fit_statistics``).
    """
    scales = {"reflectance x 10000": (0.0, 10_000.0), "reflectance": (0.0, 1.0), "dB": (-30.0, 35.0)}
    if modality.unit not in scales:
        raise ValueError(
            f"modality {modality.name!r}: no scale for the unit {modality.unit!r}, only {', '.join(scales)}"
        )
    low, extent = scales[modality.unit]
    return modality.with_statistics((low,) * modality.channels, (extent,) * modality.channels)
