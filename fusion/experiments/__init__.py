"""Experiments: a YAML under ``fusion/presets/experiments`` and the generic steps that it names."""

from .data import open_data, partition
from .runner import Experiment, Outcome, experiments, load_experiment, run_experiment

__all__ = ["Experiment", "Outcome", "experiments", "load_experiment", "open_data", "partition", "run_experiment"]
