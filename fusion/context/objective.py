"""What stage 1 and stage 2 minimise: weighted masked absolute error, structural dissimilarity, spectral angle.

Peters et al. 2025 (arXiv 2511.11706). The middle pixel of the middle frame matters most; what surrounds it in space
and time gives context. Masking comes after the weights are normalised, so a sample with gaps weighs less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ContextObjective", "Losses", "centre_error", "spectral_angle", "structural_dissimilarity", "window_weights"]


def window_weights(
    frames: int, window: int, *, centre: float = 1.0, neighbour: float = 0.01, space: float = 0.1, time: float = 0.1
) -> Tensor:
    """(T, W, W) weights: ``centre`` in the middle, else s(c) a(t) of the distances in pixels (Chebyshev) and frames.

    s(0) = 1, s(c) = neighbour * space^(c-1); a(t) = time^|t|.
    """
    t = (torch.arange(frames) - frames // 2).abs()
    pixel = (torch.arange(window) - window // 2).abs()
    distance = torch.maximum(pixel[:, None], pixel)  # (W, W)
    around = torch.where(distance == 0, 1.0, neighbour * space ** (distance - 1.0))
    weights = time ** t.float()[:, None, None] * around
    weights[frames // 2, window // 2, window // 2] = centre
    return weights


def structural_dissimilarity(output: Tensor, target: Tensor, *, kernel: int = 7, sigma: float = 1.5) -> Tensor:
    """1 - SSIM of (..., C, W, W) frames scaled to about 0..1 (Wang et al. 2004; Gaussian window, zero padding)."""
    channels = output.shape[-3]
    x, y = output.flatten(0, -4), target.flatten(0, -4)
    ramp = torch.arange(kernel, device=x.device, dtype=x.dtype) - kernel // 2
    gauss = torch.exp(-0.5 * (ramp / sigma) ** 2)
    gauss = gauss / gauss.sum()
    weight = (gauss[:, None] * gauss).expand(channels, 1, kernel, kernel)
    moments = torch.cat([x, y, x * x, y * y, x * y])
    mean_x, mean_y, xx, yy, xy = F.conv2d(moments, weight, padding=kernel // 2, groups=channels).chunk(5)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (xx - mean_x**2 + yy - mean_y**2 + c2))
    return 1 - similarity.mean()


def spectral_angle(output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean angle in radians between spectra along the band axis of (B, T, C, W, W).

    ``weights`` (B, T, W, W), 0 where a spectrum is incomplete. The cosine is kept off +-1, where the gradient of the
    arc cosine has no bound.
    """
    product = (output * target).sum(dim=2)
    lengths = torch.linalg.vector_norm(output, dim=2) * torch.linalg.vector_norm(target, dim=2)
    cosine = (product / (lengths + 1e-8)).clamp(-1 + 1e-7, 1 - 1e-7)
    return (cosine.acos() * weights).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def centre_error(output: Tensor, target: Tensor, observed: Tensor) -> Tensor:
    """Mean absolute error of the observed bands of the middle pixel at the middle date: it chooses checkpoints."""
    t, w = output.shape[1] // 2, output.shape[-1] // 2
    seen = observed[:, t, :, w, w]
    error = (output - target)[:, t, :, w, w].abs()
    return (error * seen).sum() / seen.sum().clamp_min(1)


@dataclass
class Losses:
    """``total`` is the weighted sum of the others; a term that does not count is 0."""

    total: Tensor
    mae: Tensor
    ssim: Tensor
    angle: Tensor


@dataclass(frozen=True)
class ContextObjective:
    """The three terms with their weights.

    Defaults are stage 1 as trained. Stage 2 uses centre 1.5 for Sentinel-1, and mae 0.665, angle 0.315, ssim 0.02,
    centre 1.75 for Sentinel-2 (:meth:`stage2`). ``neighbour``, ``space`` and ``time`` say how fast context loses
    weight: closer to 1 puts more of the season and of the surroundings into the code.
    """

    mae: float = 1.0
    ssim: float = 0.0
    angle: float = 0.0
    centre: float = 1.0
    neighbour: float = 0.01
    space: float = 0.1
    time: float = 0.1

    @classmethod
    def stage2(cls, *, optical: bool) -> ContextObjective:
        """As documented for the joint stage: Sentinel-2 (optical) or Sentinel-1."""
        return cls(mae=0.665, ssim=0.02, angle=0.315, centre=1.75) if optical else cls(centre=1.5)

    def __call__(
        self,
        output: Tensor,
        target: Tensor,
        observed: Tensor,
        restore: Callable[[Tensor], Tensor] = lambda normalised: normalised,
    ) -> Losses:
        """Losses of windows (B, T, C, W, W).

        Args:
            observed: bool of the same shape.
            restore: normalised to physical values; an angle between spectra has no meaning on standardised ones.
        """
        frames, window = output.shape[1], output.shape[-1]
        weights = window_weights(
            frames, window, centre=self.centre, neighbour=self.neighbour, space=self.space, time=self.time
        ).to(output)
        share = (weights / (weights.sum() * output.shape[2]))[:, None]  # (T, 1, W, W)
        mae = ((output - target).abs() * share * observed).sum() / output.shape[0]
        ssim = angle = output.new_zeros(())
        if self.ssim > 0:
            ssim = structural_dissimilarity(output, target)
        if self.angle > 0:
            complete = observed.all(dim=2)  # (B, T, W, W)
            angle = spectral_angle(restore(output), restore(target), weights * complete)
        return Losses(self.mae * mae + self.ssim * ssim + self.angle * angle, mae, ssim, angle)
