"""``fusion experiment``: one YAML from data to table and pictures. ``fusion demo`` is the one called ``demo``."""

from __future__ import annotations

__all__ = ["demo", "experiment"]


def experiment(
    name: str, *, data: str | None = None, out: str | None = None, seed: int | None = None, progress: bool = False
) -> int:
    """Runs an experiment from data to table and pictures; exits 1 if what it expects does not hold.

    Writes metrics.json, report.html and the trained models into the folder of results.

    Args:
        name: one that ships with the package, or a YAML file.
        data: folder of the data, or `landscape`.
        out: folder of results, runs/NAME by default.
        seed: instead of the experiment's own.
        progress: show every epoch.
    """
    from fusion.experiments import load_experiment, run_experiment

    outcome = run_experiment(load_experiment(name), data=data, out=out, seed=seed, progress=progress)
    print(_table(outcome.metrics))
    for expectation, met in outcome.metrics["expectations"].items():
        print(f"{'met    ' if met else 'NOT MET'}  {expectation}")
    return 1 if outcome.failed else 0


def demo(*, out: str = "runs/demo", seed: int | None = None, progress: bool = False) -> int:
    """Shows in minutes, without any data, what the package does: pretrain, probe with few labels, map, report.

    Trains a small OmniSat on the built-in synthetic landscape, then compares it with the same encoder untrained and
    with raw bands. Exits 1 if pretraining does not beat both.

    Args:
        out: folder of results.
        seed: of landscape, weights and draws of labels.
        progress: show every epoch.
    """
    return experiment("demo", out=out, seed=seed, progress=progress)


def _table(metrics: dict) -> str:
    """The scores as text: one row for each row of each group of scores."""
    lines = []
    for key, rows in metrics.items():
        scored = {n: r for n, r in rows.items() if isinstance(r, dict)} if isinstance(rows, dict) else {}
        if not scored:
            continue
        names = [m for m in next(iter(scored.values())) if m != "draws" and not m.endswith("_sd")]
        width = max(map(len, scored))
        lines += ["", f"{key + ':':{width}}  " + "".join(f"{n.replace('_', ' '):>17}" for n in names)]
        for name, row in scored.items():
            cells = [f"{row[n]:.3f}" + (f" ± {row[f'{n}_sd']:.3f}" if f"{n}_sd" in row else "") for n in names]
            lines.append(f"{name:{width}}  " + "".join(f"{cell:>17}" for cell in cells))
        if "conditions" in rows:
            lines.append(rows["conditions"])
    return "\n".join(lines) + "\n"
