"""``fusion data describe``: the YAML of a folder, written from what its files say."""

from __future__ import annotations

from typing import Any

__all__ = ["describe"]


def describe(path: str, *, out: str | None = None, reader: dict[str, Any] | None = None) -> int:
    """Writes the YAML that describes a folder or file; every guess has a comment, what cannot be known is asked.

    Then opens the data as described and tells what is read; exits 1 if that fails or a question is left that changes
    values.

    Args:
        path: folder or file: Sentinel-2 products, Landsat, HLS, GeoTIFFs, NetCDF, Zarr, HDF5, NPZ, .npy, a STAC item or
            catalog with its files.
        out: the file, e.g. PATH/fusion.yaml; without it the YAML is printed only.
        reader: options of the reader that opens the data, e.g. --reader.max_dates 20.
    """
    import shlex
    import sys
    from pathlib import Path

    from fusion.data.describe import NotNeededError, describe
    from fusion.data.describe.trying import try_out, write_description

    try:
        guess = describe(path)
    except NotNeededError as told:
        print(told)
        print(f"next: {shlex.join(['fusion', 'data', 'check', path])}")
        return 0
    # What is printed without --out can be sent to a file: all else goes to stderr.
    beside = sys.stderr if out is None else sys.stdout
    if out is None:
        print(guess, end="")
    else:
        write_description(guess, Path(out))
        print(f"wrote {out}")
    for question in guess.questions:
        print(f"Please answer: {question.text}", file=beside)
    line, ok = try_out(guess, reader or {})
    print(line, file=beside)
    written = guess.folder / "fusion.yaml" if out is None else Path(out)
    inside = written.resolve().parent == guess.folder.resolve()
    options = [] if inside else ["--reader.folder", str(guess.folder)]
    if out is None:
        command = ["fusion", "data", "describe", path, "--out", str(written)]
    elif ok and not guess.open_questions:
        command = ["fusion", "pretrain", "--data", out, *options, "--out", "runs/mine"]
    else:
        command = ["fusion", "data", "check", out, *options]
    print(f"next: {shlex.join(command)}", file=beside)
    return 0 if ok and not guess.open_questions else 1
