// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <gru/detail/convert.hpp>
#include <gru/detail/macros.hpp>
#include <gru/random.hpp>

/// Named pointers. T steps, N batch, C input, H hidden. Shapes of sequence tensors are given for
/// Layout::kTimeMajor; in Layout::kBatchMajor the first two extents change places. All pointers are
/// the caller's, live in the engine's memory (device, or host for gru::host), need the alignment of
/// their type only, and must not alias unless said otherwise.
namespace gru {

/// A nullable pointer to values of T or, where the Problem asks for it, of float.
template <typename T>
class OrFloat {
  static constexpr bool kConst = std::is_const_v<T>;
  using Float = std::conditional_t<kConst, float const, float>;
  using Void = std::conditional_t<kConst, void const, void>;

 public:
  constexpr OrFloat() = default;
  constexpr OrFloat(std::nullptr_t) {}
  constexpr OrFloat(T* data) : data_{data}, is_float_{std::is_same_v<T, Float>} {}
  template <typename U = T, typename = std::enable_if_t<!std::is_same_v<U, Float>>>
  constexpr OrFloat(Float* data) : data_{data}, is_float_{true} {}

  GRU_HOST_DEVICE explicit operator bool() const { return data_ != nullptr; }
  GRU_HOST_DEVICE bool is_float() const { return is_float_; }
  GRU_HOST_DEVICE Void* data() const { return data_; }

  /// Element i, converted to the accumulation type A.
  template <typename A>
  GRU_HOST_DEVICE A load(std::int64_t i) const {
    return is_float_ ? detail::convert<A>(static_cast<float const*>(data_)[i])
                     : detail::convert<A>(static_cast<std::remove_const_t<T> const*>(data_)[i]);
  }

  /// Writes element i, rounding it to the type pointed to.
  template <typename A>
  GRU_HOST_DEVICE void store(std::int64_t i, A value) const {
    if (is_float_) {
      static_cast<float*>(data_)[i] = detail::convert<float>(value);
    } else {
      static_cast<T*>(data_)[i] = detail::convert<T>(value);
    }
  }

 private:
  Void* data_ = nullptr;
  bool is_float_ = std::is_same_v<T, Float>;
};

/// Scratch memory of the caller: aligned to 256 bytes, contents undefined, one run in flight each.
struct Workspace {
  void* data = nullptr;
  std::size_t bytes = 0;
};

/// What forward keeps for backward: opaque, aligned to T, `reserve_bytes()` long.
struct Reserve {
  void* data = nullptr;
  std::size_t bytes = 0;
};

/// A Reserve that backward only reads.
struct ConstReserve {
  void const* data = nullptr;
  std::size_t bytes = 0;

  constexpr ConstReserve() = default;
  constexpr ConstReserve(void const* d, std::size_t b) : data{d}, bytes{b} {}
  constexpr ConstReserve(Reserve r) : data{r.data}, bytes{r.bytes} {}
};

/// The layer's weights, as Problem::weight_format lays them. Biases follow its order of gates.
template <typename T>
struct Weights {
  T const* kernel = nullptr;            // W   [C, 3H] or [3H, C]
  T const* recurrent_kernel = nullptr;  // R   [H, 3H] or [3H, H]
  T const* bias = nullptr;              // bx  [3H], null for zeros
  T const* recurrent_bias = nullptr;    // br  [3H], null for zeros
};

/// What ForwardPass::run reads and writes.
template <typename T>
struct ForwardTensors {
  T const* x = nullptr;                                  // [T, N, C]
  OrFloat<T const> h0 = {};                              // [N, H], null for zeros
  std::int32_t const* lengths = nullptr;                 // [N], where announced
  std::int32_t const* host_lengths = nullptr;            // those again, in host memory, likewise;
                                                         // run() reads them before it returns
  std::uint8_t const* episode_starts = nullptr;          // [T, N], where announced
  std::uint8_t const* zoneout_mask = nullptr;            // [T, N, H], where announced
  std::uint8_t const* dropconnect_mask = nullptr;        // as R, tight, where announced
  std::uint8_t const* recurrent_dropout_mask = nullptr;  // [N, H], where announced
  Random random = {};                                    // for the masks that are drawn

  T* h = nullptr;               // out [T, N, H]
  OrFloat<T> final_state = {};  // out [N, H], null where not wanted
  Reserve reserve = {};         // out, where the Problem keeps one
};

/// What ForwardPass::step reads and writes: one step, for streaming.
template <typename T>
struct StepTensors {
  T const* x = nullptr;                                  // [N, C]
  OrFloat<T const> state = {};                           // [N, H], null for zeros
  std::uint8_t const* episode_starts = nullptr;          // [N], null for none: clears the state
  std::uint8_t const* zoneout_mask = nullptr;            // [N, H], where announced
  std::uint8_t const* dropconnect_mask = nullptr;        // as R, tight, where announced
  std::uint8_t const* recurrent_dropout_mask = nullptr;  // [N, H], where announced
  Random random = {};                                    // for the masks that are drawn
  std::int64_t time = 0;                                 // the step's index in the zoneout draws

  OrFloat<T> new_state = {};  // out [N, H]; may be the same memory as `state`
  T* h = nullptr;             // out [N, H], null where not wanted
};

/// What BackwardPass::run reads and writes. The inputs are those that forward saw, unchanged.
template <typename T>
struct BackwardTensors {
  T const* x = nullptr;                                  // [T, N, C]
  T const* h = nullptr;                                  // [T, N, H], as forward wrote it
  OrFloat<T const> h0 = {};                              // [N, H], null for zeros
  std::int32_t const* lengths = nullptr;                 // [N], where announced
  std::uint8_t const* episode_starts = nullptr;          // [T, N], where announced
  std::uint8_t const* zoneout_mask = nullptr;            // [T, N, H], where announced
  std::uint8_t const* dropconnect_mask = nullptr;        // as R, tight, where announced
  std::uint8_t const* recurrent_dropout_mask = nullptr;  // [N, H], where announced
  Random random = {};                                    // as in forward

  T const* dh = nullptr;               // [T, N, H], null for zeros
  OrFloat<T const> dfinal_state = {};  // [N, H], null for zeros
  ConstReserve reserve = {};           // with ReservePolicy::kKeep
  Reserve overwritten_reserve = {};    // with ReservePolicy::kOverwrite

  // Gradients: overwritten or accumulated as the Problem says; null skips the work.
  T* dx = nullptr;                    // out [T, N, C]
  OrFloat<T> dkernel = {};            // out, as W
  OrFloat<T> drecurrent_kernel = {};  // out, as R
  OrFloat<T> dbias = {};              // out [3H]
  OrFloat<T> drecurrent_bias = {};    // out [3H]
  OrFloat<T> dh0 = {};                // out [N, H]
};

/// The type in which sums of T are formed: double for double, float for all others.
template <typename T>
using Accumulator =
    std::conditional_t<std::is_same_v<std::remove_const_t<T>, double>, double, float>;

}  // namespace gru
