"""The parts of ``gpu_run.py``: each a module that runs in a process of its own and writes rows as it goes."""
