"""Experiments of single papers: the data they open and steps of their own, named by YAML under ``fusion/presets``.

Nothing imports them, and they do not import each other.
"""
