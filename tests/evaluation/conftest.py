"""The stand-in system of the training tests serves here too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from fusion.training import System, register

register("tiny", System("tiny_system:TinyModel", "tiny_system:TinyConfig", "", "tiny_system:TinyFinetuning"))
