// Registers the CPU implementations with torch's dispatcher, by the stable C ABI.
//
// Schemas, checks, autograd and fake kernels are in Python (kernels/<op>/op.py), which declares each
// `<op>_cpp` below; tensors arrive here contiguous and checked. The arithmetic is in cpu/<op>.cpp, on raw
// pointers and without torch, so that the NumPy module (arrays.cpp) shares it.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/infonce.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::new_empty;
using torch::stable::Tensor;

[[maybe_unused]] int threads() { return static_cast<int>(torch::stable::get_num_threads()); }

}  // namespace

// ---------------------------------------------------------------- infonce

namespace {

template <class T>
fusion::infonce::Problem<T> infonce_problem(const Tensor& tokens, const Tensor& modality, const Tensor& block,
                                            const Tensor& ring, const std::optional<Tensor>& anchor,
                                            double temperature, bool normalize) {
  return {tokens.size(0),
          tokens.size(1),
          static_cast<const T*>(tokens.const_data_ptr()),
          static_cast<const int32_t*>(modality.const_data_ptr()),
          static_cast<const int32_t*>(block.const_data_ptr()),
          static_cast<const int32_t*>(ring.const_data_ptr()),
          anchor ? static_cast<const int64_t*>(anchor->const_data_ptr()) : nullptr,
          anchor ? anchor->size(0) : tokens.size(0),
          temperature,
          normalize,
          threads()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> patch_info_nce_forward(
    Tensor tokens, Tensor modality, Tensor block, Tensor ring, std::optional<Tensor> anchor, double temperature,
    bool normalize, bool accuracy) {
  const int64_t rows = anchor ? anchor->size(0) : tokens.size(0);
  const auto sums = tokens.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor loss = new_empty(tokens, {rows}, sums), log_z = new_empty(tokens, {rows}, sums),
         log_y = new_empty(tokens, {rows}, sums), inverse = new_empty(tokens, {tokens.size(0)}, sums),
         hit = new_empty(tokens, {accuracy ? rows : 0}, ScalarType::Bool);
  auto run = [&](auto example) {
    using T = decltype(example);
    using A = typename fusion::infonce::Statistics<T>::type;
    const auto problem = infonce_problem<T>(tokens, modality, block, ring, anchor, temperature, normalize);
    fusion::infonce::forward(problem, static_cast<A*>(loss.mutable_data_ptr()),
                             static_cast<A*>(log_z.mutable_data_ptr()), static_cast<A*>(log_y.mutable_data_ptr()),
                             static_cast<A*>(inverse.mutable_data_ptr()),
                             accuracy ? static_cast<bool*>(hit.mutable_data_ptr()) : nullptr);
  };
  if (tokens.scalar_type() == ScalarType::Double)
    run(double());
  else if (tokens.scalar_type() == ScalarType::BFloat16)
    run(fusion::bfloat16());
  else
    run(float());
  return {loss, log_z, log_y, inverse, hit};
}

std::tuple<Tensor, double> patch_info_nce_backward(Tensor grad, Tensor tokens, Tensor modality, Tensor block,
                                                   Tensor ring, std::optional<Tensor> anchor, double temperature,
                                                   Tensor log_z, Tensor log_y, bool normalize) {
  Tensor d_tokens = new_empty(tokens, {anchor ? anchor->size(0) : tokens.size(0), tokens.size(1)});
  double d_temperature = 0;
  auto run = [&](auto example) {
    using T = decltype(example);
    using A = typename fusion::infonce::Statistics<T>::type;
    const auto problem = infonce_problem<T>(tokens, modality, block, ring, anchor, temperature, normalize);
    fusion::infonce::backward(problem, static_cast<const A*>(grad.const_data_ptr()),
                              static_cast<const A*>(log_z.const_data_ptr()),
                              static_cast<const A*>(log_y.const_data_ptr()),
                              static_cast<T*>(d_tokens.mutable_data_ptr()), &d_temperature);
  };
  if (tokens.scalar_type() == ScalarType::Double)
    run(double());
  else if (tokens.scalar_type() == ScalarType::BFloat16)
    run(fusion::bfloat16());
  else
    run(float());
  return {d_tokens, d_temperature};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fusion, CPU, m) {
  m.impl("patch_info_nce_forward_cpp", TORCH_BOX(&patch_info_nce_forward));
  m.impl("patch_info_nce_backward_cpp", TORCH_BOX(&patch_info_nce_backward));
}

// ---------------------------------------------------------------- attention

#include "cpu/attention.h"

namespace {

namespace attention = fusion::attention;
using MaybeTensor = std::optional<Tensor>;

attention::Heads heads(const Tensor& t) { return {t.data_ptr(), t.stride(0), t.stride(1), t.stride(2)}; }

attention::Problem attention_problem(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& table,
                                     const Tensor& bucket, const Tensor& live, int64_t positions,
                                     const Tensor& query_position, const Tensor& key_position,
                                     const MaybeTensor& key_valid, const MaybeTensor& seed, double dropout,
                                     double scale) {
  attention::Problem p{};
  p.batch = key.size(0), p.heads = key.size(1), p.queries = query.size(2), p.keys = key.size(2), p.dim = key.size(3);
  p.element = key.element_size() == 4 ? attention::Element::kFloat32 : attention::Element::kBFloat16;
  p.query = heads(query), p.key = heads(key), p.value = heads(value);
  p.contextual = table.dim() == 3, p.shared = table.size(0) == 1, p.buckets = table.size(table.dim() - 1);
  p.table = static_cast<const float*>(table.data_ptr());
  p.positions = positions, p.bucket = bucket.data_ptr();
  p.live = static_cast<const int32_t*>(live.data_ptr()), p.live_count = live.size(0);
  p.query_position = static_cast<const int32_t*>(query_position.data_ptr());
  p.key_position = static_cast<const int32_t*>(key_position.data_ptr());
  p.key_valid = key_valid ? static_cast<const bool*>(key_valid->data_ptr()) : nullptr;
  p.seed = seed ? *static_cast<const int64_t*>(seed->data_ptr()) : 0;
  p.dropout = dropout, p.scale = static_cast<float>(scale), p.threads = threads();
  return p;
}

void relative_attention_cpp(Tensor query, Tensor key, Tensor value, Tensor table, Tensor bucket, Tensor live,
                            int64_t positions, Tensor query_position, Tensor key_position, MaybeTensor key_valid,
                            MaybeTensor seed, double dropout, double scale, Tensor output, Tensor largest,
                            Tensor weight) {
  const attention::Problem p = attention_problem(query, key, value, table, bucket, live, positions, query_position,
                                                 key_position, key_valid, seed, dropout, scale);
  attention::forward(p, heads(output), static_cast<float*>(largest.data_ptr()),
                     static_cast<float*>(weight.data_ptr()));
}

void relative_attention_backward_cpp(Tensor query, Tensor key, Tensor value, Tensor table, Tensor bucket, Tensor live,
                                     int64_t positions, Tensor query_position, Tensor key_position,
                                     MaybeTensor key_valid, MaybeTensor seed, double dropout, double scale,
                                     Tensor grad_output, Tensor output, Tensor largest, Tensor weight, Tensor grad_query,
                                     Tensor grad_key, Tensor grad_value, Tensor grad_table) {
  const attention::Problem p = attention_problem(query, key, value, table, bucket, live, positions, query_position,
                                                 key_position, key_valid, seed, dropout, scale);
  attention::backward(p, heads(grad_output), heads(output), static_cast<const float*>(largest.data_ptr()),
                      static_cast<const float*>(weight.data_ptr()), heads(grad_query), heads(grad_key), heads(grad_value),
                      static_cast<float*>(grad_table.data_ptr()));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fusion, CPU, m) {
  m.impl("relative_attention_cpp", TORCH_BOX(&relative_attention_cpp));
  m.impl("relative_attention_backward_cpp", TORCH_BOX(&relative_attention_backward_cpp));
}

// ---------------------------------------------------------------- quantize

#include "cpu/quantize.h"

namespace {

namespace quantize = fusion::quantize;

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

template <class T>
quantize::Rows<T> rows(const Tensor& t) {
  return {static_cast<const T*>(t.const_data_ptr()), t.size(0), t.size(1), t.stride(0)};
}

template <class T>
T* data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

ScalarType arithmetic(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

Tensor nearest_code_cpp(Tensor x, Tensor codebook, bool cosine) {
  Tensor codes = new_empty(x, {x.size(0)}, ScalarType::Long);
  const auto metric = cosine ? quantize::Metric::kCosine : quantize::Metric::kL2;
  for_values(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    quantize::nearest_code(rows<T>(x), rows<quantize::Arithmetic<T>>(codebook), metric, threads(),
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
    quantize::quantize_rows(rows<T>(x), data<quantize::Arithmetic<T>>(std::as_const(codebook)),
                            data<int64_t>(std::as_const(codes)), threads(), data<T>(quantized), &squares, &finite);
  });
  return {quantized, squares, finite};
}

Tensor quantize_rows_backward_cpp(Tensor grad, Tensor x, Tensor quantized, bool rotate, double pull) {
  Tensor dx = new_empty(x, {x.size(0), x.size(1)});
  for_values(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    quantize::quantize_rows_backward(data<T>(std::as_const(grad)), rows<T>(x), data<T>(std::as_const(quantized)),
                                     rotate, static_cast<quantize::Arithmetic<T>>(pull), threads(), data<T>(dx));
  });
  return dx;
}

std::tuple<Tensor, Tensor> code_statistics_cpp(Tensor x, Tensor codes, int64_t size) {
  Tensor counts = new_empty(x, {size}, arithmetic(x)), sums = new_empty(x, {size, x.size(1)}, arithmetic(x));
  for_values(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    using A = quantize::Arithmetic<T>;
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

STABLE_TORCH_LIBRARY_IMPL(fusion, CPU, m) {
  m.impl("nearest_code_cpp", TORCH_BOX(&nearest_code_cpp));
  m.impl("quantize_rows_cpp", TORCH_BOX(&quantize_rows_cpp));
  m.impl("quantize_rows_backward_cpp", TORCH_BOX(&quantize_rows_backward_cpp));
  m.impl("code_statistics_cpp", TORCH_BOX(&code_statistics_cpp));
  m.impl("finite_scalar_quantize_cpp", TORCH_BOX(&finite_scalar_quantize_cpp));
  m.impl("finite_scalar_quantize_backward_cpp", TORCH_BOX(&finite_scalar_quantize_backward_cpp));
  m.impl("bin_encode_cpp", TORCH_BOX(&bin_encode_cpp));
  m.impl("bin_decode_cpp", TORCH_BOX(&bin_decode_cpp));
}
