"""Which tokens a model's answer hangs on: gradients of the answer with respect to the embeddings of what it sees.

Tokens are discrete, so the gradient is taken at their embeddings e. The sensitivity of a group of tokens is the mean
over places and tokens of ||dy / de|| (or of |e . dy / de|, gradient times input), and its share is that of the sum over
all groups. So many weak tokens weigh no more than one of them; ``per="group"`` adds up a group's tokens instead. The
formula is ours: of the paper's only the name is known (docs/token_fusion.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..data.tiles import TileBatch
from ..settings import renamed
from .generate import condition, evaluating, require_token_fusion
from .model import TokenFusion

__all__ = ["Answer", "Measure", "Per", "Sensitivity", "head", "sensitivity"]

Answer = Callable[[Tensor, Tensor], Tensor]  # hidden (B, N, D), visible (B, N) -> (B,) or (B, ...), summed over all
Measure = Literal["gradient", "gradient-x-input"]
Per = Literal["token", "group"]


@dataclass(frozen=True)
class Sensitivity:
    """Shares of the sensitivity; each of the three groupings adds up to 1 over all that was seen.

    Attributes:
        modality: by modality.
        band: by modality and band. Tokens of a learned image tokenizer stand for all bands at once.
        date: by modality, days (T,) and the shares (T,) of the tokens of these days; dated tokens only.
        token: (N,) mean sensitivity of every token of the layout in the answer's unit, NaN where never seen.
        places: B, over which it was averaged.
    """

    modality: dict[str, float]
    band: dict[str, dict[str, float]]
    date: dict[str, tuple[np.ndarray, np.ndarray]]
    token: np.ndarray
    places: int


@renamed(given="conditioning")
def sensitivity(
    model: TokenFusion,
    tiles: TileBatch | Iterable[TileBatch],
    target: str | Answer,
    *,
    conditioning: Sequence[str] | None = None,
    measure: Measure = "gradient",
    per: Per = "token",
) -> Sensitivity:
    """How much every modality, band and date moves an answer of the model.

    Args:
        model: a :class:`~fusion.token_fusion.TokenFusion`; its weights get no gradient.
        tiles: places, or batches of them.
        target: a modality: the answer is the mean of its expected values, all bands and dates (the target itself is
            hidden unless among ``conditioning``). Or a function of hidden states and of what is visible, such as
            :func:`head`.
        conditioning: what the model sees; by default everything but the target.
        measure: the norm of the gradient, or the absolute product of gradient and embedding.
        per: what shares compare: the mean token of each group, or all of its tokens together.

    Raises:
        TypeError: ``model`` is no TokenFusion.
        ValueError: an unknown modality, measure or ``per``, no place, or a place of which nothing is seen.
    """
    require_token_fusion(model)
    if measure not in ("gradient", "gradient-x-input"):
        raise ValueError(f"sensitivity: measure is 'gradient' or 'gradient-x-input', not {measure!r}")
    if per not in ("token", "group"):
        raise ValueError(f"sensitivity: per is 'token' or 'group', not {per!r}")
    size = len(model.tokenizer.layout)
    total, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    places = 0
    with evaluating(model):
        for batch in [tiles] if isinstance(tiles, TileBatch) else tiles:
            each, visible = _each(model, batch, target, conditioning, measure)
            total += torch.where(visible, each, 0).double().sum(0).cpu()
            count += visible.sum(0).cpu()
            places += len(batch)
    if not places:
        raise ValueError("sensitivity: no place was given")
    return _shares(model, total.numpy(), count.numpy(), places, per)


def head(module: nn.Module) -> Answer:
    """The output of a fine-tuned module as an answer for :func:`sensitivity`, to be used with its ``.model``.

    A module of :mod:`fusion.token_fusion.heads` answers itself: as its first member, values as they were on average.
    """
    if hasattr(module, "answer"):
        return cast(Answer, module.answer)
    model, output = require_token_fusion(module.get_submodule("model")), module.get_submodule("head")

    def answer(hidden: Tensor, visible: Tensor) -> Tensor:
        return output(model.summarise(hidden, visible).summary)

    return answer


def _each(
    model: TokenFusion, batch: TileBatch, target: str | Answer, conditioning: Sequence[str] | None, measure: Measure
) -> tuple[Tensor, Tensor]:
    """(B, N) sensitivity of every token, and which ones are visible."""
    layout = model.tokenizer.layout
    tokens, visible = condition(model, batch, [target] if isinstance(target, str) else [], conditioning)
    with torch.no_grad():
        embedded = model.embed(tokens, visible)
    embedded = embedded.detach().requires_grad_()
    with torch.enable_grad():
        hidden = model.run(embedded, visible)
        if isinstance(target, str):
            part = layout.slices[target]
            chances = torch.softmax(model.logits(hidden[:, part], target).float(), dim=-1)
            answer = model.tokenizer.expected(target, chances).flatten(1).mean(1)  # (B,)
        else:
            answer = target(hidden, visible)
        (gradient,) = torch.autograd.grad(answer.sum(), embedded)  # places do not see each other
    if measure == "gradient":
        return gradient.norm(dim=-1), visible
    return (gradient * embedded.detach()).sum(-1).abs(), visible


def _shares(model: TokenFusion, total: np.ndarray, count: np.ndarray, places: int, per: Per) -> Sensitivity:
    layout = model.tokenizer.layout
    modality, channel, time = (part.cpu().numpy() for part in (layout.modality, layout.channel, layout.time))

    def shares(groups: dict) -> dict:
        """The sensitivity of every group of tokens, to a sum of 1; groups that were never seen are left out."""
        seen = {key: at for key, at in groups.items() if count[at].any()}
        weight = {k: total[at].sum() / (count[at].sum() if per == "token" else places) for k, at in seen.items()}
        whole = sum(weight.values())
        return {key: float(own / whole) if whole > 0 else 0.0 for key, own in weight.items()}

    of = {m: modality == m for m in range(len(layout.names))}
    by_modality = shares({layout.names[m]: at for m, at in of.items()})
    by_band = shares({(m, int(c)): at & (channel == c) for m, at in of.items() for c in np.unique(channel[at])})
    by_date = shares({(m, t): at & (time == t) for m, at in of.items() for t in np.unique(time[at]) if np.isfinite(t)})
    band: dict[str, dict[str, float]] = {}
    for (m, c), share in by_band.items():
        band.setdefault(layout.names[m], {})[_band(model, layout.names[m], c)] = share
    date = {}
    for m, name in enumerate(layout.names):
        dated = {t: share for (k, t), share in by_date.items() if k == m}
        if dated:
            date[name] = (np.array(list(dated)), np.array(list(dated.values())))
    with np.errstate(invalid="ignore"):
        token = np.where(count > 0, total / count, np.nan)
    return Sensitivity(by_modality, band, date, token, places)


def _band(model: TokenFusion, name: str, channel: int) -> str:
    """What a channel of a modality's tokens is called."""
    bands, channels = model.config.modality(name).bands, model.tokenizer.layout.channels(name)
    if channels == 1 and len(bands) > 1:
        return "all bands"
    if channel < len(bands):
        return bands[channel]
    kinds = ("scale",) if channels == 2 * len(bands) else ("level", "spread")
    kind, which = divmod(channel - len(bands), len(bands))
    return f"{kinds[kind]} of {bands[which]}" if len(bands) > 1 else kinds[kind]
