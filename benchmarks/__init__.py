"""Measures the ops against what a user would write otherwise. Not installed with the package."""
