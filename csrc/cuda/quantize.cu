// Bins on a GPU, registered with torch by the stable C ABI: for float64, which the Triton kernels do not compute in,
// and for GPUs that Triton does not serve. The other operators are in kernels/quantize/triton.
//
// Schema and checks are in kernels/quantize/native.py; tensors arrive contiguous. What is returned is defined in
// csrc/cpu/quantize.h.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../bfloat16.h"

namespace {

using fusion::bfloat16;
using fusion::widen;

using torch::headeronly::ScalarType;
using torch::stable::new_empty;
using torch::stable::Tensor;

constexpr int kThreads = 256;
constexpr int kBlocks = 8;  // a multiprocessor: as many as run at once

void check(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "fusion: a CUDA kernel did not start: ", cudaGetErrorString(error));
}

template <class T>
T* data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}
template <class T>
const T* input(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

// The least V that is not below an edge: a V is below one where it is below the other.
template <class V, class E>
__device__ V round_up(E edge) {
  return edge;
}
template <>
__device__ float round_up<float, double>(double edge) {
  return __double2float_ru(edge);
}

// How values find their bins: found on the GPU, so that nothing waits for it.
template <class V>
struct Plan {
  V first, inverse;  // the first inner edge, bins a unit
  int32_t equal;     // whether edges are equally spaced, near enough for arithmetic
};

// inner[e] = the least V not below edges[e + 1], and whether inner edges are equally spaced. One block; K numbers read
// and written.
template <class V, class E>
__global__ void plan_bins(const E* edges,  // (bins + 1)
                          int bins, double limit,
                          V* inner,  // (bins - 1)
                          Plan<V>* plan) {
  __shared__ int uneven;
  if (threadIdx.x == 0) uneven = bins <= 2 || bins > limit;
  __syncthreads();
  const double first = round_up<V>(edges[1]), last = round_up<V>(edges[bins - 1]);
  const double step = bins > 2 ? (last - first) / (bins - 2) : 1;
  for (int e = threadIdx.x; e < bins - 1; e += blockDim.x) {
    inner[e] = round_up<V>(edges[e + 1]);
    if (!(fabs(double(inner[e]) - (first + e * step)) < 0.25 * step)) uneven = 1;
  }
  __syncthreads();
  if (threadIdx.x == 0) *plan = {V(first), V(1 / step), !uneven};
}

// codes[i] = how many inner edges are not above values[i], -1 for NaN. N values read, N codes written: 8 + sizeof(T)
// bytes a value. Two comparisons where edges are equally spaced, else log2 K steps of a search, edges from cache.
template <class T, class V>
__global__ void encode_values(const T* values,  // (N)
                              int64_t count,
                              const V* inner,  // (bins - 1)
                              int bins, const Plan<V>* plan,
                              int64_t* codes) {  // (N)
  const Plan<V> p = *plan;
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += stride) {
    const V value = widen(values[i]);
    int code = 0;
    if (p.equal) {  // the nearest edge by arithmetic, then the side of it the value is on, exactly
      V edge = rint((value - p.first) * p.inverse);
      edge = edge > 0 ? edge : V(0);
      edge = edge < V(bins - 2) ? edge : V(bins - 2);
      code = int(edge);
      code += value >= inner[code];
    } else {  // how many inner edges are not above the value
      for (int left = bins - 1; left > 0;) {
        const int half = left / 2;
        const bool reached = value >= inner[code + half];
        code += reached ? half + 1 : 0;
        left = reached ? left - half - 1 : half;
      }
    }
    codes[i] = isnan(value) ? -1 : code;
  }
}

Tensor bin_encode_cuda(Tensor values, Tensor edges) {
  const torch::stable::accelerator::DeviceGuard guard(values.get_device_index());
  void* current = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(values.get_device_index(), &current));
  const auto stream = static_cast<cudaStream_t>(current);
  int multiprocessors = 0;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, values.get_device_index()));

  const int64_t count = values.numel(), bins = edges.size(0) - 1;
  STD_TORCH_CHECK(bins < INT32_MAX, "bin_encode: at most 2^31 - 2 bins, got ", bins);
  Tensor codes = new_empty(values, {count}, ScalarType::Long);
  if (count == 0) return codes;
  const int64_t bytes = bins * int64_t(sizeof(double)) + int64_t(sizeof(Plan<double>));
  Tensor scratch = new_empty(values, {bytes}, ScalarType::Byte);
  const unsigned blocks = std::min<int64_t>((count + kThreads - 1) / kThreads, kBlocks * multiprocessors);

  auto run = [&](auto value, auto wide, auto edge) {
    using T = decltype(value);
    using V = decltype(wide);
    using E = decltype(edge);
    auto* plan = data<Plan<V>>(scratch);
    auto* inner = reinterpret_cast<V*>(plan + 1);
    const double limit = sizeof(V) == 8 ? 1e14 : 8e5;  // beyond, (value - first) / step would be off by half a step
    plan_bins<V, E><<<1, kThreads, 0, stream>>>(input<E>(edges), int(bins), limit, inner, plan);
    encode_values<T, V>
        <<<blocks, kThreads, 0, stream>>>(input<T>(values), count, inner, int(bins), plan, data<int64_t>(codes));
    check(cudaGetLastError());
  };
  const bool wide_edges = edges.scalar_type() == ScalarType::Double;
  if (values.scalar_type() == ScalarType::Double)
    run(double(), double(), double());
  else if (values.scalar_type() == ScalarType::BFloat16)
    wide_edges ? run(bfloat16(), float(), double()) : run(bfloat16(), float(), float());
  else
    wide_edges ? run(float(), float(), double()) : run(float(), float(), float());
  return codes;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fusion, CUDA, m) { m.impl("bin_encode_cuda", TORCH_BOX(&bin_encode_cuda)); }
