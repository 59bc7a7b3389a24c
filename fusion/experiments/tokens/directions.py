"""Counterfactuals whose answer is known: the synthetic landscape raised, moved north, and grown over with forest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ...data import LandscapeTiles, TileBatch, TileDataset, collate
from ...evaluation import Picture, Section, Table
from ...evaluation.model_profiles import tile_statistics
from ...evaluation.profiles import counterfactual_plot
from ...settings import renamed
from ...token_fusion.counterfactual import Change, Edit, add, compare, counterfactual, exchange
from ...token_fusion.generate import require_token_fusion
from ...workflow.state import State

__all__ = ["known_directions"]

_DAYS = np.arange(365)


@dataclass(frozen=True)
class _Case:
    """One edit, the tiles it is made of, what becomes of them in truth, and what must hold.

    Attributes:
        mean, amplitude: the sign of the change of the mean and of the amplitude, 0 where nothing is claimed.
        truth: (n, 365) daily temperature before and after.
    """

    name: str
    told: str
    tiles: TileBatch
    edit: Edit
    mean: int
    amplitude: int
    truth: tuple[np.ndarray, np.ndarray]


@renamed(given="conditioning")
def known_directions(
    state: State,
    *,
    target: str = "temperature",
    conditioning: Sequence[str] = ("aerial", "terrain", "location"),
    raised: float = 200.0,
    north: float = 5.0,
    open_below: float = 0.02,
    woods_above: float = 0.98,
    key: str = "counterfactual",
    model: str = "pretrained",
    train: str = "train",
    test: str = "test",
) -> str:
    """Edits unseen tiles and asks whether the generated ``target`` moves as the landscape's formula says it must.

    * ``raised``: terrain higher by so many m makes the mean colder.
    * ``north``: a place so many degrees further north has a colder mean and a larger amplitude.
    * ``woods``: the image of a forest instead of one of open land, both of other tiles, makes the amplitude smaller.

    Raised and moved are only tiles that stay within what training saw: beyond it a token model knows nothing.
    ``<key>.<edit>.direction_ok`` is the share of tiles in which all that is claimed of an edit holds, and
    ``<key>.direction_ok`` the smallest of them; ``mean`` and ``amplitude`` are the mean changes, ``true_mean`` and
    ``true_amplitude`` what they ought to be.

    Args:
        open_below, woods_above: share of trees of a tile whose image counts as one of open land, of forest.
    """
    known, unseen = state.split(train), state.split(test)
    if not isinstance(unseen, LandscapeTiles):
        raise ValueError("known_directions: only the built-in landscape knows what should happen")
    fused = require_token_fusion(state.model(model))
    found: dict[str, Any] = {}
    items: list[Picture | Table] = []
    rows: list[list[Any]] = []
    unit, seed = fused.config.modality(target).unit, f"seed {state.seed}"
    cases = [
        _raised(known, unseen, conditioning, raised),
        _north(known, unseen, conditioning, north),
        _woods(unseen, conditioning, open_below, woods_above, state.seed),
    ]
    for case in cases:
        made = counterfactual(fused, case.tiles, case.edit, target, conditioning=conditioning)
        model_change = Change(*(part[:, 0] for part in (made.change.mean, made.change.amplitude, made.change.phase)))
        true_change = compare(*case.truth, _DAYS)
        right = np.ones(len(case.tiles), dtype=bool)
        for sign, moved in ((case.mean, model_change.mean), (case.amplitude, model_change.amplitude)):
            if sign:
                right &= np.sign(moved) == sign
        entry: dict[str, Any] = {"tiles": len(right), "direction_ok": float(right.mean())}
        for quantity in ("mean", "amplitude", "phase"):
            entry[quantity] = float(getattr(model_change, quantity).mean())
            entry[f"true_{quantity}"] = float(getattr(true_change, quantity).mean())
        found[case.name] = entry
        rows.append([case.told, len(right), entry["direction_ok"]])
        rows[-1] += [entry[name] for name in ("mean", "true_mean", "amplitude", "true_amplitude")]
        moves = {"mean": model_change.mean, "amplitude": model_change.amplitude, "phase": model_change.phase}
        where = f"{len(right)} unseen tiles, {case.told}; {right.mean():.1%} move as they must; {seed}."
        before, after = made.before[:, 0], made.after[:, 0]
        items.append(counterfactual_plot(made.days, before, after, moves, unit=unit, edit=case.name, conditions=where))
    found["direction_ok"] = min(entry["direction_ok"] for entry in found.values())
    state.metrics[key] = found
    columns = ["edit", "tiles", "right direction", f"mean ({unit})", "true", f"amplitude ({unit})", "true amplitude"]
    sources = ", ".join(conditioning)
    caption = f"Mean changes over the tiles, generated from {sources}, and by the landscape's formula; {seed}."
    items.insert(0, Table(columns, rows, caption))
    state.sections.append(Section("Counterfactuals with a known answer", "", items))
    return ", ".join(f"{case.name} {found[case.name]['direction_ok']:.1%} of {len(case.tiles)}" for case in cases)


def _batch(dataset: TileDataset, rows: np.ndarray, given: Sequence[str]) -> TileBatch:
    part = dataset.with_modalities(list(given))
    return collate([part[int(i)] for i in rows], list(given))


def _within(name: str, levels: np.ndarray, highest: float) -> np.ndarray:
    rows = np.flatnonzero(levels <= highest)
    if not len(rows):
        raise ValueError(f"known_directions: no tile can be {name} and stay within what training saw; edit by less")
    return rows


def _air(dataset: LandscapeTiles, rows: np.ndarray, *, raised: float = 0.0, north: float = 0.0) -> np.ndarray:
    return np.stack([dataset.air(int(i), raised=raised, north=north) for i in rows])


def _raised(known: TileDataset, unseen: LandscapeTiles, given: Sequence[str], metres: float) -> _Case:
    rows, edit = _shift(known, unseen, "terrain", "elevation", metres, "raised")
    truth = _air(unseen, rows), _air(unseen, rows, raised=metres)
    return _Case("raised", f"raised by {metres:g} m", _batch(unseen, rows, given), edit, -1, 0, truth)


def _north(known: TileDataset, unseen: LandscapeTiles, given: Sequence[str], degrees: float) -> _Case:
    rows, edit = _shift(known, unseen, "location", "latitude", degrees, "moved")
    truth = _air(unseen, rows), _air(unseen, rows, north=degrees)
    return _Case("north", f"moved north by {degrees:g}°", _batch(unseen, rows, given), edit, -1, 1, truth)


def _shift(
    known: TileDataset, unseen: LandscapeTiles, modality: str, band: str, amount: float, done: str
) -> tuple[np.ndarray, Edit]:
    """Tiles whose first band of ``modality`` stays within what training saw when ``amount`` is added, and that edit."""
    now, limit = (tile_statistics(part, [modality])[:, 0] for part in (unseen, known))
    rows = _within(done, now + amount, limit.max())
    return rows, partial(add, modality=unseen.modality(modality), amounts={band: amount})


def _woods(unseen: LandscapeTiles, given: Sequence[str], low: float, high: float, seed: int) -> _Case:
    """Every tile with the image of some open tile, then with that of some forest; terrain and place stay its own."""
    trees = unseen.tree_share()
    rng = np.random.default_rng(seed)
    donors = [np.flatnonzero(trees <= low), np.flatnonzero(trees >= high)]
    if min(map(len, donors)) == 0:
        raise ValueError(
            f"known_directions: {len(donors[0])} tiles have at most {low:g} of trees, {len(donors[1])} at least "
            f"{high:g}; both are needed"
        )
    rows = np.arange(len(unseen))
    open_land, woods = (torch.from_numpy(rng.choice(part, len(rows))) for part in donors)
    tiles = _batch(unseen, rows, given)
    before, after = (
        np.stack([unseen.air(int(i), trees_of=int(j)) for i, j in zip(rows, order, strict=True)])
        for order in (open_land, woods)
    )
    edit = partial(exchange, names=["aerial"], source=tiles, order=woods)
    told = "the image of another tile's forest instead of open land"
    return _Case("woods", told, exchange(tiles, ["aerial"], order=open_land), edit, 0, -1, (before, after))
