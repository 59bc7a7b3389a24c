"""Names of the published OmniSat's weights, and how state dicts with them are loaded into our modules."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..omnisat.image import ImageDecoder, ImageEncoder
from ..omnisat.series import SeriesDecoder

__all__ = ["Loaded", "load_state", "original_state"]

_Model = Any  # an OriginalOmniSat, whose module imports this one
_log = logging.getLogger(__name__)
_WRAPPERS = ("module", "_orig_mod")  # of DistributedDataParallel and torch.compile
_ENCODER = ("cls_token", "pos_embed", "blocks.", "projector_")  # what an encoder's own names begin with
_DAYS = "temp_encoding.weight"  # a frozen table of day encodings; ours are computed


@dataclass(frozen=True)
class Loaded:
    """What :meth:`OriginalOmniSat.load_original` left out.

    ``unused``: entries of the state dict without a place in the model, by their own names: heads, modalities that
    the model does not have, image decoders without index bypass. ``kept``: weights of the model that the state dict
    does not have, by the original's names: decoders and mask token, for those of an encoder alone.
    """

    unused: tuple[str, ...]
    kept: tuple[str, ...]


def load_state(model: _Model, given: Mapping[str, Any]) -> Loaded:
    """What :meth:`OriginalOmniSat.load_original` does."""
    state = _plain_names(given)
    table = dict(_names(model))
    own = model.state_dict()
    halves: dict[str, dict[str, Tensor]] = {}
    found: dict[str, Tensor] = {}
    unused, unknown, misfits = [], [], []
    encoders, decoders = (
        tuple(f"{part}.projector_{m.name}." for m in model.modalities) for part in ("encoder", "decoder")
    )
    without_bypass = _without_bypass(model, state)
    for name, (label, value) in state.items():
        stem, _, leaf = name.rpartition(".")
        if name.startswith(("head.", "mlp.", *without_bypass)) or _of_others(name, encoders, decoders):
            unused.append(label)
        elif name.endswith(_DAYS) and name.startswith(decoders):
            misfits += _wrong_period(model, name, label, value)
        elif stem in (f"{_key_value(model)}k", f"{_key_value(model)}v"):
            halves.setdefault(leaf, {})[stem[-1]] = value
            wanted = _shape(own, f"cross.attention.project_in.{leaf}", halved=True)
            misfits += [] if wanted == tuple(value.shape) else [f"{label} {tuple(value.shape)}, here {wanted}"]
        elif name in table or stem in table:
            ours = table[name] if name in table else f"{table[stem]}.{leaf}"
            found[ours] = value
            wanted = _shape(own, ours)
            if wanted is None:
                unknown.append(label)
            elif wanted != tuple(value.shape):
                misfits.append(f"{label} {tuple(value.shape)}, here {wanted}")
        else:
            unknown.append(f"{label} {tuple(value.shape)}")
    if unknown:
        raise ValueError(f"load_original: {_some(unknown)} {_have(unknown)} no place in this model")
    if misfits:
        raise ValueError(f"load_original: {_some(misfits)}; build the model with the checkpoint's sizes")
    for leaf, pair in halves.items():
        for part in {"k", "v"} - set(pair):
            raise ValueError(f"load_original: an entry is missing: {_key_value(model)}{part}.{leaf}")
        found[f"cross.attention.project_in.{leaf}"] = torch.cat([pair["k"], pair["v"]])
    return _fill(model, found, own, unused)


def original_state(model: _Model) -> dict[str, Tensor]:
    """What :meth:`OriginalOmniSat.original_state_dict` returns."""
    stems = {ours: name for name, ours in _names(model)}
    state = {}
    for name, value in model.state_dict().items():
        stem, _, leaf = name.rpartition(".")
        if stem == "cross.attention.project_in":
            for part, half in zip("kv", value.chunk(2), strict=True):
                state[f"{_key_value(model)}{part}.{leaf}"] = half
        else:
            state[stems[name] if name in stems else f"{stems[stem]}.{leaf}"] = value
    for name, decoder in model.decoders.items():
        if isinstance(decoder, SeriesDecoder) and not name.endswith("-mono"):
            days = torch.arange(int(decoder.period))
            state[f"decoder.projector_{name}.{_DAYS}"] = decoder.encode_days(days)
    return state


def _fill(model: _Model, found: dict[str, Tensor], own: dict[str, Tensor], unused: list[str]) -> Loaded:
    names = {ours: name for name, ours in _names(model)}
    absent = [name for name in own if name not in found]
    needed = [name for name in absent if not name.startswith(("decoders.", "mask_token"))]
    # A decoder is loaded whole or not at all.
    torn = {name.split(".")[1] for name in found if name.startswith("decoders.")}
    needed += [name for name in absent if name.startswith("decoders.") and name.split(".")[1] in torn]
    if needed:
        named = [_original(name, names, model) for name in needed]
        raise ValueError(f"load_original: {len(named)} entries are missing: {_some(named)}")
    model.load_state_dict(found, strict=False)
    loaded = Loaded(tuple(unused), tuple(_original(name, names, model) for name in absent))
    if loaded.unused:
        _log.warning("load_original: %d entries are not used: %s", len(unused), _some(unused))
    if loaded.kept:
        _log.warning("load_original: %d weights keep their values: %s", len(absent), _some(list(loaded.kept)))
    return loaded


def _plain_names(given: Mapping[str, Any]) -> dict[str, tuple[str, Tensor]]:
    """By the name within the pretraining model (``encoder.``, ``decoder.``): the name that was given, and the value."""
    if not isinstance(given, Mapping):
        raise TypeError(f"load_original: expected a state dict, got a {type(given).__name__}; torch.load it first")
    given = given["state_dict"] if isinstance(given.get("state_dict"), Mapping) else given
    state: dict[str, tuple[str, Tensor]] = {}
    for label, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"load_original: {label} is of type {type(value).__name__}, not a tensor; give the state dict, or "
                "the checkpoint that has it under 'state_dict'"
            )
        parts = [part for part in label.split(".") if part not in _WRAPPERS]
        while parts[0] == "model":
            parts = parts[1:]
        name = ".".join(parts)
        name = f"encoder.{name}" if name.startswith(_ENCODER) else name
        if name in state:
            raise ValueError(f"load_original: {label} and {state[name][0]} are both {name}; give one model's state")
        state[name] = (label, value)
    return state


def _of_others(name: str, encoders: tuple[str, ...], decoders: tuple[str, ...]) -> bool:
    """Whether an entry belongs to a modality that the model does not have."""
    theirs = name.startswith(("encoder.projector_", "decoder.projector_"))
    return theirs and not name.startswith((*encoders, *decoders))


def _without_bypass(model: _Model, state: Mapping[str, Any]) -> tuple[str, ...]:
    """What the names of image decoders without index bypass begin with: their convolutions have even numbers too."""
    images = [name for name, decoder in model.decoders.items() if isinstance(decoder, ImageDecoder)]
    prefixes = [f"decoder.projector_{name}." for name in images]
    return tuple(prefix for prefix in prefixes if f"{prefix}decode.0.weight" in state)


def _wrong_period(model: _Model, name: str, label: str, value: Tensor) -> list[str]:
    modality = name.removeprefix("decoder.projector_").removesuffix(f".{_DAYS}")
    decoder = model.decoders[modality]
    period = getattr(decoder, "period", None)
    if period is None or len(value) == int(period):
        return []
    return [f"{label} is of days with period {len(value)}, here {int(period)}"]


def _shape(own: dict[str, Tensor], name: str, *, halved: bool = False) -> tuple[int, ...] | None:
    if name not in own:
        return None
    first, *rest = own[name].shape or (1,)
    return (first // 2, *rest) if halved else tuple(own[name].shape)


def _original(name: str, names: dict[str, str], model: _Model) -> str:
    """The original's name of a parameter of ours."""
    stem, _, leaf = name.rpartition(".")
    if stem == "cross.attention.project_in":
        return f"{_key_value(model)}k.{leaf}"
    return names[name] if name in names else f"{names[stem]}.{leaf}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _key_value(model: _Model) -> str:
    """What the names of the cross-attention's key and value projections begin with ("k" or "v" follows)."""
    return f"encoder.blocks.{len(model.blocks)}.attn.w"


def _names(model: _Model) -> Iterator[tuple[str, str]]:
    """Original and own name of every module with weights, and of every parameter that is nobody's weight."""
    yield "masked_token", "mask_token"
    yield "encoder.cls_token", "summary"
    yield "encoder.pos_embed", "position"
    for name, encoder in model.encoders.items():
        original, own = f"encoder.projector_{name}", f"encoders.{name}"
        if isinstance(encoder, ImageEncoder):
            yield f"{original}.proj.0", f"{own}.stem.conv"
            yield f"{original}.proj.1", f"{own}.stem.norm"
            for k in range(len(encoder.blocks)):
                for theirs, ours in (("conv1", "conv1"), ("conv2", "conv2"), ("bn", "norm")):
                    yield f"{original}.proj.{4 + 2 * k}.{theirs}", f"{own}.blocks.{k}.{ours}"
            continue
        yield f"{original}.attention_heads.Q", f"{own}.attention.query"
        yield f"{original}.attention_heads.fc1_k", f"{own}.attention.key"
        yield f"{original}.in_norm", f"{own}.in_norm"
        yield f"{original}.out_norm", f"{own}.out_norm"
        for k in range(3):
            yield f"{original}.inconv.{4 * k}", f"{own}.date_layers.{k}"
            yield f"{original}.inconv.{4 * k + 1}", f"{own}.date_norms.{k}"
            yield f"{original}.mlp.{3 * k}", f"{own}.layers.{k}"
            yield f"{original}.mlp.{3 * k + 1}", f"{own}.norms.{k}"
    for name, decoder in model.decoders.items():
        original, own = f"decoder.projector_{name}.decode", f"decoders.{name}"
        if isinstance(decoder, ImageDecoder):
            for k in range(len(decoder.convolutions)):
                yield f"{original}.{2 * k + 1}", f"{own}.convolutions.{k}"
        else:
            yield f"{original}.0", own
    for k in range(len(model.blocks) + 1):
        cross = k == len(model.blocks)
        original, own = f"encoder.blocks.{k}", "cross" if cross else f"blocks.{k}"
        yield f"{original}.norm1", f"{own}.attention_norm"
        yield f"{original}.norm2", f"{own}.feed_forward_norm"
        yield f"{original}.mlp.fc1", f"{own}.feed_forward.expand"
        yield f"{original}.mlp.fc2", f"{own}.feed_forward.contract"
        yield f"{original}.attn.proj", f"{own}.attention.project_out"
        table = f"{original}.attn.rpe_k.lookup_table_weight"
        if not cross:
            yield f"{original}.attn.qkv", f"{own}.attention.project_in"
            yield table, f"{own}.attention.table"
            continue
        yield table, f"{own}.attention.parametrizations.table.original"
        yield f"{original}.attn.q_learned", "query"
        yield f"{original}.attn.pos_embed", "query_position"
