"""``fusion tokenize``: what every tokenizer of series costs and loses on some data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["tokenize"]


def tokenize(
    files: list[str],
    *,
    variable: str | None = None,
    held_out: float = 0.34,
    use: list[str] | None = None,
    out: str = "runs/tokenize",
    steps: int = 400,
    seed: int = 0,
) -> int:
    """Compares tokenizers of series by rate and error, and writes the codes.

    Every tokenizer is fitted on some series and scored on the others. Prints a table and writes metrics.json and, for
    every tokenizer, NAME.npz with codes (and scale) of all series.

    Args:
        files: CSV files with a series a row (name, values), or NPZ files with an array (time, variable).
        variable: name of the array in NPZ files.
        held_out: share of the series to score on; at least one.
        use: only these tokenizers, by the names of the table.
        out: folder of results.
        steps: of training, for tokenizers that learn.
        seed: of the draw of series and of the training.
    """
    import json

    import numpy as np
    import torch

    from fusion.data.table import read_series

    values, names = read_series(files, variable)
    if len(values) < 2:
        raise ValueError("tokenize: one series cannot be fitted on and scored on; give more files or rows")
    torch.manual_seed(seed)
    order = torch.randperm(len(values))
    scored = max(1, round(held_out * len(values)))
    series = torch.from_numpy(values)  # (B, C, T)
    train, test = series[order[scored:]], series[order[:scored]]
    known = _tokenizers()
    if unknown := [name for name in use or () if name not in known]:
        raise ValueError(f"tokenize: no tokenizer {', '.join(unknown)}; there are {', '.join(known)}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    spread = train.double().nan_to_num().where(~train.isnan(), torch.nan).numpy()
    deviation = torch.from_numpy(np.nanstd(spread, axis=(0, 2)))  # (C,)

    rows: dict[str, dict[str, float]] = {}
    for name in use or known:
        torch.manual_seed(seed)
        tokenizer, learns = known[name]()
        tokenizer.fit(train, steps=steps) if learns else tokenizer.fit(train)
        rows[name] = _score(tokenizer, test, deviation)
        encoded = tokenizer.encode(series)
        parts = {"codes": encoded[0], "scale": encoded[1]} if isinstance(encoded, tuple) else {"codes": encoded}
        np.savez_compressed(folder / f"{name}.npz", **{k: v.numpy() for k, v in parts.items()})
    conditions = (
        f"{len(train)} series of {series.shape[2]} values to fit on, {len(test)} others to score on; "
        f"{', '.join(names)}; seed {seed}"
    )
    (folder / "metrics.json").write_text(json.dumps({"conditions": conditions, "tokenizers": rows}, indent=2) + "\n")
    _print(rows, conditions, single=len(names) == 1)
    return 0


def _tokenizers() -> dict[str, Any]:
    """By name: makes the tokenizer, and says whether it trains."""
    from fusion.kernels import (
        FiniteScalarQuantizer,
        MeanScaleBins,
        MuLaw,
        QuantileBins,
        ResidualVectorQuantizer,
        SymbolicAggregate,
        UniformBins,
        VectorQuantizer,
    )
    from fusion.tokenizers import PatchTokenizer

    def residual() -> ResidualVectorQuantizer:
        return ResidualVectorQuantizer(64, 256, 4, restart_below=0.1)

    return {
        "uniform-16": lambda: (UniformBins(16), False),
        "uniform-256": lambda: (UniformBins(256), False),
        "quantile-16": lambda: (QuantileBins(16), False),
        "quantile-256": lambda: (QuantileBins(256), False),
        "mu-law-255": lambda: (MuLaw(255), False),
        "mean-scale-4096": lambda: (MeanScaleBins(4096), False),
        "sax-16x8": lambda: (SymbolicAggregate(16, 8), False),
        "patch-vq": lambda: (PatchTokenizer(VectorQuantizer(64, 256, restart_below=0.1)), True),
        "patch-residual": lambda: (PatchTokenizer(residual()), True),
        "patch-fsq": lambda: (PatchTokenizer(FiniteScalarQuantizer([8, 8, 8, 6, 5])), True),
    }


def _score(tokenizer: Any, test: Any, deviation: Any) -> dict[str, float]:
    """Bits a value; root mean square error in the data's unit, and in standard deviations of each variable."""
    error = tokenizer.reconstruct(test).double() - test.double()  # (B, C, T)
    seen = ~test.isnan()
    relative = (error / deviation.clamp_min(1e-12)[:, None])[seen].square().mean().sqrt()
    return {
        "bits_per_value": tokenizer.rate(test.shape[2]),
        "rmse": float(error[seen].square().mean().sqrt()),
        "rmse_in_sd": float(relative),
    }


def _print(rows: dict[str, dict[str, float]], conditions: str, *, single: bool) -> None:
    heads = ["tokenizer", "bits/value", *(["RMSE"] if single else []), "RMSE in sd"]
    print("| " + " | ".join(heads) + " |\n|---|" + "--:|" * (len(heads) - 1))
    for name, row in sorted(rows.items(), key=lambda item: item[1]["bits_per_value"]):
        cells = [
            f"{row['bits_per_value']:.2f}",
            *([f"{row['rmse']:.3f}"] if single else []),
            f"{row['rmse_in_sd']:.3f}",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"\n{conditions}.")
