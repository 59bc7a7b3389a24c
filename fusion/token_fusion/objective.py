"""What is learned: to predict hidden tokens from visible ones, with budgets drawn for every modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..data.tiles import TileBatch
from .cross_entropy import masked_cross_entropy, most_likely
from .model import TokenFusion
from .tokens import Layout, Tokens

__all__ = ["Losses", "MaskedPrediction", "draw_budgets", "draw_masks"]


def draw_budgets(
    available: Tensor,
    inputs: tuple[int, int],
    targets: tuple[int, int],
    alphas: Sequence[float] = (0.1, 1.0, 10.0),
    whole: float = 0.8,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """How many tokens of every modality are visible and how many are to be predicted, for each sample.

    A budget of tokens is drawn and shared by the modalities with shares from a Dirichlet distribution, whose
    concentration is one of ``alphas`` (small: nearly all to one modality; large: alike). Shares are rounded down,
    what is left over goes to modalities drawn by their shares, and no modality gets more than it has; targets come
    from what is not visible. So far 4M (Mizrahi et al., NeurIPS 2023).

    Its extremes are what generation asks for, and a Dirichlet distribution with more tokens than budget rarely meets
    them. A share ``whole`` of the samples therefore hides whole modalities and shows all of the others: half of these
    hide one, the other half any number up to all but one, those of many tokens more often than those of few. This is
    our addition.

    Args:
        available: (B, M) tokens that were observed.
        inputs, targets: smallest and largest budget of tokens, both possible.
        generator: of the random numbers; default: torch's own.

    Returns:
        visible, targets: (B, M) int64, together at most ``available``.

    Raises:
        ValueError: budgets, alphas or share out of range.
    """
    for name, (low, high) in (("inputs", inputs), ("targets", targets)):
        if not 0 <= low <= high:
            raise ValueError(f"draw_budgets: {name} must be 0 <= low <= high tokens, not {(low, high)}")
    if not alphas or min(alphas) <= 0 or not 0 <= whole <= 1:
        raise ValueError(f"draw_budgets: alphas > 0 and whole in [0, 1], got {tuple(alphas)}, {whole}")
    seed = int(torch.randint(2**62, (), generator=generator))
    rng = np.random.default_rng(seed)
    have = available.cpu().numpy().astype(np.int64)  # (B, M)
    visible = _shared_out(rng, have, inputs, alphas)
    predicted = _shared_out(rng, have - visible, targets, alphas)
    hide = rng.random(len(have)) < whole
    concealed = _conceal(rng, have)
    visible[hide] = np.where(concealed, 0, have)[hide]
    predicted[hide] = np.where(concealed, have, 0)[hide]
    return torch.from_numpy(visible).to(available.device), torch.from_numpy(predicted).to(available.device)


def _shared_out(
    rng: np.random.Generator, have: np.ndarray, budget: tuple[int, int], alphas: Sequence[float]
) -> np.ndarray:
    """(B, M) tokens of a budget, shared by the modalities that have any."""
    samples = len(have)
    total = rng.integers(budget[0], budget[1] + 1, samples)
    alpha = np.asarray(alphas)[rng.integers(len(alphas), size=samples)][:, None]
    # Gamma(a) as Gamma(a + 1) U^(1/a), in logarithms: for small a the plain numbers would all be zero.
    log_gamma = np.log(rng.standard_gamma(np.broadcast_to(alpha + 1, have.shape)))
    log_gamma += np.log1p(-rng.random(have.shape)) / alpha
    log_gamma[have <= 0] = -np.inf
    peak = log_gamma.max(1, keepdims=True)
    share = np.exp(log_gamma - np.where(np.isfinite(peak), peak, 0))
    share /= np.maximum(share.sum(1, keepdims=True), 1e-300)
    given = np.floor(share * total[:, None]).astype(np.int64)
    for b in np.flatnonzero(share.sum(1) > 0):
        given[b] += rng.multinomial(total[b] - given[b].sum(), share[b] / share[b].sum())
    return np.minimum(given, have)


def _conceal(rng: np.random.Generator, have: np.ndarray) -> np.ndarray:
    """(B, M) bool: one modality of every sample, or, half of the time, any number; not all, if it has two.

    One after another is drawn with a chance proportional to the root of its tokens (an exponential race).
    """
    with np.errstate(divide="ignore"):
        race = rng.exponential(size=have.shape) / np.sqrt(have)  # infinite for what a sample does not have
    order = race.argsort(1).argsort(1)
    most = np.maximum((have > 0).sum(1) - 1, 1)
    several = 1 + np.floor(rng.random(len(have)) * most)
    hidden = np.where(rng.random(len(have)) < 0.5, 1, several)
    return (order < hidden[:, None]) & (have > 0)


def draw_masks(
    tokens: Tokens,
    layout: Layout,
    inputs: tuple[int, int] | None = None,
    targets: tuple[int, int] | None = None,
    alphas: Sequence[float] = (0.1, 1.0, 10.0),
    whole: float = 0.8,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Which tokens are visible and which are to be predicted: (B, N) bool each, disjoint, observed ones only.

    Within a modality tokens are drawn at random. Budgets: see :func:`draw_budgets`; None: from 1 to all N.
    """
    everything = (1, len(layout))
    observed = tokens.observed.cpu()
    parts = list(layout.slices.values())
    available = torch.stack([observed[:, part].sum(1) for part in parts], 1)  # (B, M)
    budgets = draw_budgets(available, inputs or everything, targets or everything, alphas, whole, generator=generator)
    noise = torch.rand(observed.shape, generator=generator).masked_fill(~observed, 2.0)
    visible, predicted = torch.zeros_like(observed), torch.zeros_like(observed)
    for part, n_visible, n_predicted in zip(parts, *(counts.T for counts in budgets), strict=True):
        rank = noise[:, part].argsort(1).argsort(1)
        visible[:, part] = rank < n_visible[:, None]
        predicted[:, part] = (rank >= n_visible[:, None]) & (rank < (n_visible + n_predicted)[:, None])
    return visible.to(tokens.codes.device), predicted.to(tokens.codes.device)


@dataclass
class Losses:
    """Of one batch.

    Attributes:
        total: (), what is minimised.
        by_modality: mean loss of the targets of each modality that has any.
        accuracy: share of their targets whose code was the most likely one; empty unless asked for.
        counts: number of their targets.
    """

    total: Tensor
    by_modality: dict[str, Tensor]
    accuracy: dict[str, Tensor]
    counts: dict[str, int]


@dataclass(frozen=True)
class MaskedPrediction:
    """Cross-entropy of hidden tokens.

    Attributes:
        inputs, targets, alphas, whole: see :func:`draw_masks`.
        spread: standard deviation of the target, in codes, where neighbouring codes mean nearly the same (bins); 0
            makes it the true code alone. With hundreds of bins and few tiles a target of one bin teaches the model
            to remember tiles; that it is nearly the next bin, too, is worth telling. Our choice.
        average: ``"modality"``: the mean over a sample's modalities of each one's mean, and that over samples.
            (TerraMind takes the mean over modalities last, of means over the batch; in small batches a modality of
            which a single token is asked would then weigh as much as all tokens of another.) ``"token"``: the mean
            over all targets, so that long series weigh more than what nobody could predict of a few tokens.
    """

    inputs: tuple[int, int] | None = None
    targets: tuple[int, int] | None = None
    alphas: tuple[float, ...] = (0.1, 1.0, 10.0)
    whole: float = 0.8
    spread: float = 1.0
    average: Literal["modality", "token"] = "modality"

    def __post_init__(self) -> None:
        if self.average not in ("modality", "token"):
            raise ValueError(f"MaskedPrediction: average is 'modality' or 'token', not {self.average!r}")

    def __call__(
        self,
        model: TokenFusion,
        batch: TileBatch,
        generator: torch.Generator | None = None,
        *,
        accuracy: bool = False,
    ) -> Losses:
        """Draws masks (from ``generator``, default: torch's own) and scores what the model says of the targets."""
        return self.of_tokens(model, model.tokenize(batch), generator, accuracy=accuracy)

    def of_tokens(
        self, model: TokenFusion, tokens: Tokens, generator: torch.Generator | None = None, *, accuracy: bool = False
    ) -> Losses:
        """As a call, for tokens that are at hand."""
        masks = draw_masks(
            tokens, tokens.layout, self.inputs, self.targets, self.alphas, self.whole, generator=generator
        )
        return self.score(model, tokens, *masks, accuracy=accuracy)

    def score(
        self, model: TokenFusion, tokens: Tokens, visible: Tensor, targets: Tensor, *, accuracy: bool = False
    ) -> Losses:
        """The losses of the targets (B, N), given the visible tokens (B, N)."""
        slots = (visible | targets).any(0).nonzero()[:, 0]  # what no sample needs is not computed
        states = model.to_scores(model.hidden(tokens, visible, slots))  # (B, S, D)
        losses = Losses(states.sum() * 0, {}, {}, {})
        total, weights = states.new_zeros(len(tokens)), states.new_zeros(len(tokens))  # (B,) of every sample
        for name, part in tokens.layout.slices.items():
            inside = (slots >= part.start) & (slots < part.stop)
            asked = targets[:, slots[inside]]  # (B, S_m)
            if not bool(asked.any()):
                continue
            rows = states[:, inside][asked]  # (R, D)
            codes = tokens.codes[:, slots[inside]][asked]
            channel = tokens.layout.channel.to(codes.device)[slots[inside]].expand(asked.shape)[asked]
            ordinal = model.tokenizer.part(name).ordinal.to(codes.device)
            table = model.codes[name]
            loss = masked_cross_entropy(rows, table, channel, codes, self.spread * ordinal[channel].float())
            count, sample = asked.sum(1), asked.nonzero()[:, 0]  # (B,), (R,)
            weight = torch.ones_like(loss) if self.average == "token" else 1 / count[sample].to(loss.dtype)
            total = total.index_add(0, sample, (weight * loss).to(total.dtype))
            weights.index_add_(0, sample, weight.to(total.dtype))
            losses.by_modality[name] = loss.detach().mean()
            losses.counts[name] = len(codes)
            if accuracy:
                losses.accuracy[name] = (most_likely(rows, table, channel) == codes).float().mean()
        if losses.by_modality:
            if self.average == "token":
                losses.total = total.sum() / weights.sum()
            else:
                asked_at_all = weights > 0.5  # the number of modalities, rounded
                losses.total = (total[asked_at_all] / weights[asked_at_all]).mean()
        return losses
