"""Experiments with the context-aware system: the data they open and the steps they are made of."""
