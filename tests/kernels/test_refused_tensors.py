"""What is no dense tensor of floats is refused by every operator, by the name of the argument and with the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fusion.kernels import (
    PatchInfoNCE,
    ProductVectorQuantizer,
    ResidualVectorQuantizer,
    VectorQuantizer,
    bin_encode,
    euclidean_buckets,
    finite_scalar_quantize,
    nearest_code,
    patch_info_nce,
    patch_info_nce_ragged,
    relative_attention,
    vector_quantize,
)
from fusion.kernels.quantize.op import code_decode, code_statistics

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
SQUARE = torch.ones(2, 2, 2, 2)
LABEL = torch.arange(2)


def _attend(table: Any = None, **changed: Any) -> Tensor:
    tensors = {"query": SQUARE, "key": SQUARE, "value": SQUARE} | changed
    table = torch.zeros(1, 2, 4) if table is None else table
    return relative_attention(*tensors.values(), table=table, bucket=euclidean_buckets(1, 2))


CALLS: dict[str, tuple[str, Callable[[Any], Any], Tensor]] = {
    "patch_info_nce": ("tokens", patch_info_nce, SQUARE),
    "patch_info_nce_ragged": (
        "tokens",
        lambda x: patch_info_nce_ragged(x, modality=LABEL, tile=LABEL, patch=LABEL),
        torch.ones(2, 3),
    ),
    "PatchInfoNCE": ("tokens", PatchInfoNCE(), SQUARE),
    "query": ("query", lambda x: _attend(query=x), SQUARE),
    "value": ("value", lambda x: _attend(value=x), SQUARE),
    "table": ("table", lambda x: _attend(table=x), torch.zeros(1, 2, 4)),
    "vector_quantize": ("x", lambda x: vector_quantize(x, torch.ones(4, 3)), torch.ones(5, 3)),
    "nearest_code": ("codebook", lambda x: nearest_code(torch.ones(5, 3), x), torch.ones(4, 3)),
    "finite_scalar_quantize": ("z", lambda x: finite_scalar_quantize(x, [5, 5]), torch.ones(3, 2)),
    "bin_encode": ("values", lambda x: bin_encode(x, torch.arange(4.0)), torch.ones(3, 2)),
    "code_decode": ("codebook", lambda x: code_decode(LABEL, x), torch.ones(3, 2)),
    "code_statistics": ("x", lambda x: code_statistics(x, LABEL, 3), torch.ones(2, 3)),
    "VectorQuantizer": ("x", VectorQuantizer(3, 4), torch.ones(6, 3)),
    "ResidualVectorQuantizer": ("x", ResidualVectorQuantizer(3, 4, 2), torch.ones(6, 3)),
    "residual codes": ("x", lambda x: ResidualVectorQuantizer(3, 4, 2).encode(x), torch.ones(6, 3)),
    "ProductVectorQuantizer": ("x", ProductVectorQuantizer(4, 4, 2), torch.ones(6, 4)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.numpy(), r"must be a torch.Tensor, got ndarray; convert with torch.as_tensor\("),
        (lambda x: x.long(), r"floating point \(float32, float64, bfloat16, float16\), got torch.int64"),
        (lambda x: x.to(torch.float8_e4m3fn), "got torch.float8_e4m3fn; convert with"),
        (lambda x: x.to(torch.complex64), "got torch.complex64"),
        (lambda x: x.to_sparse(), r"is sparse_coo, must be dense; convert with .*\.to_dense\(\)"),
        (lambda x: torch.nested.nested_tensor([x[0], x[0]]), "is nested, must be dense"),
    ],
    ids=["array", "integers", "float8", "complex", "sparse", "nested"],
)
def test_what_is_no_dense_tensor_of_floats_is_refused(name: str, change: Callable[[Tensor], Any], message: str) -> None:
    argument, call, tensor = CALLS[name]
    with pytest.raises(TypeError, match=f"{argument} .*{message}"):
        call(change(tensor))


def test_tokens_without_features_have_no_loss() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 0\) have D = 0 features"):
        patch_info_nce(torch.ones(2, 3, 4, 0))
