"""The large case with known truth: temperature of the synthetic landscape's tiles, generated from image and place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...data import TileDataset
from ...data.spacing import evenly_spaced
from ...evaluation import Picture, Section, Table
from ...evaluation.generation import BAND, coverage, error_by_date
from ...evaluation.model_profiles import expected_profiles, profiles, sampled_profiles, tile_statistics
from ...evaluation.profile_baselines import forest_profiles, mean_profile, ridge_profiles
from ...evaluation.profile_scores import profile_scores, score_table
from ...evaluation.profiles import profile_plot
from ...settings import renamed
from ...token_fusion import TokenFusion
from ...token_fusion.counterfactual import calendar
from ...token_fusion.generate import require_token_fusion
from ...token_fusion.in_memory import Recipe, learn, tokenize
from ...token_fusion.module import TokenFusionPretraining
from ...training import save_model
from ...workflow import examine
from ...workflow.kept import keep_profiles
from ...workflow.state import State

__all__ = ["generation", "pretrain", "sensitivity"]


def pretrain(state: State, *, recipe: Mapping[str, Any], train: str = "train", validation: str = "val") -> str:
    """Trains a model by masked prediction, without labels; later steps know it as ``pretrained``.

    It is trained in memory, on tiles that are tokenized once, for it takes minutes; ``model.safetensors`` gets it. The
    losses of some masks of both splits go to ``pretrain.loss``.

    Args:
        recipe: see :class:`~fusion.token_fusion.in_memory.Recipe`.
    """
    plan, known, unseen = Recipe.of(recipe), state.split(train), state.split(validation)
    fused = learn(known, plan, state.seed)
    save_model(state.out / "model.safetensors", fused)
    state.models["pretrained"] = fused
    parameters = sum(p.numel() for p in fused.parameters())
    found = {name: _losses(fused, part, plan) for name, part in ((train, known), (validation, unseen))}
    state.metrics["pretrain"] = {"parameters": parameters, "steps": plan.steps, "loss": found}
    what = (
        f"{parameters / 1e6:.2f} M parameters, {len(fused.tokenizer.layout)} tokens a tile, {plan.steps} steps of "
        f"{plan.batch_size} of {len(known)} tiles"
    )
    names = list(fused.tokenizer.layout.slices)
    rows = [[name, *(found[part][name] for part in (train, validation))] for name in [*names, "all"]]
    table = Table(["modality", f"{train} loss", f"{validation} loss"], rows, "Cross-entropy of hidden tokens.")
    state.appendix.append(Section("Pretraining", f"{what}.", [table]))
    return f"{what}; loss {found[train]['all']:.3f}, {validation} {found[validation]['all']:.3f}"


@renamed(given="conditioning")
def generation(
    state: State,
    *,
    target: str = "temperature",
    conditioning: Sequence[str] = ("aerial", "terrain", "location"),
    place: str = "location",
    shown: int = 48,
    samples: int = 16,
    how: Mapping[str, Any] | None = None,
    key: str = "generation",
    model: str = "pretrained",
    train: str = "train",
    test: str = "test",
) -> str:
    """Generates the series ``target`` of unseen tiles from the images ``conditioning``.

    Scores go to ``<key>.<method>.rmse``.

    ``model`` is the expectation in one step. Against it: ``mean_profile`` of the training tiles; ``ridge``, a ridge
    regression for every date on the tile means of the same images; ``ridge_without_<place>``; ``ridge_texture`` and
    ``forest``, which see the deviations within the tile too. ``given_<modality>`` is the model with one of the images.

    Args:
        place: the image among ``conditioning`` that one of the ridges goes without.
        shown: tiles, evenly spaced, that ``samples`` series each are drawn for; they make the uncertainty band.
        how: arguments of :func:`fusion.token_fusion.generate.generate`.
    """
    fused = require_token_fusion(state.model(model))
    known, unseen = state.split(train), state.split(test)
    past, truth = profiles(fused, known, target), profiles(fused, unseen, target)
    means, texture = (
        [tile_statistics(part, conditioning, deviation=deviation) for part in (known, unseen)]
        for deviation in (False, True)
    )
    fewer = [tile_statistics(part, [n for n in conditioning if n != place]) for part in (known, unseen)]
    guesses = {
        "model": expected_profiles(fused, unseen, target, conditioning),
        "mean_profile": mean_profile(past, len(truth)),
        "ridge": ridge_profiles(means[0], past, means[1]),
        f"ridge_without_{place}": ridge_profiles(fewer[0], past, fewer[1]),
        "ridge_texture": ridge_profiles(texture[0], past, texture[1]),
        "forest": forest_profiles(texture[0], past, texture[1], state.seed),
    }
    guesses |= {f"given_{name}": expected_profiles(fused, unseen, target, [name]) for name in conditioning}
    found: dict[str, Any] = {name: profile_scores(truth, guess) for name, guess in guesses.items()}

    some = evenly_spaced(len(unseen), shown)
    drawn = sampled_profiles(fused, unseen.subset(some), target, conditioning, samples, state.seed, **(how or {}))
    found["samples"] = profile_scores(truth[some], np.median(drawn, axis=0))
    found["samples"]["coverage"] = coverage(truth[some], drawn)

    unit = fused.config.modality(target).unit
    conditions = (
        f"{len(truth)} tiles of blocks that training never saw; given {', '.join(conditioning)}; the series is hidden, "
        f"and so is every modality not named. Learned from {len(known)} tiles. Samples: {samples} for each of "
        f"{len(some)} tiles, their band from {BAND[0]:.0%} to {BAND[1]:.0%}; seed {state.seed}."
    )
    state.metrics[key] = found | {"conditions": conditions}
    keep_profiles(state, key, truth, guesses, unseen.blocks())
    days = calendar(fused, target)
    pick = evenly_spaced(len(some), 6)
    names = [unseen.names[some[i]] for i in pick]
    items: list[Picture | Table] = [
        score_table(found, conditions, unit),
        profile_plot(
            days,
            truth[some][pick, 0],
            drawn[:, pick, 0],
            names=names,
            unit=unit,
            conditions=f"{target.capitalize()} of six unseen tiles. {conditions}",
        ),
        error_by_date(
            days, truth, {n: guesses[n] for n in ("mean_profile", "ridge", "forest", "model")}, unit, conditions
        ),
    ]
    state.sections.append(Section(f"{target.capitalize()} generated from {', '.join(conditioning)}", "", items))
    order = ("model", "ridge", f"ridge_without_{place}", "forest", "mean_profile")
    return f"RMSE ({unit}): " + ", ".join(f"{name} {found[name]['rmse']:.3f}" for name in order)


@renamed(given="conditioning")
def sensitivity(
    state: State, *, target: str, conditioning: Sequence[str], finetuned: str | None = None, most: int = 128
) -> str:
    """Shares of the sensitivity of the generated ``target`` (``sensitivity``, ``sensitivity_bands``), and of the answer
    of a fine-tuned module that an earlier step left as ``finetuned`` (``sensitivity_<finetuned>``, with ``_bands``)."""
    told = examine.sensitivity(state, target=target, conditioning=conditioning, most=most)
    if finetuned is not None:
        module: Any = state.model(finetuned)
        state.models["examined"] = module.model
        more = examine.sensitivity(state, model="examined", head=module, most=most, key=f"sensitivity_{finetuned}")
        told += f"; of the {finetuned} answer: {more}"
    return told


@torch.no_grad()
def _losses(model: TokenFusion, tiles: TileDataset, plan: Recipe, most: int = 512) -> dict[str, float]:
    """By modality, and ``all``, of at most so many tiles."""
    tokens = tokenize(model, tiles.subset(evenly_spaced(len(tiles), most)))
    objective = TokenFusionPretraining(model.config, **plan.module).objective
    losses = objective.of_tokens(model, tokens, torch.Generator().manual_seed(0))
    return {name: float(loss) for name, loss in losses.by_modality.items()} | {"all": float(losses.total)}
