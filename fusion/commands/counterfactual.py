"""``fusion counterfactual``: what a model would say of other places."""

from __future__ import annotations

from typing import Any

from fusion.settings import renamed

__all__ = ["counterfactual"]


@renamed(given="conditioning")
def counterfactual(
    run: str,
    *,
    data: str,
    target: str,
    edit: dict[str, Any],
    conditioning: list[str] | None = None,
    out: str | None = None,
    reader: dict[str, Any] | None = None,
    splits: dict[str, str | None] | None = None,
    split: str = "test",
    tiles: int = 128,
    samples: int = 0,
    seed: int = 0,
) -> int:
    """Generates a series for tiles as they are and as an edit makes them, and tells how its season moves.

    Writes the change of mean, amplitude and phase of every tile (counterfactual.csv), the profiles
    (counterfactual.npz), metrics.json and report.html.

    Args:
        run: run folder or checkpoint of a token-fusion model.
        data: a folder of images, or of TreeSatAI-TS, PASTIS-HD or FLAIR; a YAML that describes one; or `landscape`.
        target: the series to generate.
        edit: one or several, in order, as YAML: 'add: {terrain: {elevation: 300}}', 'assign: {aerial: {NIR: 40}}',
            'exchange: [aerial]' (with the next tile), 'paste: {aerial: [0, 1]}' (patches of the next tile),
            'hide: [s2]', 'shift_days: {s2: 90}'; 'patches: [0, 1]' limits add and assign. E.g.
            --edit '{add: {terrain: {elevation: 300}}}'.
        conditioning: what to generate from; everything but the target by default.
        out: folder of the results, RUN/counterfactual by default.
        reader: options of the data's reader.
        splits: which split of the data has which role, e.g. --splits.test chip-b.
        split: the tiles to edit.
        tiles: at most so many of them, evenly spaced.
        samples: 0 compares expectations, otherwise medians of so many samples.
        seed: of the draws.
    """
    from pathlib import Path

    from fusion.commands.session import begin, beside, finish
    from fusion.workflow import examine

    source = Path(run)
    folder = beside(source, "counterfactual", out)
    state = begin(data, folder, reader=reader, splits=splits, model=source, seed=seed)
    examine.counterfactual(
        state, edit=edit, target=target, conditioning=conditioning, samples=samples, tiles=split, most=tiles
    )
    finish(state, f"Counterfactual of {target} by {run} for {data}")
    return 0
