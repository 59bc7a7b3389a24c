// Statistics of codes, finite scalars and bins on a GPU, registered with torch by the stable C ABI.
//
// Schemas and checks are in kernels/quantize/native.py; tensors arrive contiguous. What each function returns is
// defined in csrc/cpu/quantize.h. Everything is deterministic: where threads meet, they add integers.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::new_empty;
using torch::stable::new_zeros;
using torch::stable::Tensor;

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kDimensions = 32;  // of finite scalars, whose constants travel with the launch

struct bfloat16 {
  uint16_t bits;
};

__device__ float widen(float x) { return x; }
__device__ double widen(double x) { return x; }
__device__ float widen(bfloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

template <class T>
__device__ T round_to(float x);
template <>
__device__ float round_to<float>(float x) {
  return x;
}
template <>
__device__ bfloat16 round_to<bfloat16>(float x) {
  const uint32_t bits = __float_as_uint(x);
  return {uint16_t(isnan(x) ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// Where and on what a tensor's kernels run; makes its device the current one.
class Launch {
 public:
  explicit Launch(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), int64_t items, Arguments... arguments) const {
    if (items == 0) return;
    // Kernels stride over what one launch of this size does not reach.
    const int64_t blocks = std::min<int64_t>((items + kThreads - 1) / kThreads, 1 << 20);
    kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream_>>>(arguments...);
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, "fusion: a CUDA kernel did not start: ", cudaGetErrorString(error));
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

__device__ int64_t thread_number() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ int64_t thread_count() { return int64_t(gridDim.x) * blockDim.x; }

template <class T>
T* data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}
template <class T>
const T* input(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

// Calls function(T()) with the type of the values, float or bfloat16.
template <class Function>
void for_values(const Tensor& t, const Function& function) {
  if (t.scalar_type() == ScalarType::BFloat16)
    function(bfloat16());
  else
    function(float());
}

// -------------------------------------------------------------------------------------------------- statistics
//
// Sums are added as 64-bit fixed-point numbers, a fraction of the power of two above the largest value: additions of
// integers come to the same total in any order. With 46 fraction bits a term is off by less than float32 rounds it.

// One warp a row: whether it counts, and the largest absolute value of those that do.
template <class T>
__global__ void mark_rows(const T* x,            // (N, D)
                          const int64_t* codes,  // (N)
                          int64_t rows, int64_t dim, int64_t size,
                          uint8_t* used,      // (N)
                          uint32_t* largest)  // (1), bits of a float: ordered like the floats where not negative
{
  const int lane = threadIdx.x % kWarp;
  for (int64_t n = thread_number() / kWarp; n < rows; n += thread_count() / kWarp) {
    float most = 0;
    bool finite = codes[n] >= 0 && codes[n] < size;
    for (int64_t d = lane; d < dim; d += kWarp) {
      const float value = fabsf(widen(x[n * dim + d]));
      finite &= value < INFINITY;
      most = fmaxf(most, value);
    }
    finite = __all_sync(~0u, finite);
    for (int step = kWarp / 2; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
    if (lane == 0) {
      used[n] = finite;
      if (finite) atomicMax(largest, __float_as_uint(most));
    }
  }
}

// The exponent of two that brings values up to `largest` to integers of `bits` bits.
__device__ int fixed_point(uint32_t largest, int bits) {
  int exponent;
  frexpf(__uint_as_float(largest), &exponent);
  return bits - exponent;
}

template <class T>
__global__ void add_rows(const T* x, const int64_t* codes, const uint8_t* used, const uint32_t* largest, int bits,
                         int64_t rows, int64_t dim,
                         unsigned long long* counts,  // (K)
                         unsigned long long* sums)    // (K, D), two's complement
{
  const int shift = fixed_point(*largest, bits);
  for (int64_t i = thread_number(); i < rows * dim; i += thread_count()) {
    const int64_t n = i / dim, d = i % dim;
    if (!used[n]) continue;
    const long long term = __double2ll_rn(scalbn(double(widen(x[i])), shift));
    atomicAdd(sums + codes[n] * dim + d, static_cast<unsigned long long>(term));
    if (d == 0) atomicAdd(counts + codes[n], 1ull);
  }
}

__global__ void finish(const unsigned long long* fixed_counts, const unsigned long long* fixed_sums,
                       const uint32_t* largest, int bits, int64_t size, int64_t dim, float* counts, float* sums) {
  const int shift = fixed_point(*largest, bits);
  for (int64_t i = thread_number(); i < size * dim; i += thread_count()) {
    sums[i] = float(scalbn(double(static_cast<long long>(fixed_sums[i])), -shift));
    if (i < size) counts[i] = float(fixed_counts[i]);
  }
}

std::tuple<Tensor, Tensor> code_statistics_cuda(Tensor x, Tensor codes, int64_t size) {
  const Launch launch(x);
  const int64_t rows = x.size(0), dim = x.size(1);
  Tensor counts = new_empty(x, {size}, ScalarType::Float), sums = new_empty(x, {size, dim}, ScalarType::Float);
  Tensor fixed_counts = new_zeros(x, {size}, ScalarType::Long), fixed_sums = new_zeros(x, {size, dim}, ScalarType::Long),
         used = new_empty(x, {rows}, ScalarType::Byte), largest = new_zeros(x, {1}, ScalarType::Int);
  int spare = 1;  // all rows may fall to one code
  while ((int64_t(1) << spare) < rows) ++spare;
  const int bits = std::min(46, 62 - spare);
  auto* added_counts = data<unsigned long long>(fixed_counts);
  auto* added_sums = data<unsigned long long>(fixed_sums);
  auto* most = data<uint32_t>(largest);
  for_values(x, [&](auto example) {
    using T = decltype(example);
    launch(mark_rows<T>, rows * kWarp, input<T>(x), input<int64_t>(codes), rows, dim, size, data<uint8_t>(used), most);
    launch(add_rows<T>, rows * dim, input<T>(x), input<int64_t>(codes), input<uint8_t>(used), most, bits, rows, dim,
           added_counts, added_sums);
  });
  launch(finish, size * dim, added_counts, added_sums, most, bits, size, dim, data<float>(counts), data<float>(sums));
  return {counts, sums};
}

// ---------------------------------------------------------------------------------------------- finite scalars

struct Scalars {
  float shift[kDimensions], half[kDimensions], offset[kDimensions], lowest[kDimensions], unit[kDimensions];
  int64_t place[kDimensions];
  int dim;
  bool sigmoid;
};

Scalars scalars(const std::vector<int64_t>& levels, bool sigmoid) {
  Scalars s{};
  s.dim = static_cast<int>(levels.size()), s.sigmoid = sigmoid;
  int64_t before = 1;
  for (int d = 0; d < s.dim; before *= levels[d++]) {
    const double reach = sigmoid ? levels[d] - 1 : (levels[d] - 1) * (1 - 1e-3) / 2;
    const double even = !sigmoid && levels[d] % 2 == 0 ? 0.5 : 0;
    s.place[d] = before, s.half[d] = reach, s.offset[d] = even, s.shift[d] = std::tan(even / reach);
    s.lowest[d] = sigmoid ? 0 : -(levels[d] / 2), s.unit[d] = sigmoid ? levels[d] - 1 : levels[d] / 2;
  }
  return s;
}

__device__ float squash(float z, const Scalars& s, int d) {
  return s.sigmoid ? 1 / (1 + expf(-z)) : tanhf(z + s.shift[d]);
}

// One thread a row.
template <class T>
__global__ void quantize_rows(const T* z,  // (N, D)
                              int64_t rows, Scalars s,
                              T* quantized,    // (N, D)
                              int64_t* codes)  // (N)
{
  for (int64_t n = thread_number(); n < rows; n += thread_count()) {
    int64_t code = 0;
    bool missing = false;
    for (int d = 0; d < s.dim; ++d) {
      const float rounded = rintf(squash(widen(z[n * s.dim + d]), s, d) * s.half[d] - s.offset[d]);
      missing |= isnan(rounded);
      code += missing ? 0 : int64_t(rounded - s.lowest[d]) * s.place[d];
      quantized[n * s.dim + d] = round_to<T>(rounded / s.unit[d]);
    }
    codes[n] = missing ? -1 : code;
    for (int d = 0; missing && d < s.dim; ++d) quantized[n * s.dim + d] = round_to<T>(NAN);
  }
}

template <class T>
__global__ void quantize_rows_backward(const T* grad, const T* z, int64_t rows, Scalars s, T* dz) {
  for (int64_t n = thread_number(); n < rows; n += thread_count()) {
    bool missing = false;
    for (int d = 0; d < s.dim; ++d) missing |= isnan(widen(z[n * s.dim + d]));
    for (int d = 0; d < s.dim; ++d) {
      const int64_t i = n * s.dim + d;
      const float t = squash(widen(z[i]), s, d);
      const float slope = s.sigmoid ? t * (1 - t) : (1 - t * t) * s.half[d] / s.unit[d];
      dz[i] = round_to<T>(missing || slope == 0 ? 0 : widen(grad[i]) * slope);
    }
  }
}

std::tuple<Tensor, Tensor> finite_scalar_quantize_cuda(Tensor z, std::vector<int64_t> levels, bool sigmoid) {
  const Launch launch(z);
  Tensor quantized = new_empty(z, {z.size(0), z.size(1)}), codes = new_empty(z, {z.size(0)}, ScalarType::Long);
  for_values(z, [&](auto example) {
    using T = decltype(example);
    launch(quantize_rows<T>, z.size(0), input<T>(z), z.size(0), scalars(levels, sigmoid), data<T>(quantized),
           data<int64_t>(codes));
  });
  return {quantized, codes};
}

Tensor finite_scalar_quantize_backward_cuda(Tensor grad, Tensor z, std::vector<int64_t> levels, bool sigmoid) {
  const Launch launch(z);
  Tensor dz = new_empty(z, {z.size(0), z.size(1)});
  for_values(z, [&](auto example) {
    using T = decltype(example);
    launch(quantize_rows_backward<T>, z.size(0), input<T>(grad), input<T>(z), z.size(0), scalars(levels, sigmoid),
           data<T>(dz));
  });
  return dz;
}

// -------------------------------------------------------------------------------------------------------- bins

// Where equal bins start, bins a unit, and whether they are equal enough for arithmetic: found on the GPU, so that
// nothing waits for it.
struct Plan {
  double first, inverse;
  int32_t equal;
};

// One block.
template <class E>
__global__ void plan_bins(const E* edges, int64_t bins, double limit, Plan* plan) {
  __shared__ int uneven;
  if (threadIdx.x == 0) uneven = bins <= 2 || double(bins) > limit;
  __syncthreads();
  const double first = edges[bins > 1 ? 1 : 0], step = bins > 2 ? (double(edges[bins - 1]) - first) / (bins - 2) : 1;
  for (int64_t e = 1 + threadIdx.x; e < bins; e += blockDim.x)
    if (!(fabs(double(edges[e]) - (first + (e - 1) * step)) < 0.25 * step)) uneven = 1;
  __syncthreads();
  if (threadIdx.x == 0) *plan = {first, 1 / step, !uneven};
}

template <class T, class E>
__global__ void encode_values(const T* values, int64_t count,
                              const E* edges,  // (bins + 1)
                              int64_t bins, const Plan* plan, int64_t* codes) {
  const bool equal = plan->equal;
  const E first = E(plan->first), inverse = E(plan->inverse);
  for (int64_t i = thread_number(); i < count; i += thread_count()) {
    const E value = widen(values[i]);
    int64_t code = 0;
    if (equal) {  // the nearest edge by arithmetic, then the side of it the value is on, exactly
      E edge = rint((value - first) * inverse);
      edge = edge > 0 ? edge : E(0);
      edge = edge < E(bins - 2) ? edge : E(bins - 2);
      code = int64_t(edge);
      code += value >= edges[code + 1];
    } else {  // how many inner edges are not above the value
      for (int64_t left = 0, right = bins - 1; left < right;) {
        const int64_t middle = (left + right) / 2;
        const bool above = edges[middle + 1] > value;
        (above ? right : left) = middle + !above;
        code = left;
      }
    }
    codes[i] = isnan(value) ? -1 : code;
  }
}

Tensor bin_encode_cuda(Tensor values, Tensor edges) {
  const Launch launch(values);
  const int64_t count = values.numel(), bins = edges.size(0) - 1;
  Tensor codes = new_empty(values, {count}, ScalarType::Long);
  Tensor plan = new_empty(values, {int64_t(sizeof(Plan))}, ScalarType::Byte);
  auto run = [&](auto value, auto edge) {
    using T = decltype(value);
    using E = decltype(edge);
    const double limit = sizeof(E) == 8 ? 1e14 : 8e5;  // beyond, (value - first) / step would be off by half a step
    launch(plan_bins<E>, kThreads, input<E>(edges), bins, limit, data<Plan>(plan));
    launch(encode_values<T, E>, count, input<T>(values), count, input<E>(edges), bins, input<Plan>(plan),
           data<int64_t>(codes));
  };
  if (values.scalar_type() == ScalarType::Double)
    run(double(), double());
  else if (values.scalar_type() == ScalarType::BFloat16)
    run(bfloat16(), float());
  else if (edges.scalar_type() == ScalarType::Double)
    run(float(), double());
  else
    run(float(), float());
  return codes;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fusion, CUDA, m) {
  m.impl("code_statistics_cuda", TORCH_BOX(&code_statistics_cuda));
  m.impl("finite_scalar_quantize_cuda", TORCH_BOX(&finite_scalar_quantize_cuda));
  m.impl("finite_scalar_quantize_backward_cuda", TORCH_BOX(&finite_scalar_quantize_backward_cuda));
  m.impl("bin_encode_cuda", TORCH_BOX(&bin_encode_cuda));
}
