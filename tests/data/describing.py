"""Describing a folder and reading a tile by the description, for tests of what is recognised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fusion.data import FolderDataset
from fusion.data.describe import Guess, describe
from fusion.yaml_loader import load_yaml


def described(path: Path) -> tuple[Guess, FolderDataset]:
    """The guess, and the data as its YAML describes them."""
    guess = describe(path)
    table = load_yaml(str(guess))
    assert table == json.loads(json.dumps(dict(guess.description)))  # what is written is what was guessed
    return guess, FolderDataset(table, guess.folder)


def comment(guess: Guess, *keys: str) -> str:
    """That of a key, which stands in the YAML too."""
    said = guess.comments[keys]
    assert f"# {said}" in str(guess)
    return said


def questions(guess: Guess) -> str:
    """All of them, which stand at the top of the YAML."""
    lines = str(guess).splitlines()
    assert [line.removeprefix("# Please answer: ") for line in lines[: len(guess.questions)]] == [
        question.text for question in guess.questions
    ]
    return "\n".join(question.text for question in guess.questions)


def values(dataset: FolderDataset, modality: str, tile: int = 0) -> np.ndarray:
    found: Any = dataset[tile].values[modality]
    return np.asarray(found)
