"""Which systems there are: the name in a checkpoint, and the classes that rebuild a model from it."""

from __future__ import annotations

import copy
import importlib
import sys
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import nn

from fusion.data import Modality

__all__ = ["SYSTEMS", "System", "SystemConfig", "config_of", "register", "reinitialised", "system_of"]


class SystemConfig(Protocol):
    """What the configuration of a model of any system has; a system adds its own sizes."""

    @property
    def modalities(self) -> tuple[Modality, ...]: ...

    @property
    def grid(self) -> tuple[int, int]: ...

    @property
    def dim(self) -> int: ...

    def to_dict(self) -> dict[str, Any]: ...


def config_of(model: nn.Module) -> SystemConfig:
    """The configuration that a model of any system keeps as ``model.config``."""
    return cast(SystemConfig, model.config)


@dataclass(frozen=True)
class System:
    """Classes of one system as ``"module:Class"``; imported when first needed.

    ``model`` takes its configuration as the only argument and keeps it as ``.config``; ``config`` has ``to_dict``
    and ``from_dict`` (plain types). ``pretraining`` and ``finetuning`` are LightningModules.
    """

    model: str
    config: str
    pretraining: str = ""
    finetuning: str = ""

    def load(self, part: str) -> Any:
        """The class behind ``"model"``, ``"config"``, ``"pretraining"`` or ``"finetuning"``."""
        module, _, name = getattr(self, part).partition(":")
        if not name:
            raise ValueError(f"system with model {self.model} has no {part} class")
        return getattr(importlib.import_module(module), name)

    def from_config(self, config: dict[str, Any]) -> nn.Module:
        """A model with fresh weights from a plain dictionary."""
        return cast(nn.Module, self.load("model")(self.load("config").from_dict(config)))


SYSTEMS: dict[str, System] = {
    "omnisat": System(
        model="fusion.omnisat.model:OmniSat",
        config="fusion.omnisat.model:OmniSatConfig",
        pretraining="fusion.omnisat.module:OmniSatPretraining",
        finetuning="fusion.training.finetuning:Finetuning",
    ),
    "token-fusion": System(
        model="fusion.token_fusion.model:TokenFusion",
        config="fusion.token_fusion.config:TokenFusionConfig",
        pretraining="fusion.token_fusion.module:TokenFusionPretraining",
        finetuning="fusion.training.finetuning:Finetuning",
    ),
    "context-sensor": System(
        model="fusion.context.sensor:SensorAutoencoder",
        config="fusion.context.config:SensorConfig",
        pretraining="fusion.context.module:SensorPretraining",
    ),
    "context": System(
        model="fusion.context.fuse:ContextFusion",
        config="fusion.context.config:FusionConfig",
        pretraining="fusion.context.module:FusionPretraining",
    ),
    # Without pretraining: they learn from labels alone.
    "pse-ltae": System(
        model="fusion.baselines.pixel_set:PseLtae",
        config="fusion.baselines.config:PseLtaeConfig",
        finetuning="fusion.training.finetuning:Finetuning",
    ),
    "utae": System(
        model="fusion.baselines.utae:Utae",
        config="fusion.baselines.config:UtaeConfig",
        finetuning="fusion.training.finetuning:Finetuning",
    ),
    "timm-image": System(
        model="fusion.baselines.image:ImageModel",
        config="fusion.baselines.config:ImageConfig",
        finetuning="fusion.training.finetuning:Finetuning",
    ),
}


def register(name: str, system: System) -> None:
    """Makes a system of one's own known to ``save_model`` and ``load_model``."""
    if SYSTEMS.get(name, system) != system:
        raise ValueError(f"a system {name!r} is already registered: {SYSTEMS[name]}")
    SYSTEMS[name] = system


def system_of(model: nn.Module) -> str:
    """The name under which the class of ``model`` is registered.

    Raises:
        TypeError: it is not; the message says how to register it.
    """
    own = f"{type(model).__module__}:{type(model).__qualname__}"
    for name, system in SYSTEMS.items():
        if system.model == own or (_imported(system) and isinstance(model, system.load("model"))):
            return name
    raise TypeError(
        f"{own} belongs to no registered system ({', '.join(SYSTEMS)}); give the model itself, not its "
        f"LightningModule, or call fusion.training.register(name, System(model={own!r}, config=...))"
    )


def reinitialised(model: nn.Module) -> nn.Module:
    """A model of the same configuration with fresh weights; a fitted tokenizer stays, it belongs to the data."""
    fresh = type(model)(copy.deepcopy(model.config))
    if hasattr(model, "tokenizer"):
        fresh.get_submodule("tokenizer").load_state_dict(model.get_submodule("tokenizer").state_dict())
    return fresh


def _imported(system: System) -> bool:
    """A model of a system can only exist if its module is imported; the others stay unimported."""
    return system.model.partition(":")[0] in sys.modules
