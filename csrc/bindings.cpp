// Registers the CPU implementations with torch's dispatcher, by the stable C ABI.
//
// Schemas, checks, autograd and fake kernels are in Python (kernels/<op>/op.py), which declares each
// `<op>_cpp` below; tensors arrive here contiguous and checked. The arithmetic is in cpu/<op>.cpp, on raw
// pointers and without torch, so that the NumPy module (arrays.cpp) shares it.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace {

using torch::stable::Tensor;

[[maybe_unused]] int threads() { return static_cast<int>(torch::stable::get_num_threads()); }

}  // namespace

// ---------------------------------------------------------------- infonce

// ---------------------------------------------------------------- attention

// ---------------------------------------------------------------- quantize
