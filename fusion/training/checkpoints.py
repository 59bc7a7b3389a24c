"""A checkpoint is one readable safetensors file: weights, and in its header everything needed to use them.

The header's metadata holds the system's name, its configuration (modalities with bands, units and statistics), the
versions of this package and of torch, and the metrics reached. It can be read without loading a tensor, by any
safetensors reader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from lightning import LightningModule

    from .ensemble import Ensemble
    from .probed import Probed

from fusion import __version__
from fusion.settings import plain

from .configurations import differences, with_former_settings, with_todays_names
from .files import write_atomically
from .seals import check_tensors, sealed_tensors
from .systems import SYSTEMS, config_of, system_of

__all__ = [
    "FORMAT",
    "Header",
    "load_finetuned",
    "load_model",
    "model_bytes",
    "read_header",
    "save_model",
]

FORMAT = 2  # raised when the meaning of the metadata changes; since 2 there is a checksum
BEST = "best.safetensors"
# What is raised of settings that are none, or that ask for more memory than there is.
_OF_SETTINGS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
_ON_TOP = "finetuned."  # prefix of tensors that are not the model's


@dataclass(frozen=True)
class Header:
    """What a checkpoint says about itself.

    ``finetuned`` is ``{}`` for a bare encoder, else the settings of what was trained on top of it, ``task`` and
    ``classes`` among them.
    """

    system: str
    config: dict[str, Any]
    version: str = __version__
    torch: str = torch.__version__
    metrics: dict[str, float] = field(default_factory=dict)
    finetuned: dict[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """Strings only, as safetensors wants; what is not text is JSON."""
        return {
            "format": str(FORMAT),
            "system": self.system,
            "config": json.dumps(self.config),
            "eo-fusion": self.version,
            "torch": self.torch,
            "metrics": json.dumps(self.metrics),
            "finetuned": json.dumps(self.finetuned),
        }


def save_model(
    path: Path | str,
    model: nn.Module,
    *,
    metrics: Mapping[str, float] | None = None,
    finetuned: LightningModule | Probed | Ensemble | None = None,
) -> Path:
    """Writes ``model``, and what was fine-tuned on top of it, as one safetensors file; atomically.

    Args:
        model: of a registered system, with ``.config``.
        metrics: numbers to remember, e.g. the validation loss.
        finetuned: the fine-tuning LightningModule around ``model``, the :class:`Probed` or the :class:`Ensemble`; its
            own tensors (head, target statistics, what an estimator learned, other members) and its ``hparams`` are
            stored too.

    Raises:
        TypeError: the model's class belongs to no registered system.
        RuntimeError: no space or no permission; the previous file is untouched.
    """
    return write_atomically(path, model_bytes(model, metrics=metrics, finetuned=finetuned))


def model_bytes(
    model: nn.Module,
    *,
    metrics: Mapping[str, float] | None = None,
    finetuned: LightningModule | Probed | Ensemble | None = None,
) -> bytes:
    """The file that :func:`save_model` would write now.

    Raises:
        TypeError: the model's class belongs to no registered system.
    """
    header = Header(
        system_of(model),
        config_of(model).to_dict(),
        metrics={k: float(v) for k, v in (metrics or {}).items()},
        finetuned={} if finetuned is None else _plain(dict(finetuned.hparams)),
    )
    tensors = dict(model.state_dict())
    if finetuned is not None:
        tensors |= {_ON_TOP + name: tensor for name, tensor in _on_top(finetuned).items()}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses two names for one storage; tied weights are written twice and tied again by the model.
        storage = tensor.untyped_storage()
        whole = storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        tensors[name] = tensor if whole else tensor.clone()
    return sealed_tensors(tensors, header.to_metadata())


def read_header(path: Path | str) -> Header:
    """What the checkpoint at ``path`` says about itself, if its bytes are those that were written (checksum).

    Raises:
        FileNotFoundError: there is no such file; the message lists checkpoints nearby.
        ValueError: it is truncated or damaged, was not written by this package, or by a newer one.
    """
    from safetensors import SafetensorError, safe_open

    path = _file(path)
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        near = ", ".join(sorted(p.name for p in folder.glob("*.safetensors"))) or "none"
        raise FileNotFoundError(f"no checkpoint {path}; checkpoints in {folder}: {near}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is not a complete safetensors file: {error}. It may have been "
            "copied partially; last.safetensors or best.safetensors beside it may be whole"
        ) from error
    if "system" not in metadata or "eo-fusion" not in metadata:
        known = ", ".join(metadata) or "nothing"
        raise ValueError(
            f"{path} holds tensors, but it was not written by eo-fusion: its metadata has {known}, not the system and "
            "configuration that rebuild a model"
        )
    form = metadata.get("format", "")
    if not re.fullmatch("[0-9]{1,9}", form):
        raise ValueError(f"{path} is damaged: its metadata has the checkpoint format {form!r}; take another copy of it")
    if int(form) > FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {form}, written by eo-fusion {metadata['eo-fusion']}; this is "
            f"eo-fusion {__version__}, which reads up to format {FORMAT}: upgrade with pip install -U eo-fusion"
        )
    if int(form) > 1 or "sha256" in metadata:
        check_tensors(path)
    read = {key: _settings(path, key, metadata.get(key, "{}")) for key in ("config", "metrics", "finetuned")}
    return Header(metadata["system"], version=metadata["eo-fusion"], torch=metadata.get("torch", ""), **read)


def _settings(path: Path, key: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: its metadata has the {key} {text[:60]!r}; take another copy of it")
    return found


def load_model(path: Path | str, *, system: str | None = None, config: Any = None) -> nn.Module:
    """The model saved at ``path``, on the CPU and in evaluation mode.

    Args:
        path: a safetensors file, or a run folder (then its ``best.safetensors``).
        system: the system it must be, e.g. ``"omnisat"``.
        config: a configuration (object with ``to_dict``, or a dictionary) that it must have.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_header`; or another system, another configuration (every field
            that differs is named), or tensors that do not fit the configuration.
    """
    path, header = _file(path), read_header(path)
    wrong = []
    if system is not None and header.system != system:
        wrong.append(f"system: {header.system!r} in the checkpoint, {system!r} wanted")
    if config is not None:
        wanted = config.to_dict() if hasattr(config, "to_dict") else config
        saved = (
            with_todays_names(header.config, SYSTEMS[header.system].load("config"))
            if header.system in SYSTEMS
            else header.config
        )
        wrong += differences(saved, json.loads(json.dumps(wanted)))
    if wrong:
        raise ValueError(f"{path} is a checkpoint of another configuration:\n  " + "\n  ".join(wrong))
    model = _build(path, header)
    own = {name: tensor for name, tensor in _tensors(path).items() if not name.startswith(_ON_TOP)}
    _load(path, header, model, own)
    return model.eval()


def load_finetuned(path: Path | str) -> LightningModule | Probed | Ensemble:
    """The fine-tuning LightningModule, the probe or the ensemble saved at ``path``, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_model`; or the checkpoint is a bare encoder.
    """
    path, header = _file(path), read_header(path)
    if not header.finetuned:
        tuned = sorted(path.parent.glob(f"finetune/*/{BEST}"))
        near = (
            f"; {tuned[0].parent} is fine-tuned, give that" if tuned else "; fine-tune it first, or probe its features"
        )
        raise ValueError(f"{path} is an encoder without a head{near}")
    model = load_model(path)
    try:
        module = _on_top_of(model, header)
    except _OF_SETTINGS as error:
        raise ValueError(
            f"{path}: what was fine-tuned by eo-fusion {header.version} cannot be rebuilt by eo-fusion {__version__} "
            f"from its settings ({type(error).__name__}: {error})"
        ) from error
    own = {k.removeprefix(_ON_TOP): v for k, v in _tensors(path).items() if k.startswith(_ON_TOP)}
    known = module.state_dict()
    _load(path, header, module, own | {name: known[name] for name in _of_the_model(module) & set(known)})
    return module.eval()


def _on_top_of(model: nn.Module, header: Header) -> LightningModule | Probed | Ensemble:
    """The model with fresh tensors on top of it, of the shapes that the header says."""
    from .ensemble import ENSEMBLE, Ensemble
    from .probed import PROBE, Probed

    if header.finetuned.get("kind") == PROBE:
        return Probed(model, **header.finetuned)
    if header.finetuned.get("kind") == ENSEMBLE:
        return Ensemble.fresh(model, header.finetuned)
    kind = SYSTEMS[header.system].load("finetuning")
    module: LightningModule = kind(model, **with_former_settings(kind, header.finetuned))
    return module


def _build(path: Path, header: Header) -> nn.Module:
    if header.system not in SYSTEMS:
        raise ValueError(
            f"{path} is a checkpoint of the system {header.system!r}, which eo-fusion {__version__} does not know "
            f"({', '.join(SYSTEMS)}); it was written by eo-fusion {header.version}"
        )
    try:
        return SYSTEMS[header.system].from_config(header.config)
    except _OF_SETTINGS as error:
        raise ValueError(
            f"{path}: the configuration written by eo-fusion {header.version} does not fit {header.system} of "
            f"eo-fusion {__version__} ({type(error).__name__}: {error})"
        ) from error


def _tensors(path: Path | str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(_file(path))


def _on_top(finetuned: nn.Module) -> dict[str, torch.Tensor]:
    of_the_model = _of_the_model(finetuned)
    return {name: tensor for name, tensor in finetuned.state_dict().items() if name not in of_the_model}


def _of_the_model(finetuned: nn.Module) -> set[str]:
    """Names of the tensors that are the model's, by whatever way they are reached."""
    model = cast(nn.Module, finetuned.model)
    own = {id(tensor) for tensor in chain(model.parameters(), model.buffers())}
    parameters = finetuned.named_parameters(remove_duplicate=False)
    return {n for n, tensor in chain(parameters, finetuned.named_buffers(remove_duplicate=False)) if id(tensor) in own}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON knows them; one that it does not know is an error here, not a surprise when loading."""
    return cast("dict[str, Any]", json.loads(json.dumps(plain(settings))))


def _file(path: Path | str) -> Path:
    """A run folder stands for its best model, and a folder of one run folder, which fine-tuning writes, for that.

    Raises:
        ValueError: it holds several run folders.
    """
    path = Path(path)
    if (path / BEST).is_file() or not path.is_dir():
        return path / BEST if path.is_dir() else path
    within = sorted(path.glob(f"*/{BEST}"))
    if len(within) > 1:
        raise ValueError(
            f"{path} holds {len(within)} runs ({', '.join(file.parent.name for file in within)}); give one of them, "
            f"e.g. {within[0].parent}"
        )
    return within[0] if within else path


def _load(path: Path | str, header: Header, module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    own = module.state_dict()
    wrong = [f"{k}: {tuple(v.shape)} wanted, absent in the checkpoint" for k, v in own.items() if k not in tensors]
    wrong += [f"{k}: {tuple(v.shape)} in the checkpoint, unknown here" for k, v in tensors.items() if k not in own]
    wrong += [
        f"{k}: {tuple(v.shape)} in the checkpoint, {tuple(own[k].shape)} wanted"
        for k, v in tensors.items()
        if k in own and v.shape != own[k].shape
    ]
    if wrong:
        more = f"\n  and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(
            f"{path} (eo-fusion {header.version}) does not fit {type(module).__name__} of eo-fusion {__version__}:\n  "
            + "\n  ".join(wrong[:8])
            + more
        )
    module.load_state_dict(tensors)
