"""How masked tokens are decoded in steps: how many a step, at which temperature, from which codes.

Iterative decoding is MaskGIT's (Chang et al. 2022), the schedules are those of 4M (Mizrahi et al. 2023) and TerraMind
(Jakubik et al. 2025). One step more than one token, one token more than one step: any number of either is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["Cooling", "Schedule", "Scheme", "codes_at", "probabilities", "schedule", "temperatures", "top_p_filter"]

Scheme = Literal["maskgit", "roar", "one-step"]
Schedule = Literal["cosine", "linear"]
Cooling = Literal["constant", "linear", "onex"]


def schedule(tokens: int, steps: int, kind: Schedule = "cosine") -> list[int]:
    """How many of ``tokens`` are fixed in each of ``steps``; the sum is ``tokens``, and a step may fix none.

    ``linear`` shares them out evenly. ``cosine`` begins and ends slowly: step i fixes what (1 + cos(pi i / steps)) / 2,
    the share still masked, loses in it, rounded; the last step fixes the rest.

    Raises:
        ValueError: no step, a negative number of tokens, or an unknown kind.
    """
    if steps < 1 or tokens < 0:
        raise ValueError(f"schedule: at least one step and no negative number of tokens, got {tokens=}, {steps=}")
    if kind == "linear":
        return [tokens // steps + (i < tokens % steps) for i in range(steps)]
    if kind != "cosine":
        raise ValueError(f"schedule: kind is one of {', '.join(get_args(Schedule))}, not {kind!r}")
    masked = [(1 + math.cos(math.pi * i / steps)) / 2 for i in range(steps)]
    sizes, left = [], tokens
    for before, after in pairwise(masked):
        sizes.append(min(round(tokens * (before - after)), left))  # rounding up may otherwise fix more than there are
        left -= sizes[-1]
    return [*sizes, left]


def temperatures(
    sizes: Sequence[int],
    temperature: float = 1.0,
    kind: Cooling = "constant",
    *,
    lowest: float = 0.5,
    power: float = 0.5,
) -> list[float]:
    """The temperature of each step of a schedule.

    ``linear`` falls with the share of tokens already fixed. ``onex`` falls from near ``temperature`` to ``lowest`` as
    the share still to be fixed after the step, times x^-power at 1, 1 + 99/(tokens - 1), ... (scaled to go from 1 at
    x = 1 to 0 at x = 100).

    Args:
        sizes: tokens a step, as from :func:`schedule`.
        temperature: of the first step; 0 takes the most likely code.
        lowest, power: of ``onex``.

    Raises:
        ValueError: a negative temperature, ``lowest`` above it, or an unknown kind.
    """
    if temperature < 0 or not math.isfinite(temperature):
        raise ValueError(f"temperatures: temperature must be 0 or more, not {temperature}")
    if kind == "constant":
        return [float(temperature)] * len(sizes)
    tokens, fixed = max(1, sum(sizes)), list(accumulate(sizes))
    if kind == "linear":
        return [temperature * (1 - before / tokens) for before in [0, *fixed[:-1]]]
    if kind != "onex":
        raise ValueError(f"temperatures: kind is one of {', '.join(get_args(Cooling))}, not {kind!r}")
    if not 0 <= lowest <= temperature or power <= 0:
        raise ValueError(f"temperatures: 0 <= lowest <= {temperature=} and power > 0, got {lowest=}, {power=}")
    apart, floor = 99 / max(1, tokens - 1), 100.0**-power
    decay = [(min(100.0, 1 + i * apart) ** -power - floor) / (1 - floor) for i in range(len(sizes))]
    return [lowest + (temperature - lowest) * d * (1 - done / tokens) for d, done in zip(decay, fixed, strict=True)]


def top_p_filter(probabilities: Tensor, top_p: float) -> Tensor:
    """Keeps the fewest likely codes (..., K) that hold at least ``top_p`` of the probability; they sum to 1 again.

    The most likely code always stays; of equally likely ones the lower code is kept first.

    Raises:
        ValueError: ``top_p`` is not in (0, 1].
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, not {top_p}")
    if top_p == 1:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # what the likelier ones hold
    kept = torch.zeros_like(probabilities).scatter(-1, order, ordered * (before < top_p))
    return kept / kept.sum(-1, keepdim=True)


def probabilities(logits: Tensor, temperature: float | Tensor = 1.0, top_p: float = 1.0) -> Tensor:
    """Logits (..., K) -> probabilities (..., K) to draw from, float64.

    ``temperature`` is a number, or (...) for each row; where it is 0 the most likely code alone is left.
    """
    logits = logits.double()
    heat = torch.as_tensor(temperature, dtype=torch.float64, device=logits.device).expand(logits.shape[:-1])[..., None]
    likeliest = torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    spread = torch.softmax(logits / heat.masked_fill(heat == 0, 1.0), dim=-1)
    return torch.where(heat == 0, likeliest, top_p_filter(spread, top_p))


def codes_at(probabilities: Tensor, levels: Tensor) -> Tensor:
    """The codes (...,) where the cumulated probabilities (..., K) pass ``levels`` (...,) in [0, 1).

    With levels drawn evenly these are draws; codes are ordered as values are, so that the same levels give comparable
    draws of two distributions. A code of probability 0 is never drawn.
    """
    cumulated = probabilities.cumsum(-1)
    passed = cumulated <= (levels.to(cumulated) * cumulated[..., -1])[..., None]
    return passed.sum(-1).clamp_max(probabilities.shape[-1] - 1)
