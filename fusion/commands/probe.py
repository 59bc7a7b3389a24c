"""``fusion probe``: how much a frozen encoder tells with few labels, against its controls."""

from __future__ import annotations

from typing import Any, Literal

from fusion.settings import renamed

__all__ = ["probe"]


@renamed(share="fraction")
def probe(
    run: str,
    *,
    data: str,
    out: str | None = None,
    reader: dict[str, Any] | None = None,
    splits: dict[str, str | None] | None = None,
    modalities: list[str] | None = None,
    fraction: float = 0.1,
    draws: int = 5,
    probes: list[str] | None = None,
    forest: bool = False,
    pool: Literal["mean", "summary", "both", "tokens"] = "mean",
    each: bool = False,
    seed: int = 0,
) -> int:
    """Probes a pretrained encoder, the same with random weights, and raw band statistics, on the test split.

    Args:
        run: run folder or checkpoint of the encoder.
        data: `landscape`, a folder of TreeSatAI-TS, PASTIS-HD or FLAIR, or a YAML file that describes one.
        out: folder of metrics.json and report.html, RUN/probe by default.
        reader: options of the data's reader.
        splits: which split of the data is train and test, e.g. --splits.test chip-b.
        modalities: use only these, e.g. --modalities '[s2,s1]'.
        fraction: of the labels of the training split that the probe sees.
        draws: how often these labels are drawn.
        probes: of linear, knn, forest; linear by default.
        forest: add a random forest on the raw bands.
        pool: what stands for a tile: the mean of its patches, its summary, both, or the tokens of each modality before
            they are combined.
        each: also probe every modality alone.
        seed: of the draws.
    """
    from pathlib import Path

    from fusion.commands.following import command, lead_on
    from fusion.commands.session import begin, beside, finish
    from fusion.workflow import steps

    source = Path(run)
    folder = beside(source, "probe", out)
    state = begin(data, folder, reader=reader, splits=splits, modalities=modalities, model=source, seed=seed)
    options: dict[str, Any] = {"fraction": fraction, "draws": draws, "probes": probes or ["linear"], "pool": pool}
    steps.compare(state, forest=forest, **options)
    if each:
        steps.modalities(state, **options)
    finish(state, f"Probe of {run} on {data}")
    lead_on(command("finetune", run, data=data, reader=reader, splits=splits, modalities=modalities))
    return 0
