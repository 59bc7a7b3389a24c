#include "infonce_gemm.h"

#include <dlfcn.h>

namespace fusion {
namespace {

// Fortran BLAS: column-major, everything by address.
template <class T>
using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const T*, const T*, const int*,
                      const T*, const int*, const T*, T*, const int*);
using GemmBfloat16 = void (*)(int, int, int, int, int, int, float, const bfloat16*, int, const bfloat16*, int, float,
                              float*, int);
constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;  // CBLAS

// torch is loaded with its symbols kept local, so the global search would not see them.
template <class Function>
Function resolve(const char* name) {
  static void* library = dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD);
  return reinterpret_cast<Function>(library ? dlsym(library, name) : nullptr);
}

template <class T>
Gemm<T> blas() {
  static const auto gemm = resolve<Gemm<T>>(sizeof(T) == 8 ? "dgemm_" : "sgemm_");
  return gemm;
}

GemmBfloat16 blas_bfloat16() {
  static const auto gemm = resolve<GemmBfloat16>("cblas_gemm_bf16bf16f32");
  return gemm;
}

// C += op(A) B; the innermost loop runs along the rows of B and C.
template <class T>
void add_product(bool transposed, int m, int n, int k, const T* a, int lda, const T* b, T* c) {
  const T one = 1;
  if (auto gemm = blas<T>()) {
    gemm("N", transposed ? "T" : "N", &n, &m, &k, &one, b, &n, a, &lda, &one, c, &n);
    return;
  }
  for (int i = 0; i < m; ++i)
    for (int p = 0; p < k; ++p) {
      const T x = transposed ? a[int64_t(p) * lda + i] : a[int64_t(i) * lda + p];
      for (int j = 0; j < n; ++j) c[int64_t(i) * n + j] += x * b[int64_t(p) * n + j];
    }
}

void add_product(bool transposed, int m, int n, int k, const bfloat16* a, int lda, const bfloat16* b, float* c) {
  blas_bfloat16()(kRowMajor, transposed ? kTrans : kNoTrans, kNoTrans, m, n, k, 1.f, a, lda, b, n, 1.f, c, n);
}

}  // namespace

template <class T, class A>
void product_nt(int m, int n, int k, A alpha, const T* a, const T* b, A* c, int ldc) {
  if (auto gemm = blas<T>()) {
    const T zero = 0;
    gemm("T", "N", &n, &m, &k, &alpha, b, &k, a, &k, &zero, c, &ldc);
    return;
  }
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int p = 0; p < k; ++p) sum += a[int64_t(i) * k + p] * b[int64_t(j) * k + p];
      c[int64_t(i) * ldc + j] = alpha * sum;
    }
}

template <>
void product_nt(int m, int n, int k, float alpha, const bfloat16* a, const bfloat16* b, float* c, int ldc) {
  blas_bfloat16()(kRowMajor, kNoTrans, kTrans, m, n, k, alpha, a, k, b, k, 0.f, c, ldc);
}

template <class T, class A>
void add_product_nn(int m, int n, int k, const T* a, int lda, const T* b, A* c) {
  add_product(false, m, n, k, a, lda, b, c);
}

template <class T, class A>
void add_product_tn(int m, int n, int k, const T* a, int lda, const T* b, A* c) {
  add_product(true, m, n, k, a, lda, b, c);
}

template void product_nt(int, int, int, float, const float*, const float*, float*, int);
template void product_nt(int, int, int, double, const double*, const double*, double*, int);
template void add_product_nn(int, int, int, const float*, int, const float*, float*);
template void add_product_nn(int, int, int, const double*, int, const double*, double*);
template void add_product_nn(int, int, int, const bfloat16*, int, const bfloat16*, float*);
template void add_product_tn(int, int, int, const float*, int, const float*, float*);
template void add_product_tn(int, int, int, const double*, int, const double*, double*);
template void add_product_tn(int, int, int, const bfloat16*, int, const bfloat16*, float*);

bool multiplies_bfloat16() {
#ifdef __AVX512BF16__
  return blas_bfloat16() != nullptr;
#else
  return false;
#endif
}

namespace {
using SetThreads = int (*)(int);
SetThreads set_threads() {
  static const auto set = resolve<SetThreads>("MKL_Set_Num_Threads_Local");
  return set;
}
}  // namespace

SerialProducts::SerialProducts() : before_(set_threads() ? set_threads()(1) : 0) {}
SerialProducts::~SerialProducts() {
  if (set_threads()) set_threads()(before_);
}

}  // namespace fusion
