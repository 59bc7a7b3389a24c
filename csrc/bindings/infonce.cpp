// Patch InfoNCE as torch operators; see common.h.

#include "../cpu/infonce.h"

#include "common.h"

namespace fusion::bindings {
namespace {

template <class T>
infonce::Problem<T> infonce_problem(const Tensor& tokens, const Tensor& modality, const Tensor& block,
                                    const Tensor& ring, const MaybeTensor& anchor, double temperature,
                                    bool normalize) {
  return {tokens.size(0),
          tokens.size(1),
          data<T>(tokens),
          data<int32_t>(modality),
          data<int32_t>(block),
          data<int32_t>(ring),
          anchor ? data<int64_t>(*anchor) : nullptr,
          anchor ? anchor->size(0) : tokens.size(0),
          temperature,
          normalize,
          threads()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> patch_info_nce_forward(
    Tensor tokens, Tensor modality, Tensor block, Tensor ring, MaybeTensor anchor, double temperature, bool normalize,
    bool accuracy) {
  const int64_t rows = anchor ? anchor->size(0) : tokens.size(0);
  const auto sums = arithmetic(tokens);
  Tensor loss = new_empty(tokens, {rows}, sums), log_z = new_empty(tokens, {rows}, sums),
         log_y = new_empty(tokens, {rows}, sums), inverse = new_empty(tokens, {tokens.size(0)}, sums),
         hit = new_empty(tokens, {accuracy ? rows : 0}, ScalarType::Bool);
  for_values(tokens.scalar_type(), [&](auto example) {
    using T = decltype(example);
    using A = Arithmetic<T>;
    const auto problem = infonce_problem<T>(tokens, modality, block, ring, anchor, temperature, normalize);
    infonce::forward(problem, data<A>(loss), data<A>(log_z), data<A>(log_y), data<A>(inverse),
                     accuracy ? data<bool>(hit) : nullptr);
  });
  return {loss, log_z, log_y, inverse, hit};
}

std::tuple<Tensor, double> patch_info_nce_backward(Tensor grad, Tensor tokens, Tensor modality, Tensor block,
                                                   Tensor ring, MaybeTensor anchor, double temperature, Tensor log_z,
                                                   Tensor log_y, bool normalize) {
  Tensor d_tokens = new_empty(tokens, {anchor ? anchor->size(0) : tokens.size(0), tokens.size(1)});
  double d_temperature = 0;
  for_values(tokens.scalar_type(), [&](auto example) {
    using T = decltype(example);
    using A = Arithmetic<T>;
    const auto problem = infonce_problem<T>(tokens, modality, block, ring, anchor, temperature, normalize);
    infonce::backward(problem, data<A>(std::as_const(grad)), data<A>(std::as_const(log_z)),
                      data<A>(std::as_const(log_y)), data<T>(d_tokens), &d_temperature);
  });
  return {d_tokens, d_temperature};
}

}  // namespace
}  // namespace fusion::bindings

STABLE_TORCH_LIBRARY_IMPL(fusion, CPU, m) {
  m.impl("patch_info_nce_forward_cpp", TORCH_BOX(&fusion::bindings::patch_info_nce_forward));
  m.impl("patch_info_nce_backward_cpp", TORCH_BOX(&fusion::bindings::patch_info_nce_backward));
}
