"""``fusion export``: a trained model as a file that PyTorch alone runs."""

from __future__ import annotations

from typing import Literal

__all__ = ["export"]


def export(
    run: str,
    *,
    out: str | None = None,
    output: Literal["embedding", "prediction"] | None = None,
    modalities: list[str] | None = None,
    patch_scale: int = 1,
    aot: bool = False,
    device: str = "auto",
) -> int:
    """Writes a model as a graph of PyTorch's own operators; what reads it needs PyTorch and not this package.

    The band statistics of the training are inside: values go in by the units of the training. Printed, and told in the
    file, are the inputs with their bands in order, units and sizes, what comes out, and what days count from.

    Args:
        run: run folder or checkpoint; or a model of the Hugging Face Hub, org/name.
        out: the file, which ends in .pt2; RUN/embedding.pt2 or RUN/prediction.pt2 by default.
        output: embedding of every patch, or prediction (probabilities or quantities) of a fine-tuned model or a saved
            probe; by default the prediction of a model that has a head.
        modalities: export a model of these alone, e.g. --modalities '[s2]'.
        patch_scale: embed patches of so many of the model's patches per side (OmniSat).
        aot: compile the graph ahead of time for this machine and device; what runs it needs no Python.
        device: of what is compiled ahead of time: auto (a GPU if there is one), cpu, cuda, cuda:1, ...
    """
    from pathlib import Path

    from fusion.arrays import load
    from fusion.commands.session import beside

    model = load(run, device=device if aot else "cpu")
    output = output or ("prediction" if model.task else "embedding")
    target = beside(Path(run), f"{output}.pt2", out)
    print(model.export(target, output=output, modalities=modalities or (), patch_scale=patch_scale, aot=aot))
    return 0
