// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/cuda_types.cuh>
#include <gru/detail/device.cuh>
#include <gru/detail/sequence.hpp>

/// Neighbouring units of a row that a thread takes together.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// kUnits neighbouring values of a row, loaded and stored as one: they begin at the boundary of so
/// many.
template <typename V, int kUnits>
struct alignas(kUnits * sizeof(V)) Units {
  V value[kUnits];
};

/// Whether pairs of values of a row begin at the boundary of a pair, where rows are.
template <typename T>
bool has_pairs(T const* data, Rows rows = {}) {
  bool const aligned = reinterpret_cast<std::uintptr_t>(data) % (2 * sizeof(T)) == 0;
  return aligned && rows.step % 2 == 0 && rows.sample % 2 == 0;
}

template <typename A, int kUnits>
__device__ Units<A, kUnits> operator+(Units<A, kUnits> a, Units<A, kUnits> const& b) {
  for (int e = 0; e < kUnits; ++e) a.value[e] += b.value[e];
  return a;
}

template <int kUnits, typename V>
__device__ Units<V, kUnits> load_units(V const* from) {
  return *reinterpret_cast<Units<V, kUnits> const*>(from);
}

template <typename T, typename A, int kUnits>
__device__ void store_units(T* to, Units<A, kUnits> const& values) {
  Units<T, kUnits> converted;
  for (int e = 0; e < kUnits; ++e) converted.value[e] = convert<T>(values.value[e]);
  *reinterpret_cast<Units<T, kUnits>*>(to) = converted;
}

/// The sum of `parts` parts of a value, `stride` apart, in their order; four are under way at once.
/// An absent one is -0, which changes nothing.
template <int kUnits, typename A>
__device__ Units<A, kUnits> sum_parts(A const* first, std::int64_t stride, std::int64_t parts) {
  constexpr int kTogether = 4;
  Units<A, kUnits> sum;
  for (A& value : sum.value) value = A(-0.0);
#pragma unroll 1
  for (std::int64_t part = 0; part < parts; part += kTogether) {
    Units<A, kUnits> loaded[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      for (A& value : loaded[i].value) value = A(-0.0);
      if (part + i < parts) loaded[i] = load_units<kUnits>(first + (part + i) * stride);
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      for (int e = 0; e < kUnits; ++e) sum.value[e] += loaded[i].value[e];
    }
  }
  return sum;
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
