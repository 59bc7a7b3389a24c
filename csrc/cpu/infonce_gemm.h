// Matrix products for one thread, row-major: the MKL that libtorch carries, found at run time, or plain loops.
#pragma once

#include "common.h"

namespace fusion {

// Operands T, results A: <float, float>, <double, double>, and <bfloat16, float> where multiplies_bfloat16().

// C (m, n) = alpha A (m, k) B (n, k)^T: 2 m n k operations, as of each product below.
template <class T, class A>
void product_nt(int m, int n, int k, A alpha, const T* a, const T* b, A* c, int ldc);

// C (m, n) += A (m, k) B (k, n)
template <class T, class A>
void add_product_nn(int m, int n, int k, const T* a, int lda, const T* b, A* c);

// C (m, n) += A (k, m)^T B (k, n)
template <class T, class A>
void add_product_tn(int m, int n, int k, const T* a, int lda, const T* b, A* c);

// Whether this CPU multiplies bfloat16 and the library has the routine. If not, multiply in float32.
bool multiplies_bfloat16();

// While it lives, products called from this thread stay in this thread.
class SerialProducts {
 public:
  SerialProducts();
  ~SerialProducts();
  SerialProducts(const SerialProducts&) = delete;
  SerialProducts& operator=(const SerialProducts&) = delete;

 private:
  int before_;
};

}  // namespace fusion
