"""What is measured: ours and its peers, each as a step that one call runs.

``step(contender, ...)`` of each module makes the inputs on ``DEVICE`` and returns a function without arguments. The
pytest benchmarks of a CPU and ``gpu_run.py`` time the same steps.
"""
