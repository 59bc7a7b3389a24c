"""Models as folders that others can use: one safetensors file, its header as JSON, and a card that says what it is."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data import Modality
from ..training.checkpoints import BEST, Header, read_header, save_model
from ..training.files import write_atomically

__all__ = ["card", "fetched", "push", "save"]

_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_PAPERS = {"omnisat": ("OmniSat", "2404.08351"), "token-fusion": ("token fusion", "2510.23118")}
_PAPERS |= {"context": ("context-aware representation", "2511.11706")}


def fetched(run: str | Path) -> Path:
    """A folder or file of a run; ``"org/name"`` or ``"org/name@revision"`` of the Hugging Face Hub is downloaded, if no
    such folder is here.

    Raises:
        ValueError: huggingface_hub is not installed, or the Hub has no such model.
    """
    path = Path(run)
    known = _ID.fullmatch(str(run))
    if path.exists() or known is None or path.suffix == ".safetensors" or path.parent.is_dir():
        return path
    hub = _hub(f"{run} is neither a folder here nor, without huggingface_hub, a model of the Hugging Face Hub")
    try:
        folder = hub.snapshot_download(
            known["repository"], revision=known["revision"], allow_patterns=[BEST, "README.md", "config.json"]
        )
    except (OSError, ValueError) as error:  # errors of the Hub are OSErrors
        raise ValueError(f"{run}: no folder here, and not to be had from the Hugging Face Hub: {error}") from error
    return Path(folder)


def save(
    folder: str | Path, encoder: Any, head: Any, header: Header, *, licence: str, training_data: str, name: str = ""
) -> Path:
    """Writes ``best.safetensors``, ``config.json`` and ``README.md``.

    Args:
        name: by which others load it; that of the folder by default.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / BEST, encoder, metrics=header.metrics, finetuned=head)
    own = read_header(folder / BEST)
    write_atomically(folder / "config.json", (json.dumps(asdict(own), indent=2) + "\n").encode())
    modalities = tuple(encoder.config.modalities)
    text = card(name or folder.name, own, modalities, licence=licence, training_data=training_data)
    write_atomically(folder / "README.md", text.encode())
    return folder


def push(repository: str, encoder: Any, head: Any, header: Header, *, private: bool, **about: str) -> str:
    """Uploads what :func:`save` writes; returns the address.

    Raises:
        ValueError: huggingface_hub is not installed, or no id.
    """
    if _ID.fullmatch(repository) is None or "@" in repository:
        raise ValueError(f"a model of the Hugging Face Hub is called org/name, not {repository!r}")
    hub = _hub("push_to_hub uploads by huggingface_hub, which is not installed")
    api = hub.HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save(folder, encoder, head, header, name=repository, **about)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))


def card(name: str, header: Header, modalities: Sequence[Modality], *, licence: str, training_data: str) -> str:
    """What a user has to know of a model, as Markdown with the front matter of the Hub."""
    tuned = header.finetuned
    what = f"{tuned['task']} of {', '.join(tuned['classes'])}" if tuned else "embeddings"
    front = ["---", "library_name: eo-fusion", f"license: {licence or 'other'}", "tags:", "- earth-observation", "---"]
    cells = [(m.name, m.kind, ", ".join(m.bands), f"{m.resolution:g} m", m.unit or "unknown") for m in modalities]
    rows = [f"| {' | '.join(row)} |" for row in cells]
    scores = [f"| {name} | {value:.4g} |" for name, value in header.metrics.items()]
    system, paper = _PAPERS.get(header.system, (header.system, ""))
    source = f" ([arXiv {paper}](https://arxiv.org/abs/{paper}))" if paper else ""
    call = f"model.predict(x)    # {what}" if tuned else "model.embed(x)"
    return "\n".join(
        [
            *front,
            "",
            f"# {name}",
            "",
            f"A model of {system}{source}. It gives {what}.",
            "",
            "```python",
            "import fusion  # pip install 'eo-fusion[train]'",
            "",
            f'model = fusion.load("{name}")',
            f"{call}  # x: xarray with these bands, in these units",
            "```",
            "",
            "| modality | kind | bands | pixels | unit |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Trained on: {training_data or 'not said'}. Licence: {licence or 'not said'}.",
            "",
            *(["| metric of the training | value |", "|---|---|", *scores, ""] if scores else []),
            "## Limits",
            "",
            "It knows the sensors, seasons and places that it was trained on. Other bands, units and pixel sizes are "
            "refused; other places and seasons are not. What training measured was not measured on your ground.",
            "",
            f"Written by eo-fusion {header.version}, torch {header.torch}.",
            "",
        ]
    )


def _hub(why: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(f"{why}; pip install huggingface_hub") from error
    return huggingface_hub
