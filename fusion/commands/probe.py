"""``fusion probe``: how much a frozen encoder tells with few labels, against its controls, and maps from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

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
    save: Literal["linear", "forest"] | None = None,
    fraction: float | None = None,
    draws: int | None = None,
    probes: list[str] | None = None,
    forest: bool = False,
    pool: Literal["auto", "mean", "summary", "both", "tokens", "seasons", "months"] = "auto",
    align: Literal["auto", "places", "none"] = "auto",
    each: bool = False,
    pixels: int = 20_000,
    periods: int = 4,
    seed: int = 0,
) -> int:
    """Probes a pretrained encoder, the same with random weights, and raw band statistics, on the test split.

    Labels that are maps are learned by patch and scored by pixel. With --save an estimator on the embeddings is saved
    with the encoder: `fusion predict` and `fusion evaluate` take it like a fine-tuned model, and no network is trained.
    The pixels of a context-aware model are learned from a description whose labels are maps (reduction: none).

    Args:
        run: run folder or checkpoint of the encoder.
        data: a folder of images, or of TreeSatAI-TS, PASTIS-HD or FLAIR; a YAML that describes one; or `landscape`.
        out: folder of metrics.json and report.html, and of what is saved, RUN/probe by default.
        reader: options of the data's reader.
        splits: which split of the data is train and test, e.g. --splits.test chip-b.
        modalities: use only these, e.g. --modalities '[s2,s1]'.
        save: linear (ridge regression of quantities, a linear classifier) or forest, to make maps with.
        fraction: of the labels of the training split that the probe sees; 0.1 by default, with --save 1.
        draws: how often these labels are drawn; 5 by default, once with --save and of labels that are maps.
        probes: of linear, knn, forest; linear by default.
        forest: add the strongest of a linear model, random forest and gradient boosting on raw values,
            chosen on held-out blocks of the labelled tiles.
        pool: what stands for a tile: the mean of its patches, its summary, both, or the tokens of each modality before
            they are combined; auto takes what held-out blocks of the labelled tiles prefer.
        align: standardise features by scene and keep the months that both splits have: auto where no scene is in both,
            places always, none never.
        each: also probe every modality alone.
        pixels: labelled pixels of each split that are encoded at most (context-aware models).
        periods: equal parts of the year, of each of which a pixel has its mean embedding (context-aware models).
        seed: of the draws.
    """
    from fusion.commands.following import command, lead_on
    from fusion.commands.session import begin, beside, finish
    from fusion.workflow import probing, steps
    from fusion.workflow.options import check_probe, require_default

    source = Path(run)
    folder = beside(source, "probe", out)
    own = {"pixels": (pixels, 20_000), "periods": (periods, 4)}
    others: dict[str, tuple[Any, Any]] = {
        "modalities": (modalities, None),
        "probes": (probes, None),
        "fraction": (fraction, None),
    }
    others |= {
        "draws": (draws, None),
        "forest": (forest, False),
        "pool": (pool, "auto"),
        "align": (align, "auto"),
        "each": (each, False),
    }
    system = check_probe(source, save, probes, fraction, draws)
    require_default(system, own if system != "context" else others)
    if system == "context":
        return _of_cubes(run, data, folder, reader, splits, cast(Any, save), pixels, periods, seed)
    state = begin(data, folder, reader=reader, splits=splits, modalities=modalities, model=source, seed=seed)
    dense = state.split("train").dense
    fraction = fraction or (1.0 if save else 0.1)
    options: dict[str, Any] = {
        "fraction": fraction,
        "draws": draws or (1 if save or dense else 5),
        "probes": probes or ["linear"],
    }
    if dense:
        for name, given in (
            ("--each", each),
            ("--pool", pool not in ("auto", "mean")),
            ("--probes knn", "knn" in options["probes"]),
        ):
            if given:
                raise ValueError(f"{name}: the labels of {data} are maps, which are probed by patch; leave it out")
        probing.compare_maps(state, control=forest, **options)
    else:
        steps.compare(state, control=forest, pool=pool, align=align, **options)
    if each:
        steps.modalities(state, pool=pool, align=align, **options)
    if save:
        probing.save_probe(state, save, fraction=fraction, pool=pool)
    finish(state, f"Probe of {run} on {data}")
    where: dict[str, Any] = {"data": data, "reader": reader, "modalities": modalities}
    if save:
        scored = command("evaluate", folder, data=data, reader=reader, splits=splits)
        lead_on(command("predict", folder, **where, out="map.tif"), scored)
    else:
        lead_on(command("finetune", run, **where, splits=splits))
    return 0


def _of_cubes(
    run: str,
    data: str,
    folder: Path,
    reader: dict[str, Any] | None,
    splits: dict[str, str | None] | None,
    save: Literal["linear", "forest"],
    pixels: int,
    periods: int,
    seed: int,
) -> int:
    """Labels and splits are those of the tiles of a description, values those of its cubes."""
    from fusion.commands.following import command, lead_on
    from fusion.commands.session import finish, of_cubes, of_tiles
    from fusion.data import open_cubes, open_data, partition
    from fusion.training import load_model
    from fusion.workflow.cube_probing import probe_cubes
    from fusion.workflow.state import State

    if pixels < 2 or not 1 <= periods <= 366:
        raise ValueError(
            f"--pixels {pixels} --periods {periods}: give 2 pixels or more, and 1 to 366 parts of the year"
        )
    options = of_cubes(reader)
    longest_gap = options.pop("longest_gap", 7)
    tiles = open_data(data, **of_tiles(reader))
    state = State(folder, seed, partition(tiles, splits), {"pretrained": load_model(run)})
    cubes = open_cubes(data, **options)
    probe_cubes(state, cubes, save, pixels=pixels, periods=periods, longest_gap=longest_gap)
    finish(state, f"Probe of {run} on {data}")
    lead_on(command("predict", folder, data=data, reader=reader, out="map.tif"))
    return 0
