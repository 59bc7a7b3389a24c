"""Options of a context-aware model that trains in a second."""

SIZES = [
    *("--model.window", "3", "--training.samples", "40", "--training.batch_size", "20"),
    *("--model.sensors", "{s2: {bottleneck: 5, frames: 5, reduced: 3, widths: [8, 8, 8, 8], mlp_dim: 8},"
      " s1: {frames: 5, reduced: 3, widths: [8, 8, 8, 8], mlp_dim: 8}}"),
    *("--model.fusion", "{embedding: 6, dim: 16, mlp_dim: 16}"),
]  # fmt: skip
