"""Whether a network is faster in bfloat16 without harm; what is calculated is up to others."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Trial"]

_FASTER = 0.9  # of the time in float32: less is not worth the digits


@dataclass(frozen=True)
class Trial:
    """The same calculations, e.g. steps of the same weights, tiles and random numbers, in float32 and in bfloat16.

    Attributes:
        seconds: of one, the median: in float32, in bfloat16; 0 where none was tried.
        difference: of the result, over that of float32. Of training: the mean over the steps of the absolute difference
            of the loss over the float32 mean.
        unavailable: why bfloat16 was not tried; empty where it was.
        calculation, result: what they are, in words.
        tolerance: the largest difference that is allowed.
    """

    seconds: tuple[float, float] = (0.0, 0.0)
    difference: float = 0.0
    unavailable: str = ""
    calculation: str = "a step"
    result: str = "the loss"
    tolerance: float = 0.01

    @property
    def lower(self) -> bool:
        """Whether bfloat16 is faster without harm."""
        return self.seconds[1] < _FASTER * self.seconds[0] and self.difference <= self.tolerance

    @property
    def precision(self) -> str:
        """As ``lightning.Trainer`` names it."""
        return "bf16-mixed" if self.lower else "32-true"

    def __str__(self) -> str:
        if self.unavailable:
            return f"float32: {self.unavailable}"
        own, other = (f"{seconds:.3g} s" for seconds in self.seconds)
        return (
            f"{'bfloat16' if self.lower else 'float32'}: {self.calculation} takes {other} in bfloat16, {own} in "
            f"float32; {self.result} differs by {self.difference:.2%}, {self.tolerance:.0%} at most are allowed"
        )
