"""What the Triton kernels of all ops share: tiles and architectures, constants and arithmetic, the interpreter mended.

``device`` needs no Triton; ``language`` imports it.
"""
