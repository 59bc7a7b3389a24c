// bfloat16 as its bits, and conversions of every value type: for CPU and GPU sources alike.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

// A call would keep the loop around it from becoming vector instructions.
#define FUSION_INLINE inline __attribute__((always_inline))
#if defined(__CUDACC__)
#define FUSION_EVERYWHERE __host__ __device__ FUSION_INLINE
#else
#define FUSION_EVERYWHERE FUSION_INLINE
#endif

namespace fusion {

struct bfloat16 {
  uint16_t bits;
};

// What a value is computed with: float32, or float64 as it is.
FUSION_EVERYWHERE float widen(float x) { return x; }
FUSION_EVERYWHERE double widen(double x) { return x; }
FUSION_EVERYWHERE float widen(bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// To T, to nearest even.
template <class T, class A>
FUSION_EVERYWHERE T round_to(A x) {
  if constexpr (!std::is_same_v<T, bfloat16>)
    return T(x);
  else {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return {uint16_t(x != x ? 0x7fc0 : rounded)};
  }
}

}  // namespace fusion
