"""Experiments with token fusion: the data they open and the steps they are made of."""
