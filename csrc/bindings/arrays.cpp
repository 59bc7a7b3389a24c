// Quantization of NumPy arrays (kernels/arrays.py): arrays in place, the GIL released, threads by argument.
// Arguments arrive checked and C-contiguous.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>
#include <utility>
#include <vector>

#include "../cpu/quantize.h"

namespace py = pybind11;
namespace quantize = fusion::quantize;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// A new array of the shape of another, without its last `dropped` dimensions.
template <class T>
Array<T> like(const py::array& a, int64_t dropped = 0) {
  return Array<T>(std::vector<py::ssize_t>(a.shape(), a.shape() + a.ndim() - dropped));
}

template <class T>
quantize::Rows<T> rows(const Array<T>& a) {
  const int64_t dim = a.shape(a.ndim() - 1);
  return {a.data(), dim ? a.size() / dim : 0, dim, dim};
}

template <class T>
Array<int64_t> nearest_code(const Array<T>& x, const Array<T>& codebook, bool cosine, int threads) {
  auto codes = like<int64_t>(x, 1);
  const auto from = rows(x), to = rows(codebook);
  int64_t* out = codes.mutable_data();
  py::gil_scoped_release release;
  quantize::nearest_code(from, to, cosine ? quantize::Metric::kCosine : quantize::Metric::kL2, threads, out);
  return codes;
}

template <class T>
std::pair<Array<T>, Array<int64_t>> finite_scalar_quantize(const Array<T>& z, const std::vector<int64_t>& levels,
                                                           bool sigmoid, int threads) {
  auto quantized = like<T>(z);
  auto codes = like<int64_t>(z, 1);
  const auto from = rows(z);
  T* values = quantized.mutable_data();
  int64_t* out = codes.mutable_data();
  {
    py::gil_scoped_release release;
    quantize::finite_scalar_quantize(from.data, from.rows, levels.data(), from.dim,
                                     sigmoid ? quantize::Form::kSigmoid : quantize::Form::kTanh, threads, values, out);
  }
  return {quantized, codes};
}

template <class T, class E>
Array<int64_t> bin_encode(const Array<T>& values, const Array<E>& edges, int threads) {
  auto codes = like<int64_t>(values);
  const T* from = values.data();
  const E* limits = edges.data();
  const int64_t count = values.size(), bins = edges.size() - 1;
  int64_t* out = codes.mutable_data();
  py::gil_scoped_release release;
  quantize::bin_encode(from, count, limits, bins, threads, out);
  return codes;
}

template <class T>
std::tuple<Array<T>, int64_t, int64_t> bin_decode(const Array<int64_t>& codes, const Array<T>& centres, int threads) {
  auto values = like<T>(codes);
  const int64_t *from = codes.data(), count = codes.size(), bins = centres.size();
  const T* table = centres.data();
  T* out = values.mutable_data();
  int64_t range[2];
  {
    py::gil_scoped_release release;
    quantize::bin_decode(from, count, table, bins, 1, threads, out, range);
  }
  return {values, range[0], range[1]};
}

}  // namespace

PYBIND11_MODULE(fusion_arrays, m) {
  // One overload a type; noconvert: a silent copy would hide the cost that this module is there to avoid.
  const auto x = py::arg("x").noconvert();
  const auto table = py::arg("table").noconvert();
  m.def("nearest_code", &nearest_code<float>, x, table, py::arg("cosine"), py::arg("threads"));
  m.def("nearest_code", &nearest_code<double>, x, table, py::arg("cosine"), py::arg("threads"));
  m.def("finite_scalar_quantize", &finite_scalar_quantize<float>, x, py::arg("levels"), py::arg("sigmoid"),
        py::arg("threads"));
  m.def("finite_scalar_quantize", &finite_scalar_quantize<double>, x, py::arg("levels"), py::arg("sigmoid"),
        py::arg("threads"));
  m.def("bin_encode", &bin_encode<float, float>, x, table, py::arg("threads"));
  m.def("bin_encode", &bin_encode<float, double>, x, table, py::arg("threads"));
  m.def("bin_encode", &bin_encode<double, double>, x, table, py::arg("threads"));
  m.def("bin_decode", &bin_decode<float>, x, table, py::arg("threads"));
  m.def("bin_decode", &bin_decode<double>, x, table, py::arg("threads"));
}
