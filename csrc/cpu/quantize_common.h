// What the quantization sources share. Included by them alone.
#pragma once

#include <cstdint>
#include <limits>

#include "common.h"
#include "quantize.h"

namespace fusion::quantize {

template <class T>
inline constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

template <class T>
inline bool is_nan(T x) {
  return x != x;
}

template <class T>
inline bool is_finite(T x) {
  return x - x == 0;
}

template <class T>
inline bool is_finite(const T* row, int64_t dim) {
  Arithmetic<T> zero = 0;  // stays so unless a value is not finite
  for (int64_t d = 0; d < dim; ++d) zero += widen(row[d]) * 0;
  return zero == 0;
}

}  // namespace fusion::quantize
