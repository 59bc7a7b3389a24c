// Quantization as torch operators; see common.h.

#include "../cpu/quantize.h"

#include "common.h"

namespace fusion::bindings {
namespace {

template <class T>
quantize::Rows<T> rows(const Tensor& t) {
  return {static_cast<const T*>(t.const_data_ptr()), t.size(0), t.size(1), t.stride(0)};
}

Tensor nearest_code_cpp(Tensor x, Tensor codebook, bool cosine) {
  Tensor codes = new_empty(x, {x.size(0)}, ScalarType::Long);
  const auto metric = cosine ? quantize::Metric::kCosine : quantize::Metric::kL2;
  for_values(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    quantize::nearest_code(rows<T>(x), rows<Arithmetic<T>>(codebook), metric, threads(),
                           data<int64_t>(codes));
  });
  return codes;
}

std::tuple<Tensor, double, int64_t> quantize_rows_cpp(Tensor x, Tensor codebook, Tensor codes) {
  Tensor quantized = new_empty(x, {x.size(0), x.size(1)});
  double squares;
  int64_t finite;
  for_values(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    quantize::quantize_rows(rows<T>(x), data<Arithmetic<T>>(std::as_const(codebook)),
                            data<int64_t>(std::as_const(codes)), threads(), data<T>(quantized), &squares, &finite);
  });
  return {quantized, squares, finite};
}

Tensor quantize_rows_backward_cpp(Tensor grad, Tensor x, Tensor quantized, bool rotate, double pull) {
  Tensor dx = new_empty(x, {x.size(0), x.size(1)});
  for_values(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    quantize::quantize_rows_backward(data<T>(std::as_const(grad)), rows<T>(x), data<T>(std::as_const(quantized)),
                                     rotate, static_cast<Arithmetic<T>>(pull), threads(), data<T>(dx));
  });
  return dx;
}

std::tuple<Tensor, Tensor> code_statistics_cpp(Tensor x, Tensor codes, int64_t size) {
  Tensor counts = new_empty(x, {size}, arithmetic(x)), sums = new_empty(x, {size, x.size(1)}, arithmetic(x));
  for_values(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    using A = Arithmetic<T>;
    quantize::code_statistics(rows<T>(x), data<int64_t>(std::as_const(codes)), size, threads(), data<A>(counts),
                              data<A>(sums));
  });
  return {counts, sums};
}

std::tuple<Tensor, Tensor> finite_scalar_quantize_cpp(Tensor z, std::vector<int64_t> levels, bool sigmoid) {
  Tensor quantized = new_empty(z, {z.size(0), z.size(1)}), codes = new_empty(z, {z.size(0)}, ScalarType::Long);
  const auto form = sigmoid ? quantize::Form::kSigmoid : quantize::Form::kTanh;
  for_values(z.scalar_type(), [&](auto example) {
    using T = decltype(example);
    quantize::finite_scalar_quantize(data<T>(std::as_const(z)), z.size(0), levels.data(), z.size(1), form, threads(),
                                     data<T>(quantized), data<int64_t>(codes));
  });
  return {quantized, codes};
}

Tensor finite_scalar_quantize_backward_cpp(Tensor grad, Tensor z, std::vector<int64_t> levels, bool sigmoid) {
  Tensor dz = new_empty(z, {z.size(0), z.size(1)});
  const auto form = sigmoid ? quantize::Form::kSigmoid : quantize::Form::kTanh;
  for_values(z.scalar_type(), [&](auto example) {
    using T = decltype(example);
    quantize::finite_scalar_quantize_backward(data<T>(std::as_const(grad)), data<T>(std::as_const(z)), z.size(0),
                                              levels.data(), z.size(1), form, threads(), data<T>(dz));
  });
  return dz;
}

Tensor bin_encode_cpp(Tensor values, Tensor edges) {
  Tensor codes = new_empty(values, {values.numel()}, ScalarType::Long);
  auto run = [&](auto value, auto edge) {
    using T = decltype(value);
    using E = decltype(edge);
    quantize::bin_encode(data<T>(std::as_const(values)), values.numel(), data<E>(std::as_const(edges)),
                         edges.size(0) - 1, threads(), data<int64_t>(codes));
  };
  if (values.scalar_type() == ScalarType::Double)
    run(double(), double());
  else if (values.scalar_type() == ScalarType::BFloat16)
    run(fusion::bfloat16(), float());
  else if (edges.scalar_type() == ScalarType::Double)
    run(float(), double());
  else
    run(float(), float());
  return codes;
}

std::tuple<Tensor, int64_t, int64_t> bin_decode_cpp(Tensor codes, Tensor centres) {
  const int64_t dim = centres.size(1);
  Tensor values = new_empty(centres, {codes.numel(), dim});
  int64_t range[2];
  auto run = [&](auto example) {
    using T = decltype(example);
    quantize::bin_decode(data<int64_t>(std::as_const(codes)), codes.numel(), data<T>(std::as_const(centres)),
                         centres.size(0), dim, threads(), data<T>(values), range);
  };
  if (centres.scalar_type() == ScalarType::Double)
    run(double());
  else
    run(float());
  return {values, range[0], range[1]};
}

}  // namespace
}  // namespace fusion::bindings

STABLE_TORCH_LIBRARY_IMPL(fusion, CPU, m) {
  m.impl("nearest_code_cpp", TORCH_BOX(&fusion::bindings::nearest_code_cpp));
  m.impl("quantize_rows_cpp", TORCH_BOX(&fusion::bindings::quantize_rows_cpp));
  m.impl("quantize_rows_backward_cpp", TORCH_BOX(&fusion::bindings::quantize_rows_backward_cpp));
  m.impl("code_statistics_cpp", TORCH_BOX(&fusion::bindings::code_statistics_cpp));
  m.impl("finite_scalar_quantize_cpp", TORCH_BOX(&fusion::bindings::finite_scalar_quantize_cpp));
  m.impl("finite_scalar_quantize_backward_cpp", TORCH_BOX(&fusion::bindings::finite_scalar_quantize_backward_cpp));
  m.impl("bin_encode_cpp", TORCH_BOX(&fusion::bindings::bin_encode_cpp));
  m.impl("bin_decode_cpp", TORCH_BOX(&fusion::bindings::bin_decode_cpp));
}
