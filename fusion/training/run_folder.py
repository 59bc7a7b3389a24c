"""What a run folder tells about how it came about: configuration, command line, environment."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fusion import __version__

from .files import write_atomically

__all__ = ["environment", "prepare"]

OURS = ("last.ckpt", "last.safetensors", "best.safetensors", "metrics.csv", "config.yaml", "commands.txt")
PACKAGES = ("torch", "triton", "lightning", "numpy", "scikit-learn", "safetensors", "h5py", "rasterio", "zarr")


def prepare(run: Path, config: dict[str, Any], *, afresh: bool) -> None:
    """Creates the folder and writes ``config.yaml``, ``environment.json`` and one line more of ``commands.txt``.

    ``afresh`` removes what an earlier run of this package left there, and nothing else.

    Raises:
        ValueError: ``run`` is a file.
        RuntimeError: no space or no permission.
    """
    import yaml

    if run.is_file():
        raise ValueError(f"run folder {run} is a file; give a folder, e.g. runs/a")
    if afresh:
        for name in OURS:
            (run / name).unlink(missing_ok=True)
        for events in (run / "tensorboard").glob("events.out.tfevents.*"):
            events.unlink()
    write_atomically(run / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
    write_atomically(run / "environment.json", json.dumps(environment(), indent=2).encode())
    with open(run / "commands.txt", "a") as file:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"{now}  {' '.join(sys.argv) or 'interactive'}\n")


def environment() -> dict[str, Any]:
    """Versions, processor, GPU and commit: what somebody needs who gets other numbers."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "eo-fusion": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "cpu": {"name": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "cuda": torch.version.cuda,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Of the checkout this package runs from; None for an installed wheel."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
