"""What experiments and commands are made of: a YAML, the steps it names, the state they share, the report."""

from .runner import Experiment, Outcome, experiments, load_experiment, run_experiment

__all__ = ["Experiment", "Outcome", "experiments", "load_experiment", "run_experiment"]
