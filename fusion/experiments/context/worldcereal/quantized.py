"""The small embeddings as codes: what size they have, and what the crop probe loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from ....context import ContextFusion
from ....data import Cube
from ....embed import decode, embed_cube, encode, unit
from ....embed.discrete import EmbeddingQuantizer, disk_bytes, write_codes
from ....evaluation import Section, Table
from ....evaluation.plots import COLOURS, panels, picture
from ....kernels.quantize import FiniteScalarQuantizer
from ....workflow.state import State
from . import crops

__all__ = ["quantize"]


def quantize(
    state: State,
    *,
    pixels: int = 400,
    draws: int = 3,
    codebooks: Mapping[str, tuple[int, int]] | None = None,
    levels: int = 5,
    dates: int = 8,
    patch: int = 1,
) -> str:
    """The crop probe on embeddings that went through quantizers fitted on the training stripes, and their size on disk.

    Args:
        pixels, draws: as in :func:`fusion.experiments.context.worldcereal.crops.probe`.
        codebooks: codes and layers of residual quantizers by name; 255 codes and "no data" fill a byte.
        levels: of a finite scalar quantizer on every dimension.
        dates, patch: of the patch that is written as floats, as bytes and as codes.
    """
    model = cast(ContextFusion, state.model("pretrained"))
    every = crops.features(state, model)
    labelled = crops.label(state, every, "crop type", pixels, draws)
    fused = every.x["fused"]  # (months, N, E)
    known = np.isfinite(fused).all(axis=2)
    train = fused[known & ~every.test]  # (n, E): all months of the training stripes
    codebooks = codebooks or {"vq_255": (255, 1), "residual_2x255": (255, 2), "residual_4x255": (255, 4)}
    quantizers = {n: EmbeddingQuantizer.fit(train, *sizes, seed=state.seed) for n, sizes in codebooks.items()}
    dim = fused.shape[2]
    forms: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
        "float32": (32.0 * dim, lambda x: x),
        "int8": (8.0 * dim, lambda x: decode(encode(unit(x)))),
        f"scalar_{levels}": _scalars(train, levels),
    } | {n: (q.bits, lambda x, q=q: q.decode(q.encode(x))) for n, q in quantizers.items()}  # fmt: skip
    found, rows = {}, []
    for name, (bits, through) in forms.items():
        x = np.full_like(fused, np.nan)
        x[known] = through(fused[known])
        wanted = unit(fused[known]) if name == "int8" else fused[known]  # bytes keep the direction, not the length
        error = float(np.square(x[known] - wanted).sum(axis=1).mean() / wanted.var(axis=0).sum())
        found[name] = crops.summary(crops.score_months(labelled, x)) | {"bits": bits, "unexplained": error}
    for name, values in found.items():
        values["loss"] = found["float32"]["macro_f1"] - values["macro_f1"]
        rows.append([name, values["bits"], values["unexplained"], values["macro_f1"], values["loss"]])
    state.metrics["quantized"] = found | {"conditions": crops.describe(labelled)}
    columns = ["stored as", "bits a pixel and date", "variance lost", "macro F1", "loss of macro F1"]
    table = Table(columns, rows, crops.describe(labelled), best=["macro F1"], lowest=columns[1:3])
    sizes = _on_disk(state, model, quantizers, dates, patch)
    state.metrics["disk"] = sizes
    disk = Table(["file", "bytes", "share of float32"], [[n, b, b / sizes["float32"]] for n, b in sizes.items()],
                 f"{dates} dates of one patch as Zarr, compressed, codebooks included.", lowest=["bytes"])  # fmt: skip
    state.sections.append(Section("Embeddings as codes", "", [table, disk, _curve(found)]))
    return ", ".join(f"{n} {v['bits']:.0f} bits {v['macro_f1']:.3f}" for n, v in found.items())


def _scalars(train: np.ndarray, levels: int) -> tuple[float, Callable[[np.ndarray], np.ndarray]]:
    """A finite scalar quantizer a dimension of standardised values; decoding inverts its tanh."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    one = FiniteScalarQuantizer([levels])

    def through(x: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(((x - mean) / std).astype(np.float32))[..., None]  # (n, E, 1)
        values = one.decode(one.encode(z))[..., 0].clamp(-1 + 0.5 / levels, 1 - 0.5 / levels)
        return torch.atanh(values).numpy() * std + mean

    return train.shape[1] * one.bits, through


def _on_disk(
    state: State, model: ContextFusion, quantizers: Mapping[str, EmbeddingQuantizer], dates: int, patch: int
) -> dict[str, int]:
    cube: Cube = state.data["all"][min(patch, len(state.data["all"]) - 1)]
    usable = np.flatnonzero(cube.sensors["s2"].observed_share() > 0.9)[:dates]
    sizes: dict[str, int] = {}
    dtypes: tuple[Literal["float32", "int8"], ...] = ("float32", "int8")
    for dtype in dtypes:
        result = embed_cube(model, cube, state.out / f"{dtype}.zarr", dtype=dtype, dates=usable, rasters=False)
        sizes[dtype] = disk_bytes(result.path)
    for name, quantizer in quantizers.items():
        path: Path = state.out / f"{name}.zarr"
        sizes[name] = disk_bytes(path) if path.exists() else write_codes(state.out / "float32.zarr", path, quantizer)
    return sizes


def _curve(found: Mapping[str, Mapping[str, float]]) -> Any:
    figure, (axis,) = panels(1, width=5.4, height=3.4)
    for name, values in found.items():
        axis.plot(values["bits"], values["macro_f1"], "o", color=COLOURS[0])
        axis.annotate(name, (values["bits"], values["macro_f1"]), fontsize=8, xytext=(4, 4), textcoords="offset points")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("bits a pixel and date")
    axis.set_ylabel("macro F1")
    return picture(figure, "What the crop probe loses as embeddings get smaller.")
