"""What experiments and commands are made of: a YAML, the steps it names, the state they share, the report."""

from .experiment import Experiment, experiments, load_experiment
from .runner import Outcome, run_experiment

__all__ = ["Experiment", "Outcome", "experiments", "load_experiment", "run_experiment"]
