// What the bindings share: tensors of torch's stable C ABI as typed pointers.
//
// Schemas, autograd and fake kernels are in Python (kernels/<op>/registration.py), and kernels/<op>/native.py declares
// each `<op>_cpp` that a file here implements; tensors arrive contiguous and checked. The arithmetic is in
// cpu/<op>*.cpp, on raw pointers and without torch, so that the NumPy module (arrays.cpp) shares it.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "../cpu/common.h"

namespace fusion::bindings {

using torch::headeronly::ScalarType;
using torch::stable::new_empty;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline int threads() { return static_cast<int>(torch::stable::get_num_threads()); }

template <class T>
T* data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

// What the values of a tensor are summed in.
inline ScalarType arithmetic(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls function(T()) with the type of the values: float, double or bfloat16.
template <class Function>
void for_values(ScalarType type, const Function& function) {
  if (type == ScalarType::Double)
    function(double());
  else if (type == ScalarType::BFloat16)
    function(fusion::bfloat16());
  else
    function(float());
}

}  // namespace fusion::bindings
