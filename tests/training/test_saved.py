"""Checkpoints written at 3c108c0, before fields, modules and words were renamed, load and give the same numbers.

``saved/NAME.safetensors`` is a checkpoint with random weights, ``saved/NAME.expected.safetensors`` a batch and what
the model made of it. They are never written again: a model that no longer reads them has lost its users' work.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fusion.data import TileBatch
from fusion.training import load_finetuned, load_model

SAVED = Path(__file__).parent / "saved"


def expected(name: str) -> tuple[TileBatch, dict[str, torch.Tensor]]:
    """The batch, and the outputs by name."""
    parts: dict[str, dict[str, torch.Tensor]] = {"values": {}, "valid": {}, "days": {}, "output": {}, "observed": {}}
    for key, tensor in load_file(SAVED / f"{name}.expected.safetensors").items():
        kind, _, modality = key.partition(".")
        sensor = modality.removesuffix(".observed")  # then a series of ones and zeros, now TileBatch.observed
        if sensor == modality:
            parts[kind][modality] = tensor
        elif kind == "values":
            parts["observed"][sensor] = tensor > 0.5
    return TileBatch(parts["values"], parts["days"], parts["valid"], observed=parts["observed"]), parts["output"]


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_omnisat():
    batch, output = expected("omnisat")
    model = load_model(SAVED / "omnisat.safetensors", system="omnisat")
    encoding = model(batch)
    close(encoding.summary, output["summary"])
    close(encoding.patches, output["patches"])


@torch.no_grad()
def test_a_fine_tuned_omnisat():
    batch, output = expected("omnisat-finetuned")
    close(load_finetuned(SAVED / "omnisat-finetuned.safetensors")(batch), output["prediction"])


@torch.no_grad()
def test_token_fusion_with_every_kind_of_tokenizer():
    batch, output = expected("token-fusion")
    model = load_model(SAVED / "token-fusion.safetensors", system="token-fusion")
    tokens = model.tokenize(batch)
    assert torch.equal(tokens.codes, output["codes"])
    close(model(batch).summary, output["summary"])
    for name, part in tokens.layout.slices.items():
        close(model.tokenizer.decode(name, tokens.codes[:, part]), output[f"decoded.{name}"])


@torch.no_grad()
def test_context_fusion():
    batch, output = expected("context")
    found = load_model(SAVED / "context.safetensors", system="context")(batch)
    close(found.embedding, output["embedding"])
    for name, code in found.codes.items():
        close(code, output[f"code.{name}"])


@torch.no_grad()
def test_a_single_sensor():
    batch, output = expected("context-sensor")
    model = load_model(SAVED / "context-sensor.safetensors", system="context-sensor")
    code, _, _ = model(batch.values["s1"], batch.days["s1"], batch.valid["s1"], batch.observed["s1"])
    close(code, output["code"])


@pytest.mark.parametrize("path", sorted(SAVED.glob("*.safetensors")), ids=lambda p: p.stem)
def test_nothing_there_is_large(path):
    assert path.stat().st_size < 200_000
