"""Stand-ins for ``VectorQuantize`` and ``FSQ`` of vector-quantize-pytorch (1.32), on this package's kernels.

Same arguments of constructor and ``forward``, return values, attribute and state-dict names, so that an import can be
exchanged and a checkpoint loaded; N x K distances and one-hot tensors only where an argument asks for them.
``affine_param`` and what belongs to it raise ``NotImplementedError``. What differs:

* Vectors that hold a NaN come back as NaN with code -1, and neither they nor padding move the codebook.
* Codes nearest to the same vector to within rounding may be told apart in another way: distances are more exact.
* Moving averages stay in float32 in a module in half precision.
* With several ranks, restarts and the k-means start draw other random vectors.
"""

from __future__ import annotations

from .codebook import Codebook
from .finite_scalar import FSQ
from .vector_losses import LossBreakdown
from .vector_quantize import VectorQuantize

__all__ = ["FSQ", "Codebook", "LossBreakdown", "VectorQuantize"]
