"""``fusion sensitivity``: what a model's answer hangs on."""

from __future__ import annotations

from typing import Any, Literal

from fusion.settings import renamed

__all__ = ["sensitivity"]


@renamed(given="conditioning")
def sensitivity(
    run: str,
    *,
    data: str,
    target: str | None = None,
    conditioning: list[str] | None = None,
    measure: Literal["gradient", "gradient-x-input"] = "gradient",
    per: Literal["token", "group"] = "token",
    out: str | None = None,
    reader: dict[str, Any] | None = None,
    splits: dict[str, str | None] | None = None,
    split: str = "test",
    tiles: int = 256,
) -> int:
    """Shows by modality, band and date how much the gradient of an answer of a token-fusion model weighs.

    Writes sensitivity.npz, metrics.json and report.html.

    Args:
        run: run folder or checkpoint of a pretrained or fine-tuned model.
        data: a folder of images, or of TreeSatAI-TS, PASTIS-HD or FLAIR; a YAML that describes one; or `landscape`.
        target: the modality whose expected mean is the answer; without it the prediction of a fine-tuned model is.
        conditioning: what the model sees; everything but the target by default.
        measure: the norm of the gradient, or the product of gradient and input.
        per: what is compared: the mean token of each group, or all of its tokens together.
        out: folder of the results, RUN/sensitivity by default.
        reader: options of the data's reader.
        splits: which split of the data has which role, e.g. --splits.test chip-b.
        split: the tiles to look at.
        tiles: at most so many of them, evenly spaced.
    """
    from pathlib import Path

    from fusion.commands.session import begin, beside, finish
    from fusion.training import load_finetuned
    from fusion.workflow import examine

    source = Path(run)
    folder = beside(source, "sensitivity", out)
    state = begin(data, folder, reader=reader, splits=splits, model=source)
    head = None
    if target is None:
        head = load_finetuned(source)
        state.models["pretrained"] = head.get_submodule("model")
    how: dict[str, Any] = {"conditioning": conditioning, "measure": measure, "per": per, "tiles": split, "most": tiles}
    examine.sensitivity(state, target=target, head=head, **how)
    finish(state, f"What {run} looks at in {data}")
    return 0
