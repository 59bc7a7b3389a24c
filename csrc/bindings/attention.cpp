// Relative-position attention as torch operators; see common.h.

#include "../cpu/attention.h"

#include "common.h"

namespace fusion::bindings {
namespace {

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
                                     Tensor grad_output, Tensor output, Tensor largest, Tensor weight,
                                     Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_table) {
  const attention::Problem p = attention_problem(query, key, value, table, bucket, live, positions, query_position,
                                                 key_position, key_valid, seed, dropout, scale);
  attention::backward(p, heads(grad_output), heads(output), static_cast<const float*>(largest.data_ptr()),
                      static_cast<const float*>(weight.data_ptr()), heads(grad_query), heads(grad_key),
                      heads(grad_value), static_cast<float*>(grad_table.data_ptr()));
}

}  // namespace
}  // namespace fusion::bindings

STABLE_TORCH_LIBRARY_IMPL(fusion, CPU, m) {
  m.impl("relative_attention_cpp", TORCH_BOX(&fusion::bindings::relative_attention_cpp));
  m.impl("relative_attention_backward_cpp", TORCH_BOX(&fusion::bindings::relative_attention_backward_cpp));
}
