// Vectors of floats: AVX-512, AVX2 or whatever the compiler makes of a 32-byte vector elsewhere.
//
// GCC's and Clang's vector extension does the arithmetic; only what it cannot say well (permutes by a variable
// index, gathers, maximum) uses intrinsics. a * b + c contracts to one FMA under -ffp-contract=fast.

#pragma once

#include <cstdint>
#include <cstring>

#include "common.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns about its own header
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors wider than a register are returned in memory; all is inlined
#endif

namespace fusion::simd {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#else
inline constexpr int kLanes = 8;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));

template <class Vector, class T>
FUSION_INLINE Vector load(const T* source) {
  Vector v;
  std::memcpy(&v, source, sizeof v);
  return v;
}

FUSION_INLINE Floats load(const float* source) { return load<Floats>(source); }

template <class Vector, class T>
FUSION_INLINE void store(T* target, Vector v) {
  std::memcpy(target, &v, sizeof v);
}

// A vector of floats, or the one float of what a loop over vectors leaves over.
template <class V>
FUSION_INLINE V get(const float* source) {
  if constexpr (sizeof(V) == sizeof(float))
    return *source;
  else
    return load(source);
}
template <class V>
FUSION_INLINE void put(float* target, V value) {
  if constexpr (sizeof(V) == sizeof(float))
    *target = value;
  else
    store(target, value);
}

FUSION_INLINE Floats splat(float x) {
  Floats v;
  for (int l = 0; l < kLanes; ++l) v[l] = x;
  return v;
}

// The larger one; b where either is NaN.
FUSION_INLINE Floats maximum(Floats a, Floats b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a > b ? a : b;
#endif
}

FUSION_INLINE float sum(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v));
#else
  return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
#endif
}

FUSION_INLINE float largest(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(reinterpret_cast<__m512>(v));
#else
  float m = v[0];
  for (int l = 1; l < kLanes; ++l) m = v[l] > m ? v[l] : m;
  return m;
#endif
}

// kLanes unsigned integers of 8 or 16 bits, widened to 32.
FUSION_INLINE Ints widen(const uint8_t* source) {
#if defined(__AVX512F__)
  return reinterpret_cast<Ints>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source))));
#else
  Ints v;
  for (int l = 0; l < kLanes; ++l) v[l] = source[l];
  return v;
#endif
}

FUSION_INLINE Ints widen(const uint16_t* source) {
#if defined(__AVX512F__)
  return reinterpret_cast<Ints>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source))));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
#else
  Ints v;
  for (int l = 0; l < kLanes; ++l) v[l] = source[l];
  return v;
#endif
}

// table[index] for a table of 16 floats, which fits one permute (AVX-512) or two (AVX2).
FUSION_INLINE Floats look_up_16(const float* table, Ints index) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), _mm512_loadu_ps(table)));
#elif defined(__AVX2__)
  const __m256i i = reinterpret_cast<__m256i>(index);
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), i);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), i);
  return reinterpret_cast<Floats>(_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28))));
#else
  Floats v;
  for (int l = 0; l < kLanes; ++l) v[l] = table[index[l]];
  return v;
#endif
}

// table[index] for a table of any size.
FUSION_INLINE Floats gather(const float* table, Ints index) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_i32gather_ps(reinterpret_cast<__m512i>(index), table, 4));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_i32gather_ps(table, reinterpret_cast<__m256i>(index), 4));
#else
  Floats v;
  for (int l = 0; l < kLanes; ++l) v[l] = table[index[l]];
  return v;
#endif
}

// 2^x to 1e-7 relative for x < 127.5; zero below -100, well before products with it become subnormal numbers,
// which cost a hundred cycles each. NaN stays NaN.
FUSION_INLINE Floats exp2(Floats x) {
  // 1.5 * 2^23 + 127: adding it leaves round(x) + 127, the exponent of 2^round(x), in the low mantissa bits.
  const Floats rounder = splat(12583039.0f);
  const Floats shifted = x + rounder;
  const Floats r = x - (shifted - rounder);  // in [-0.5, 0.5]
  Floats p = splat(0.0001534581242594868f);  // minimax polynomial of 2^r
  p = p * r + splat(0.0013399930903688073f);
  p = p * r + splat(0.009618489071726799f);
  p = p * r + splat(0.05550328642129898f);
  p = p * r + splat(0.24022646248340607f);
  p = p * r + splat(0.6931471824645996f);
  p = p * r + splat(1.0f);
  // A product and no sum of bits, which would make numbers of some NaNs.
  const Floats power = reinterpret_cast<Floats>(reinterpret_cast<Ints>(shifted) << 23);
  return x < splat(-100.0f) ? Floats{} : p * power;
}

}  // namespace fusion::simd
