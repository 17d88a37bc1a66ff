// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <Eigen/Core>

#include <gru/detail/macros.hpp>

namespace gru::detail::host {

/// Neighbouring units of one row, computed together: the value type with which the host engine uses
/// the formulas of cell.hpp. Functions that work on them in the steps are flattened, since packs go
/// through memory to what is called and back: gcc 12 calls even a sigmoid.
template <typename A>
class Pack {
 public:
  static constexpr int kSize = static_cast<int>(64 / sizeof(A));
  using Values = Eigen::Array<A, kSize, 1>;

  /// The same value for every unit.
  GRU_HOST_DEVICE explicit Pack(A value) : values_{Values::Constant(value)} {}
  GRU_HOST_DEVICE explicit Pack(Values const& values) : values_{values} {}

  GRU_HOST_DEVICE Values const& values() const { return values_; }
  A& operator[](int i) { return values_[i]; }
  A operator[](int i) const { return values_[i]; }

  GRU_HOST_DEVICE friend Pack operator-(Pack const& a) { return Pack{-a.values_}; }
  GRU_HOST_DEVICE friend Pack operator+(Pack const& a, Pack const& b) {
    return Pack{a.values_ + b.values_};
  }
  GRU_HOST_DEVICE friend Pack operator-(Pack const& a, Pack const& b) {
    return Pack{a.values_ - b.values_};
  }
  GRU_HOST_DEVICE friend Pack operator*(Pack const& a, Pack const& b) {
    return Pack{a.values_ * b.values_};
  }
  GRU_HOST_DEVICE friend Pack operator/(Pack const& a, Pack const& b) {
    return Pack{a.values_ / b.values_};
  }
  GRU_HOST_DEVICE friend Pack exp(Pack const& a) { return Pack{a.values_.exp()}; }
  GRU_HOST_DEVICE friend Pack tanh(Pack const& a) { return Pack{a.values_.tanh()}; }

 private:
  template <typename Expression>
  GRU_HOST_DEVICE explicit Pack(Eigen::ArrayBase<Expression> const& values) : values_{values} {}

  Values values_;
};

/// The units of one pack: `count` of them from `begin`; fewer than the pack's size at a row's end.
struct Units {
  std::int64_t begin;
  int count;
};

/// Calls f(Units) for the packs of units [begin, end) of a row.
template <typename A, typename F>
void for_each_pack(std::int64_t begin, std::int64_t end, F const& f) {
  constexpr std::int64_t kSize = Pack<A>::kSize;
  for (std::int64_t u = begin; u < end; u += kSize) {
    f(Units{u, static_cast<int>(std::min(kSize, end - u))});
  }
}

/// The same for a whole row of `width` units.
template <typename A, typename F>
void for_each_pack(std::int64_t width, F const& f) {
  for_each_pack<A>(0, width, f);
}

/// Loads fewer units than a pack has, at a row's end. Never inlined, as the next function: rows end
/// once.
template <typename A, typename S>
EIGEN_DONT_INLINE Pack<A> load_some(S const* first, int count) {
  Pack<A> pack{A(0)};
  for (int i = 0; i < count; ++i) pack[i] = static_cast<A>(first[i]);
  return pack;
}

/// Writes as few.
template <typename A, typename S>
EIGEN_DONT_INLINE void store_some(S* first, int count, Pack<A> const& pack) {
  for (int i = 0; i < count; ++i) first[i] = static_cast<S>(pack[i]);
}

/// Units of a row of values of S, converted to A. Those beyond the row's end are 0.
template <typename A, typename S>
Pack<A> load(S const* row, Units units) {
  S const* const first = row + units.begin;
  if (units.count != Pack<A>::kSize) return load_some<A>(first, units.count);
  using Stored = Eigen::Array<S, Pack<A>::kSize, 1>;
  return Pack<A>{typename Pack<A>::Values{Eigen::Map<Stored const>(first).template cast<A>()}};
}

/// Writes units of a row, rounding them to S. What lies beyond the row's end is left alone.
template <typename A, typename S>
void store(S* row, Units units, Pack<A> const& pack) {
  S* const first = row + units.begin;
  if (units.count != Pack<A>::kSize) return store_some(first, units.count, pack);
  using Stored = Eigen::Array<S, Pack<A>::kSize, 1>;
  Eigen::Map<Stored>{first} = pack.values().template cast<S>();
}

/// The values as T holds them: what enters a matrix product.
template <typename T, typename A>
Pack<A> rounded_to(Pack<A> const& pack) {
  if constexpr (std::is_same_v<T, A>) {
    return pack;
  } else {
    return Pack<A>{typename Pack<A>::Values{pack.values().template cast<T>().template cast<A>()}};
  }
}

}  // namespace gru::detail::host
