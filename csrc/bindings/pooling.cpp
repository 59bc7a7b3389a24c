// Pooling of dates as a torch operator; see common.h.

#include "../cpu/pooling.h"

#include "common.h"

namespace fusion::bindings {
namespace {

const float* floats(const MaybeTensor& t) { return t ? data<float>(std::as_const(*t)) : nullptr; }

std::tuple<Tensor, Tensor> pool_dates_cpp(Tensor values, MaybeTensor bias, MaybeTensor valid, MaybeTensor norm_weight,
                                          MaybeTensor norm_bias, int64_t groups, double eps, Tensor query,
                                          Tensor offset, Tensor positions) {
  const pooling::Sizes sizes{values.size(0), values.size(1), values.size(2), values.size(3), query.size(0), groups};
  Tensor pooled = new_empty(query, {sizes.tiles, sizes.patches, sizes.dim});
  Tensor attention = new_empty(query, {sizes.tiles, sizes.patches, sizes.dates, sizes.heads});
  const pooling::Norm norm{floats(norm_weight), floats(norm_bias), static_cast<float>(eps)};
  const bool* observed = valid ? data<bool>(std::as_const(*valid)) : nullptr;
  auto run = [&](auto example) {
    using T = decltype(example);
    pooling::pool_dates(data<T>(std::as_const(values)), floats(bias), observed, norm, data<float>(std::as_const(query)),
                        data<float>(std::as_const(offset)), data<float>(std::as_const(positions)), sizes, threads(),
                        data<float>(pooled), data<float>(attention));
  };
  if (values.scalar_type() == ScalarType::BFloat16)
    run(fusion::bfloat16());
  else
    run(float());
  return {pooled, attention};
}

}  // namespace
}  // namespace fusion::bindings

STABLE_TORCH_LIBRARY_IMPL(fusion, CPU, m) {
  m.impl("pool_dates_cpp", TORCH_BOX(&fusion::bindings::pool_dates_cpp));
}
