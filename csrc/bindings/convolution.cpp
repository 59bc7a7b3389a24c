// The transforms of convolutions as torch operators; see common.h.

#include "../cpu/convolution.h"

#include "common.h"

namespace fusion::bindings {
namespace {

using Transform = void (*)(const float*, const convolution::Sizes&, int, float*);

convolution::Sizes sizes_of(const Tensor& maps) { return {maps.size(0), maps.size(1), maps.size(2), maps.size(3)}; }

template <Transform transform>
void to_matrices(Tensor maps, Tensor matrices) {
  transform(data<float>(std::as_const(maps)), sizes_of(maps), threads(), data<float>(matrices));
}

template <Transform transform>
void from_matrices(Tensor matrices, Tensor maps) {
  transform(data<float>(std::as_const(matrices)), sizes_of(maps), threads(), data<float>(maps));
}

}  // namespace
}  // namespace fusion::bindings

STABLE_TORCH_LIBRARY_IMPL(fusion, CPU, m) {
  using namespace fusion;
  m.impl("gather_tiles_cpp", TORCH_BOX(&bindings::to_matrices<convolution::gather_tiles>));
  m.impl("gather_gradients_cpp", TORCH_BOX(&bindings::to_matrices<convolution::gather_gradients>));
  m.impl("write_tiles_cpp", TORCH_BOX(&bindings::from_matrices<convolution::write_tiles>));
  m.impl("add_tiles_cpp", TORCH_BOX(&bindings::from_matrices<convolution::add_tiles>));
}
