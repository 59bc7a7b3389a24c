"""The Triton kernels of patch InfoNCE in Triton's interpreter, float32 and float16, against the float64 definition.

(The interpreter multiplies bfloat16 as raw bits, so that dtype is left to tests/gpu.) Triton decides when it is
imported whether to interpret: outside the interpreter this file runs itself again in another process.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not INTERPRETED:

    def test_kernels_in_the_interpreter() -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-p", "no:cacheprovider"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

else:
    from fusion.kernels import patch_info_nce, use_backend
    from fusion.kernels.infonce import eager, reference, triton
    from fusion.kernels.infonce.layout import dense_layout

    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, for inf - inf behind a mask

    def _tokens(*shape: int, alike: float = 1.0) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return alike * torch.randn(shape[1:], generator=generator) + torch.randn(shape, generator=generator)

    def _results(loss, tokens: Tensor, temperature: float, **options) -> list[Tensor]:
        tokens = tokens.detach().clone().requires_grad_()
        t = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
        value, accuracy = loss(tokens, temperature=t, return_accuracy=True, **options)
        value.sum().backward()
        return [value.detach(), accuracy, tokens.grad, t.grad]

    CASES = {
        "several row and column tiles": ((3, 2, 20, 16), {}),
        "self": ((2, 3, 11, 24), {"exclude": "self", "reduction": "none"}),
        "whole tiles excluded": ((2, 2, 40, 16), {"exclude": "modality"}),
        "tiles of the image wider than tiles of the matrix": ((2, 1, 100, 8), {}),
        "four modalities, some missing": ((4, 3, 5, 10), {"valid": True}),
        "running maximum": ((3, 3, 7, 16), {"temperature": 0.01, "valid": True}),
        "dot products": ((3, 2, 9, 12), {"normalize": False, "temperature": 2.0}),
        "more features than a block": ((2, 2, 8, 300), {}),
        "saturated": ((2, 4, 6, 16), {"alike": 20.0}),
        "nothing observed": ((2, 2, 3, 8), {"valid": False}),
    }

    @pytest.mark.parametrize("case", CASES)
    def test_float32(case: str) -> None:
        shape, options = CASES[case]
        options = dict(options)
        tokens = _tokens(*shape, alike=options.pop("alike", 1.0))
        temperature = options.pop("temperature", 0.2)
        if (valid := options.pop("valid", None)) is not None:
            options["valid"] = (torch.rand(shape[:3], generator=torch.Generator().manual_seed(1)) > 0.3) & valid
        want = _results(reference.patch_info_nce, tokens.double(), temperature, **options)
        with use_backend("triton"):
            got = _results(patch_info_nce, tokens, temperature, **options)
        length = float(tokens.norm(dim=-1).mean())
        scales = (1.0, 1.0, 1 / (temperature * length * tokens[..., 0].numel()), 1 / temperature)
        for g, w, scale in zip(got, want, scales, strict=True):
            bound = 2e-6 / temperature * max(float(w.abs().max().nan_to_num()), scale)
            torch.testing.assert_close(g.double(), w, rtol=0, atol=bound, equal_nan=True)

    @pytest.mark.parametrize("case", CASES)
    def test_half_of_the_tiles(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Losses and what backward needs are those of all tiles, but for the order of sums."""
        shape, options = CASES[case]
        tokens = _tokens(*shape, alike=options.get("alike", 1.0)).flatten(0, 2)
        valid = options.get("valid")
        if valid is not None:
            valid = ((torch.rand(shape[:3], generator=torch.Generator().manual_seed(1)) > 0.3) & valid).flatten()
        layout = dense_layout(shape[:3], options.get("exclude", "tile"), valid, tokens.device)
        setting = torch.tensor(options.get("temperature", 0.2)), options.get("normalize", True), False
        whole = triton.forward(tokens, *layout, None, *setting)
        monkeypatch.setattr(triton, "_HALVED_FROM", 0)
        half, again = (triton.forward(tokens, *layout, None, *setting) for _ in range(2))
        assert all(torch.equal(h, a) for h, a in zip(half, again, strict=True))
        for h, w in zip(half, whole, strict=True):
            torch.testing.assert_close(h, w, rtol=1e-5, atol=1e-6)

    def test_float16() -> None:
        tokens = _tokens(3, 2, 20, 24).half()
        want = _results(reference.patch_info_nce, tokens.double(), 0.1)
        with use_backend("triton"):
            got = _results(patch_info_nce, tokens, 0.1)
            again = _results(patch_info_nce, tokens, 0.1)
        assert all(torch.equal(g, a) for g, a in zip(got, again, strict=True))
        plain = _results(reference.patch_info_nce, tokens, 0.1)
        for k in (0, 2, 3):
            error, allowed = ((x[k].double() - want[k]).square().mean().sqrt() for x in (got, plain))
            assert error <= 2 * allowed + 1e-12

    def test_chosen_rows_of_a_joined_batch() -> None:
        """As a rank of a distributed run: some rows, all columns, rows in any order."""
        tokens = _tokens(3, 3, 8, 16).flatten(0, 2)
        layout = dense_layout((3, 3, 8), "tile", None, tokens.device)
        anchor = torch.randperm(72, generator=torch.Generator().manual_seed(2))[:37]
        forward = (tokens, *layout, anchor, torch.tensor(0.2), True, True)
        got, want = triton.forward(*forward), eager.forward(*forward)
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-5)
        _, log_z, log_y, inverse, _ = eager.forward(tokens, *layout, None, torch.tensor(0.2), True, False)
        backward = (torch.rand(72), tokens, *layout, anchor, torch.tensor(0.2), log_z, log_y, inverse, True, True)
        for g, w in zip(triton.backward(*backward), eager.backward(*backward), strict=True):
            torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)
