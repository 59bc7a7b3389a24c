"""Buffers that follow from how a module was made: in no checkpoint, and right wherever the module comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

__all__ = ["Constants"]


class Constants(nn.Module):
    """A module whose constants survive what is done to memory without values.

    Whoever makes a model under ``torch.device("meta")``, or frees its memory, and fills it from a checkpoint
    (``to_empty``, ``load_state_dict(assign=True)``, sharded training) finds nothing there for buffers that are not in
    state dicts: they would be whatever the memory held.
    """

    def register_constant(self, name: str, make: Callable[[], Tensor]) -> None:
        """A buffer ``name`` outside state dicts, with the values that ``make()`` gives on the CPU."""
        device = torch.get_default_device()
        with torch.device("cpu"):
            value = make()
        self.__dict__.setdefault("_constants", {})[name] = value
        self.register_buffer(name, value.to(device, copy=True), persistent=False)

    def register_index(self, name: str, make: Callable[[], Tensor]) -> None:
        """An attribute ``name`` of whole numbers that moves with the module and is no buffer.

        Averages of models (EMA, SWA) take buffers along and truncate whole ones: an index that is one too low is read
        without complaint.
        """
        device = torch.get_default_device()
        with torch.device("cpu"):
            value = make()
        self.__dict__.setdefault("_indices", {})[name] = value
        setattr(self, name, value.to(device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        kept: dict[str, Tensor] = self.__dict__.get("_constants", {})
        before = {name: self.get_buffer(name) for name in kept}
        super()._apply(fn, recurse)
        for name, index in self.__dict__.get("_indices", {}).items():
            setattr(self, name, index.to(fn(torch.empty(0, device=getattr(self, name).device)).device))
        for name, was in before.items():
            now = self.get_buffer(name)
            if not was.is_meta and now.is_meta:
                kept[name] = was.cpu()
            elif not now.is_meta and now is not was:
                setattr(self, name, (kept[name] if was.is_meta else was).to(now))
        return self

    def _load_from_state_dict(
        self, state: dict[str, Tensor], prefix: str, metadata: dict[str, Any], *args: Any
    ) -> None:
        super()._load_from_state_dict(state, prefix, metadata, *args)
        # torch shows a module its own entries alone; for one without any, the CPU, where checkpoints are read.
        device = next((x.device for x in state.values() if isinstance(x, Tensor)), torch.device("cpu"))
        for name, value in self.__dict__.get("_constants", {}).items():
            buffer = self.get_buffer(name)
            if buffer.is_meta and metadata.get("assign_to_params_buffers"):
                setattr(self, name, value.to(device, buffer.dtype))
        for name, index in self.__dict__.get("_indices", {}).items():
            if getattr(self, name).is_meta and metadata.get("assign_to_params_buffers"):
                setattr(self, name, index.to(device))
