"""Puts the stand-in system where tests can import it, and registers it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fusion.training import System, register

register("tiny", System("tiny_system:TinyModel", "tiny_system:TinyConfig", "", "tiny_system:TinyFinetuning"))
