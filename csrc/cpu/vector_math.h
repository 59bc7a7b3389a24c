// e^x in a form that the compiler turns into vector instructions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common.h"

namespace fusion {

// e^x to about 1 ulp of float32 for x <= 88; exactly 0 below -88 and for -inf.
FUSION_INLINE float exponential(float x) {
  const float clamped = x < -88.f ? -88.f : (x > 88.f ? 88.f : x);
  // x = n ln 2 + r, |r| <= ln 2 / 2; ln 2 in two parts, the first with few bits, so that n times it is exact.
  const float shifted = clamped * kLog2E + 12582912.f;  // 1.5 * 2^23: rounds to an integer in the low bits
  const float n = shifted - 12582912.f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.f / 5040;
  p = p * r + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127) << 23;  // what is left of the magic number leaves at the top
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -88.f ? 0.f : p * power;
}

FUSION_INLINE double exponential(double x) { return std::exp(x); }

}  // namespace fusion
