"""From a trained model to a file that PyTorch alone runs."""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.export import ExportedProgram

from ..embed.formats.temporary import replacing
from ..kernels import plain_operators
from ..training.files import readable_size, write_atomically
from ..training.probed import Probed
from .about import FILE, about
from .plain import PlainEncoder, PlainHead
from .signature import Input, dynamic_shapes, examples, inputs_of

__all__ = ["Exported", "export_model"]

Output = Literal["embedding", "prediction"]


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: of the file.
        about: what is told in it: inputs with bands, units and sizes, the output, the convention of dates.
    """

    path: Path
    about: dict[str, Any]

    def __str__(self) -> str:
        told = self.about
        lines = [f"{self.path}: {told['program']}, {readable_size(self.path.stat().st_size)}, {told['device']}"]
        for one in told["inputs"]:
            axes = ", ".join(map(str, one["shape"]))
            lines.append(
                f"  {one['name']:10} ({axes})  {' '.join(one['bands'])}; {one['resolution']:g} m, "
                f"{one['unit'] or 'no unit'}"
            )
        output = told["output"]
        lines.append(f"  -> {output['kind']} ({', '.join(map(str, output['shape']))})")
        if output.get("classes"):
            lines[-1] += f" of {', '.join(output['classes'])}"
        return "\n".join([*lines, f"  days: {told['days']}"])


def export_model(
    path: str | Path,
    encoder: nn.Module,
    head: nn.Module | None = None,
    *,
    output: Output | None = None,
    modalities: Sequence[str] = (),
    patch_scale: int = 1,
    aot: bool = False,
) -> Exported:
    """Writes a model as a graph of PyTorch's own operators, which runs without this package.

    Its arguments are three mappings by modality, ``program(values, days, valid)``: values (B, L, C, H, W) of series or
    (B, C, H, W) of images, float32 in the unit of the training, NaN where not observed; days (B, L) of series, int64;
    valid (B, L) or (B,), bool. B and L are of any length from 1 on. All modalities are given; one that a tile lacks has
    any values and ``valid`` False.

    Args:
        path: ends in ``.pt2``.
        encoder: of a registered system, in evaluation mode.
        head: the fine-tuned module, probe or ensemble around it.
        output: ``"embedding"`` of patches, (B, P, D), or ``"prediction"``, probabilities or quantities, (B, K) or
            (B, K, H, W). By default the prediction of a model that has a head.
        modalities: export a model of these alone; none for all (of a probe: those it was made with).
        patch_scale: of embeddings, patches of so many of the model's patches per side.
        aot: compile the graph for the machine and the device that the model is on (AOTInductor), instead of keeping it.

    Raises:
        ValueError: another suffix, options that do not go together, a probe of cubes, modalities that the model does
            not have.
        RuntimeError: the file cannot be written, or there is no compiler.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"export: PyTorch loads programs from files that end in .pt2; {path} does not")
    output = output or ("embedding" if head is None else "prediction")
    module, inputs = _plain(encoder, head, output, modalities, patch_scale)
    device = next(encoder.parameters()).device if aot else torch.device("cpu")  # a graph goes to any device later
    program = _traced(module.to(device), inputs, device)
    told = about(encoder, module, inputs, program, aot=aot, device=device)
    path.parent.mkdir(parents=True, exist_ok=True)
    if aot:
        _compile(program, path, told)
    else:
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={FILE: json.dumps(told, indent=2)})
        write_atomically(path, buffer.getvalue())
    return Exported(path, told)


def _plain(
    encoder: nn.Module, head: nn.Module | None, output: Output, modalities: Sequence[str], patch_scale: int
) -> tuple[PlainEncoder | PlainHead, list[Input]]:
    """A copy of the model as a function of tensors, and what it takes."""
    if output == "embedding":
        return PlainEncoder(copy.deepcopy(encoder), patch_scale), inputs_of(encoder, modalities)
    if head is None:
        raise ValueError("export: an encoder without a head predicts nothing; fine-tune it, or take output='embedding'")
    if patch_scale != 1:
        raise ValueError(
            f"export: patch_scale={patch_scale} is of embeddings; a head is of the patches it was made for"
        )
    if isinstance(head, Probed) and head.of_cubes:
        raise ValueError(
            "export: this probe is of the mean embedding of a pixel in parts of the year, which is made of many "
            "windows; export its encoder, output='embedding', and average what it gives"
        )
    own = tuple(getattr(head, "modalities", ()))
    return PlainHead(copy.deepcopy(head)), inputs_of(encoder, modalities or own)


def _traced(module: nn.Module, inputs: list[Input], device: torch.device) -> ExportedProgram:
    """The graph, in operators of PyTorch alone."""
    module.eval().requires_grad_(False)
    for tensor in module.parameters():  # channels-last weights are not kept as they are by every version of the format
        tensor.data = tensor.data.contiguous()
    example = examples(inputs, device)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # an operator of its own, which no compiler takes apart
    try:
        with torch.no_grad(), plain_operators(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, about itself
            module(*example)  # so that what modules keep is made of real tensors
            program = torch.export.export(module, example, dynamic_shapes=dynamic_shapes(inputs))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _compile(program: ExportedProgram, path: Path, told: dict[str, Any]) -> None:
    from torch._inductor import aoti_compile_and_package

    told_beside = {"aot_inductor.metadata": {FILE: json.dumps(told)}}
    with replacing(path) as temporary, torch.no_grad():
        try:
            aoti_compile_and_package(program, package_path=str(temporary), inductor_configs=told_beside)
        except Exception as error:  # of the compiler, in whatever class
            if "compiler" in str(error).lower():
                raise RuntimeError(
                    f"export: compiling ahead of time wants a C++ compiler, and of a GPU CUDA's: {error}"
                ) from error
            raise
