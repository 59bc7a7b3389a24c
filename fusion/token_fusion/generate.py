"""Generating some modalities of a place from others: what is hidden is drawn in steps, each seeing those before it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..data.tiles import TileBatch
from ..settings import renamed
from . import decoding
from .decoding import Cooling, Schedule, Scheme
from .model import TokenFusion
from .tokens import Tokens

__all__ = ["Generated", "condition", "evaluating", "expect", "generate", "quantile", "require_token_fusion"]

CHUNK = 1 << 22  # probabilities at a time


@dataclass(frozen=True)
class Generated:
    """S samples of B places.

    Attributes:
        codes: (S, B, N) int64 over the model's layout: what was given and what was generated; -1 elsewhere.
        values: by target, what its codes stand for in physical units, (S, B, ...) as the tokenizer's ``decode``.
    """

    codes: Tensor
    values: dict[str, Tensor]

    def median(self, name: str) -> Tensor:
        """(B, ...) of the samples."""
        return quantile(self.values[name], 0.5)

    def band(self, name: str, low: float = 0.1, high: float = 0.9) -> tuple[Tensor, Tensor]:
        """Two quantiles over the samples, (B, ...) each: how sure the model is, as far as its samples tell."""
        return quantile(self.values[name], low), quantile(self.values[name], high)


@renamed(given="conditioning")
@torch.no_grad()
def generate(
    model: TokenFusion,
    tiles: TileBatch | Tokens,
    targets: Sequence[str],
    *,
    conditioning: Sequence[str] | None = None,
    scheme: Scheme = "maskgit",
    steps: int = 8,
    schedule: Schedule = "cosine",
    temperature: float = 1.0,
    cooling: Cooling = "constant",
    top_p: float = 1.0,
    samples: int = 1,
    seed: int = 0,
    places: Sequence[str] | None = None,
) -> Generated:
    """Draws the modalities ``targets``, one after another; each one drawn joins the condition of the next.

    Of a target that is among ``conditioning``, what was observed is kept and the rest is drawn. A draw depends on the
    model, on the place's own tokens and name, and on ``seed``, not on what else is in the batch.

    Args:
        model: a :class:`~fusion.token_fusion.TokenFusion`.
        tiles: B places, with or without the targets, or their tokens.
        conditioning: modalities to draw from; by default all that the places have, but the targets.
        scheme: what each step fixes: ``"maskgit"`` the codes that the model finds likeliest, ``"roar"`` any,
            ``"one-step"`` all at once, independent of each other.
        steps, schedule: see :func:`~fusion.token_fusion.decoding.schedule`.
        temperature, cooling: see :func:`~fusion.token_fusion.decoding.temperatures`; 0 takes the likeliest code.
        top_p: draw only from the likeliest codes that hold this share of the probability.
        samples: S; several tell how sure the model is.
        places: B names that the draws follow instead of those of ``tiles``.

    Raises:
        TypeError: ``model`` is no TokenFusion.
        ValueError: unknown modalities, a target that is wholly given, a place of which nothing is given, or a setting
            out of range.
    """
    if samples < 1 or seed < 0:
        raise ValueError(f"generate: at least 1 sample and a seed of at least 0, got {samples=}, {seed=}")
    if scheme not in ("maskgit", "roar", "one-step"):
        raise ValueError(f"generate: scheme is 'maskgit', 'roar' or 'one-step', not {scheme!r}")
    if not targets:
        raise ValueError("generate: no target; name the modalities to generate")
    plan = _Plan(scheme, 1 if scheme == "one-step" else steps, schedule, temperature, cooling, top_p)
    with evaluating(model):
        tokens, visible = condition(model, tiles, targets, conditioning)
        names = _names(tiles, len(visible)) if places is None else list(places)
        if len(names) != len(visible):
            raise ValueError(f"generate: {len(names)} names of places for {len(visible)} places")
        tokens = replace(tokens, codes=tokens.codes.where(visible, -1))
        layout = model.tokenizer.layout
        first = model.predict(tokens, visible, targets[0])  # the same for all samples
        drawn = []
        for sample in range(samples):
            now, seen = tokens, visible
            logits: Tensor | None = first
            for target in targets:
                part = layout.slices[target]
                levels = _levels(names, target, (seed, sample), plan.steps, part.stop - part.start)
                now, seen = _draw(model, now, seen, target, plan, levels.to(visible.device), logits)
                logits = None
            drawn.append(now.codes)
        values = {
            name: torch.stack([model.tokenizer.decode(name, codes[:, layout.slices[name]]) for codes in drawn])
            for name in targets
        }
    return Generated(torch.stack(drawn), values)


@renamed(given="conditioning")
@torch.no_grad()
def expect(
    model: TokenFusion, tiles: TileBatch | Tokens, target: str, *, conditioning: Sequence[str] | None = None
) -> Tensor:
    """The expected values of a modality, (B, ...) as the tokenizer's ``expected``: one step, no draw.

    The best single guess in squared error that the model has; smoother than anything it would draw. Arguments and
    errors are those of :func:`generate`; what was observed of a target that is also given is kept.
    """
    with evaluating(model):
        tokens, visible = condition(model, tiles, [target], conditioning)
        part = model.tokenizer.layout.slices[target]
        known, codes = visible[:, part, None], tokens.codes[:, part, None].clamp_min(0)
        probable = torch.softmax(model.predict(tokens, visible, target).float(), dim=-1)  # (B, n, K)
        certain = torch.zeros_like(probable).scatter(-1, codes, 1.0)
        return model.tokenizer.expected(target, torch.where(known, certain, probable))


@renamed(given="conditioning")
def condition(
    model: TokenFusion, tiles: TileBatch | Tokens, targets: Sequence[str], conditioning: Sequence[str] | None = None
) -> tuple[Tokens, Tensor]:
    """The tokens of B places, and which of them (B, N) may be seen when ``targets`` (possibly none) are wanted.

    Raises:
        TypeError, ValueError: as :func:`generate`.
    """
    require_token_fusion(model)
    layout = model.tokenizer.layout
    for what, names in (("targets", targets), ("conditioning", conditioning or ())):
        if isinstance(names, str):
            raise TypeError(f"{what} must be a list of modalities, not the string {names!r}")
        if unknown := [name for name in names if name not in layout.slices]:
            raise ValueError(f"{what}: no modality {', '.join(unknown)}; the model has {', '.join(layout.slices)}")
    if len(set(targets)) < len(targets):
        raise ValueError(f"targets must be different modalities, not {list(targets)}")
    sources = [name for name in layout.slices if name not in targets] if conditioning is None else list(conditioning)
    home = next(model.parameters()).device
    tokens = model.tokenize(tiles.to(home)) if isinstance(tiles, TileBatch) else tiles
    visible = torch.zeros_like(tokens.observed)
    for name in sources:
        visible[:, layout.slices[name]] = tokens.observed[:, layout.slices[name]]
    for target in targets:
        if visible[:, layout.slices[target]].all():
            raise ValueError(
                f"{target} is wholly given at all {len(visible)} places: nothing is left to generate; leave it out of "
                "the modalities that are given"
            )
    if blind := (~visible.any(1)).nonzero().flatten().tolist():
        names = _names(tiles, len(visible))
        raise ValueError(
            f"{len(blind)} of {len(visible)} places, e.g. {', '.join(names[b] for b in blind[:4])}, have nothing of "
            f"what is given ({', '.join(sources) or 'no modality'}); give other modalities, or leave these places out"
        )
    return tokens, visible


def require_token_fusion(model: nn.Module) -> TokenFusion:
    """``model``, if it is one that can generate.

    Raises:
        TypeError: ``model`` is no TokenFusion.
    """
    if not isinstance(model, TokenFusion):
        inside = isinstance(getattr(model, "model", None), TokenFusion)
        hint = "give its .model" if inside else "pretrain one with `fusion pretrain --preset token-fusion`"
        raise TypeError(f"a TokenFusion is wanted, this is {type(model).__name__}; {hint}")
    return model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def quantile(samples: Tensor, level: float) -> Tensor:
    """(S, ...) -> (...): a quantile over the samples, linear between neighbours, of tensors of any size."""
    at = level * (len(samples) - 1)
    below = int(at)
    ordered = samples.sort(dim=0).values
    return torch.lerp(ordered[below], ordered[min(below + 1, len(samples) - 1)], at - below)


@dataclass(frozen=True)
class _Plan:
    scheme: Scheme
    steps: int
    schedule: Schedule
    temperature: float
    cooling: Cooling
    top_p: float

    def of(self, missing: int) -> tuple[list[int], list[float]]:
        """Tokens and temperature of every step at a place where so many are missing."""
        sizes = decoding.schedule(missing, self.steps, self.schedule)
        return sizes, decoding.temperatures(sizes, self.temperature, self.cooling)


def _draw(
    model: TokenFusion,
    tokens: Tokens,
    visible: Tensor,
    target: str,
    plan: _Plan,
    levels: Tensor,
    logits: Tensor | None,
) -> tuple[Tokens, Tensor]:
    """Tokens with those missing of ``target`` drawn, and what is visible then.

    Args:
        levels: (B, steps + 1, n) in [0, 1): of the draws of every step, and of the random order.
        logits: (B, n, K) of the first step, if known.
    """
    part = model.tokenizer.layout.slices[target]
    plans = [plan.of(count) for count in (~visible[:, part]).sum(1).tolist()]
    sizes, heat = (torch.tensor(rows, device=visible.device) for rows in zip(*plans, strict=True))  # (B, steps)
    tokens, visible = replace(tokens, codes=tokens.codes.clone()), visible.clone()
    for step in range(plan.steps):
        if not sizes[:, step].any():
            continue
        if logits is None:
            logits = model.predict(tokens, visible, target)
        codes, certainty = _codes(logits, heat[:, step], plan.top_p, levels[:, step])
        preference = levels[:, -1] if plan.scheme == "roar" else certainty
        chosen = _best(preference, ~visible[:, part], sizes[:, step])
        tokens.codes[:, part] = torch.where(chosen, codes, tokens.codes[:, part])
        visible[:, part] |= chosen
        logits = None
    return tokens, visible


def _codes(logits: Tensor, heat: Tensor, top_p: float, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Draws from logits (B, n, K) at temperatures (B,): codes (B, n), and how likely the model finds each.

    A few places at a time: this takes several copies in float64, and a vocabulary may be large.
    """
    size = max(1, CHUNK // logits[0].numel())
    parts = []
    for some, hot, level in zip(logits.split(size), heat.split(size), levels.split(size), strict=True):
        codes = decoding.codes_at(decoding.probabilities(some, hot[:, None], top_p), level)
        likely = torch.softmax(some.double(), -1).gather(-1, codes[..., None])[..., 0]
        parts.append((codes, likely))
    codes, likely = (torch.cat(column) for column in zip(*parts, strict=True))
    return codes, likely


def _best(preference: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    """(B, n) bool: of the candidates in each row, the ``counts`` (B,) with the highest preference, first ones first."""
    order = preference.masked_fill(~candidates, -1).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return rank < counts[:, None]


def _levels(names: Sequence[str], target: str, seed: tuple[int, int], steps: int, width: int) -> Tensor:
    """(B, steps + 1, n) float64 in [0, 1): the same for a place and a sample, whatever else is in the batch."""
    rows = []
    for name in names:
        place = int.from_bytes(hashlib.blake2b(f"{target}/{name}".encode(), digest_size=8).digest(), "big")
        rows.append(np.random.default_rng((*seed, place)).random((steps + 1, width)))
    return torch.from_numpy(np.stack(rows))


def _names(tiles: TileBatch | Tokens, count: int) -> list[str]:
    """What tells places apart: their names, or else their numbers in the batch."""
    names = tiles.names if isinstance(tiles, TileBatch) else ()
    return list(names) or [str(number) for number in range(count)]
