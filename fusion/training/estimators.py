"""What scikit-learn fitted, as plain tensors: linear models and forests that torch evaluates and a file holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Estimator", "ForestEstimator", "LinearEstimator"]

_HELD = 1 << 22  # numbers that rows times trees may hold at once
_LEAST = 1e-30  # probability whose logarithm stands for that of 0


class Estimator(nn.Module):
    """From rows of features to logits or quantities, ``estimator(x)``, (N, D) to (N, K) float32.

    A feature that is NaN takes its mean over the training rows. Softmax (of exclusive classes) or the logistic function
    (of several a row) of the logits are the probabilities of the estimator that was fitted.
    """

    fill: Tensor  # (D,) float64

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def sizes(self) -> dict[str, int]:
        """What the constructor wants, to make one of the same shapes."""
        raise NotImplementedError

    def _filled(self, x: Tensor) -> Tensor:
        """(N, D) float64 without NaN."""
        wide = x.double()
        return torch.where(wide.isnan(), self.fill, wide)


class LinearEstimator(Estimator):
    """Standardised features times coefficients: ridge and logistic regression, discriminant analysis.

    Args:
        inputs: D.
        outputs: K.
    """

    mean: Tensor  # (D,) float64
    scale: Tensor  # (D,)
    coefficients: Tensor  # (K, D)
    intercept: Tensor  # (K,)

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        for name in ("fill", "mean", "scale"):
            self.register_buffer(name, torch.zeros(inputs, dtype=torch.float64))
        self.register_buffer("coefficients", torch.zeros(outputs, inputs, dtype=torch.float64))
        self.register_buffer("intercept", torch.zeros(outputs, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        standard = (self._filled(x) - self.mean) / self.scale
        return (standard @ self.coefficients.T + self.intercept).float()

    def sizes(self) -> dict[str, int]:
        return {"inputs": self.coefficients.shape[1], "outputs": self.coefficients.shape[0]}


class ForestEstimator(Estimator):
    """The mean of trees. All rows go down all trees together, a level at a time.

    Nodes of all trees are numbered together; a branch below 0 ends in the leaf ``-1 - branch``.

    Args:
        inputs: D.
        outputs: K.
        trees: how many.
        nodes: that ask for a feature, of all trees.
        leaves: of all trees.
        depth: questions on the longest way to a leaf.
        logits: 0 for quantities, 1 where values are probabilities of exclusive classes, 2 of several classes a row.
    """

    roots: Tensor  # (trees,) int32: the first node or leaf of each tree
    feature: Tensor  # (nodes,) int32
    threshold: Tensor  # (nodes,) float32: to the left goes what is not above it
    branches: Tensor  # (nodes, 2) int32: to the left and to the right
    values: Tensor  # (leaves, K) float64

    def __init__(self, inputs: int, outputs: int, trees: int, nodes: int, leaves: int, depth: int, logits: int) -> None:
        super().__init__()
        self.inputs, self.depth, self.logits = inputs, depth, logits
        self.register_buffer("fill", torch.zeros(inputs, dtype=torch.float64))
        self.register_buffer("roots", torch.zeros(trees, dtype=torch.int32))
        self.register_buffer("feature", torch.zeros(nodes, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(nodes))
        self.register_buffer("branches", torch.zeros(nodes, 2, dtype=torch.int32))
        self.register_buffer("values", torch.zeros(leaves, outputs, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        held = len(self.roots) * max(4, self.values.shape[1])
        filled = self._filled(x).float()
        if torch.compiler.is_exporting():  # how often a loop runs must not hang on the rows of the example
            mean = self._mean(filled)
        else:
            parts = [self._mean(some) for some in filled.split(max(1, _HELD // held))]
            mean = torch.cat(parts) if len(x) else self.values.new_zeros(0, self._outputs)
        if self.logits == 1:
            mean = mean.clamp_min(_LEAST).log()
        elif self.logits == 2:
            mean = mean.clamp(1e-12, 1 - 1e-12).logit()
        return mean.float()

    def sizes(self) -> dict[str, int]:
        return {
            "inputs": self.inputs,
            "outputs": self._outputs,
            "trees": len(self.roots),
            "nodes": len(self.feature),
            "leaves": len(self.values),
            "depth": self.depth,
            "logits": self.logits,
        }

    @property
    def _outputs(self) -> int:
        return self.values.shape[1]

    def _mean(self, x: Tensor) -> Tensor:
        """(n, K) of rows (n, D) without NaN."""
        at = self.roots.long().expand(x.shape[0], -1)  # (n, trees)
        for _ in range(self.depth):
            node = at.clamp_min(0)
            right = x.gather(1, self.feature[node].long()) > self.threshold[node]
            at = torch.where(at < 0, at, self.branches[node, right.long()].long())
        return self.values[-1 - at].mean(1)
