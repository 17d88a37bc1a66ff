// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <gru/cell.hpp>
#include <gru/detail/approximate.cuh>
#include <gru/detail/cuda_types.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/step_flags.cuh>
#include <gru/tensors.hpp>

/// What the persistent kernels have in common: the steps they are given, how the input product
/// reaches a lane, and how a lane finishes its units of a row once the sums with R are there.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A chunk of steps for a persistent kernel. Internal buffers are dense and time-major.
template <typename T>
struct RecurrentForward {
  int batch = 0;   // N
  int hidden = 0;  // H
  GateColumns columns;
  T const* bias = nullptr;            // [3H] or null
  T const* recurrent_bias = nullptr;  // [3H] or null
  float recurrent_scale = 1;          // on s R: what DropConnect leaves to the product
  float operand_scale = 1;            // on the state where it enters R, if it does
  bool has_zoneout = false;
  float new_weight = 1;  // zoneout's weight of the new state where the flags take it

  std::int64_t first_time = 0;  // least time index of the chunk
  int steps = 0;                // of the chunk
  bool reverse = false;
  bool is_last = false;                 // whether the chunk ends the pass
  float const* p = nullptr;             // [steps, N, 3H] x W
  std::uint8_t const* flags = nullptr;  // [steps, N, flags_pitch] see step_flags, or null
  std::int64_t flags_pitch = 0;

  float* state = nullptr;  // [N, H] carried, in and out
  T* operand = nullptr;    // [N, H] the state as it multiplies R, in and out
  T* h = nullptr;          // out, or null
  Rows h_rows;
  bool wide_h = false;        // whether pairs of h begin at the boundary of a pair
  T* reserve = nullptr;       // [T, N, 4H] out, or null
  bool wide_reserve = false;  // whether its pairs do
  OrFloat<T> final_state;     // [N, H] out, or null
  std::int64_t final_pitch = 0;

  std::uint32_t* status = nullptr;  // set where a wait expired
  std::uint32_t most_polls = 0;     // of one wait

  /// The time index of the chunk's i-th step.
  __device__ std::int64_t time(int i) const { return first_time + (reverse ? steps - 1 - i : i); }
};

/// Two values of a 16-bit T in one word.
template <typename T>
__device__ std::uint32_t pack(float first, float second) {
  static_assert(sizeof(T) == 2, "a word holds two 16-bit values");
  T const values[2] = {convert<T>(first), convert<T>(second)};
  std::uint32_t word;
  memcpy(&word, values, sizeof word);
  return word;
}

/// Writes kUnits neighbouring values of a row; as one word where `wide`, which says that the
/// address allows it, otherwise one by one as far as the row reaches.
template <typename T, int kUnits>
__device__ void store_units(T* to, float const (&values)[kUnits], bool wide, bool has_second) {
  struct alignas(kUnits * sizeof(T)) Together {
    T value[kUnits];
  };
  Together together;
  for (int e = 0; e < kUnits; ++e) together.value[e] = convert<T>(values[e]);
  if (wide) {
    *reinterpret_cast<Together*>(to) = together;
    return;
  }
  to[0] = together.value[0];
  if (kUnits == 2 && has_second) to[1] = together.value[kUnits - 1];
}

/// What a lane needs of the outside for one step of one row: the input product, by the position of
/// the gates in the weights, and the flags.
template <int kUnits>
struct StepInput {
  float p[3][kUnits];
  std::uint32_t flags;

  __device__ bool is_active() const { return (flags & step_flags::kIsActive) != 0; }
};

/// The inputs of the steps to come, on their way through shared memory. Each lane fetches what it
/// will read itself, so that no barrier is needed.
///
/// A lane finishes kUnits units, from `unit` on, of the rows first_row + kRowStride * tile, for the
/// tiles of its block.
template <typename T, int kUnits, int kLanes, int kRowStride>
class InputRing {
 public:
  static constexpr int kStages = 4;  // steps under way or in use
  static constexpr int kGateBytes = kLanes * kUnits * 4;
  static constexpr int kTileBytes = 3 * kGateBytes + kLanes * 4;

  static constexpr int shared_bytes(int tiles) { return kStages * tiles * kTileBytes; }

  /// `shared` is the ring, aligned to 16 bytes, at generic and shared address; `lane` counts the
  /// block's lanes that finish rows.
  __device__ InputRing(RecurrentForward<T> const& pass, std::byte* shared, int lane, int first_row,
                       int tiles, int unit)
      : pass_{pass},
        values_{shared + lane * kUnits * 4},
        flags_{shared + 3 * kGateBytes + lane * 4},
        first_row_{first_row},
        tiles_{tiles},
        unit_{unit} {
    std::int64_t const row =
        (pass.reverse ? pass.steps - 1 : 0) * std::int64_t{pass.batch} + first_row;
    next_p_ = pass.p + row * 3 * pass.hidden + unit;
    next_flags_ =
        pass.flags == nullptr ? nullptr : pass.flags + row * pass.flags_pitch + unit / 8 * 4;
    for (int i = 0; i < kStages - 1; ++i) fetch(i);
  }

  /// Starts the fetch of the chunk's i-th step, the next one; every lane calls it in each step.
  __device__ void fetch(int i) {
    int const H = pass_.hidden;
    if (i < pass_.steps && unit_ < H) {
      std::uint32_t const to = i % kStages * tiles_ * kTileBytes;
      std::uint32_t const values = ptx::shared_address(values_) + to;
      std::uint32_t const flags = ptx::shared_address(flags_) + to;
      bool const wide = kUnits == 2 && H % 2 == 0;
      float const* p = next_p_;
      std::uint8_t const* f = next_flags_;
      for (int tile = 0; tile < tiles_ && first_row_ + tile * kRowStride < pass_.batch; ++tile) {
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
          std::uint32_t const at = values + tile * kTileBytes + gate * kGateBytes;
          if (wide) {
            ptx::copy_async<8>(at, p + gate * H);
          } else {
            ptx::copy_async<4>(at, p + gate * H);
            if (kUnits == 2 && unit_ + 1 < H) ptx::copy_async<4>(at + 4, p + gate * H + 1);
          }
        }
        p += kRowStride * 3 * H;
        if (f != nullptr) {
          ptx::copy_async<4>(flags + tile * kTileBytes, f);
          f += kRowStride * pass_.flags_pitch;
        }
      }
    }
    std::int64_t const rows = pass_.reverse ? -std::int64_t{pass_.batch} : pass_.batch;
    next_p_ += rows * 3 * H;
    if (next_flags_ != nullptr) next_flags_ += rows * pass_.flags_pitch;
    ptx::commit_copies();
  }

  /// Waits until the step has arrived that was fetched kStages - 1 fetches ago.
  __device__ void wait() const {
    ptx::wait_copies<kStages - 1>();
  }

  /// The chunk's i-th step of a tile, which must have arrived.
  __device__ StepInput<kUnits> read(int i, int tile) const {
    StepInput<kUnits> input;
    int const from = (i % kStages * tiles_ + tile) * kTileBytes;
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) {
      std::byte const* const at = values_ + from + gate * kGateBytes;
      if constexpr (kUnits == 2) {
        float2 const pair = *reinterpret_cast<float2 const*>(at);
        input.p[gate][0] = pair.x;
        input.p[gate][1] = pair.y;
      } else {
        input.p[gate][0] = *reinterpret_cast<float const*>(at);
      }
    }
    input.flags = flags(from, tile);
    return input;
  }

 private:
  __device__ std::uint32_t flags(int from, int tile) const {
    if (first_row_ + tile * kRowStride >= pass_.batch) return 0;
    if (pass_.flags == nullptr) return step_flags::kPlain;
    std::uint32_t const word = *reinterpret_cast<std::uint32_t const*>(flags_ + from);
    std::uint32_t const both = word >> (unit_ / 2 % 4 * 8) & 255;
    if constexpr (kUnits == 2) return both;
    // A lane of one unit reads the bits of the first.
    constexpr std::uint32_t kOfRow = step_flags::kIsActive | step_flags::kClearsState;
    return (both & kOfRow) |
           (both >> (unit_ & 1) & (step_flags::kTakesNew | step_flags::kKeepsOperand));
  }

  RecurrentForward<T> const& pass_;
  std::byte* values_;
  std::byte* flags_;
  int first_row_;
  int tiles_;
  int unit_;
  float const* next_p_;
  std::uint8_t const* next_flags_;
};

/// A step's results for a lane's units of one row.
template <int kUnits>
struct StepResult {
  float h[kUnits];
  float operand[kUnits];     // what multiplies R in the next step
  float reserve[4][kUnits];  // by the reserve's blocks
};

/// A lane that finishes kUnits neighbouring units, from `unit` on, of any rows. V is the value type
/// of the cell's formulas.
template <typename T, int kUnits, typename V>
class ForwardLane {
 public:
  __device__ ForwardLane(RecurrentForward<T> const& pass, int unit) : pass_{pass}, unit_{unit} {
    int const H = pass.hidden;
    auto const of = [&](T const* bias, std::int64_t position, int e) {
      return bias != nullptr && unit + e < H ? convert<float>(bias[position * H + unit + e]) : 0.0f;
    };
    for (int e = 0; e < kUnits; ++e) {
      for (int gate = 0; gate < 2; ++gate) {
        bias_[gate][e] = of(pass.bias, gate, e) + of(pass.recurrent_bias, gate, e);
      }
      bias_[2][e] = of(pass.bias, 2, e);
      recurrent_bias_g_[e] = of(pass.recurrent_bias, 2, e);
    }
  }

  __device__ bool has(int e) const { return unit_ + e < pass_.hidden; }

  /// The carried state of row n before the chunk.
  __device__ void load(int n, float (&state)[kUnits]) const {
    for (int e = 0; e < kUnits; ++e) {
      bool const inside = n < pass_.batch && has(e);
      state[e] = inside ? pass_.state[std::int64_t{n} * pass_.hidden + unit_ + e] : 0.0f;
    }
  }

  /// Does a step: `sums` are s R by the gates' positions, unscaled and without bias. Units and rows
  /// beyond the layer keep a state of 0.
  __device__ StepResult<kUnits> finish(float const (&sums)[3][kUnits],
                                       StepInput<kUnits> const& input,
                                       float (&state)[kUnits]) const {
    using namespace step_flags;
    StepResult<kUnits> result;
    bool const z_first = pass_.columns.z == 0;
    float const scale = pass_.recurrent_scale;
#pragma unroll
    for (int e = 0; e < kUnits; ++e) {
      float const first = sums[0][e] * scale;
      float const second = sums[1][e] * scale;
      float const p_first = input.p[0][e] + bias_[0][e];
      float const p_second = input.p[1][e] + bias_[1][e];
      float const q_g = sums[2][e] * scale + recurrent_bias_g_[e];
      cell::Gates<V> const p{V{z_first ? p_first : p_second}, V{z_first ? p_second : p_first},
                             V{input.p[2][e] + bias_[2][e]}};
      cell::Gates<V> const q{V{z_first ? first : second}, V{z_first ? second : first}, V{q_g}};
      V const s{state[e]};
      cell::Gates<V> const a = cell::reset_after(p, q);
      V new_state = cell::new_state(a.z, a.g, s);
      if (pass_.has_zoneout) {
        float const weight = (input.flags & kTakesNew << e) != 0 ? pass_.new_weight : 0.0f;
        new_state = cell::zoneout(new_state, s, V{weight});
      }
      bool const does = input.is_active() && has(e);
      if (does) state[e] = static_cast<float>(new_state);
      result.h[e] = does ? state[e] : 0.0f;
      result.operand[e] =
          (input.flags & kKeepsOperand << e) != 0 ? state[e] * pass_.operand_scale : 0.0f;
      result.reserve[0][e] = static_cast<float>(z_first ? a.z : a.r);
      result.reserve[1][e] = static_cast<float>(z_first ? a.r : a.z);
      result.reserve[2][e] = static_cast<float>(a.g);
      result.reserve[3][e] = q_g;
    }
    return result;
  }

  /// Writes what the caller sees of the step at time index t; then clears the state where the next
  /// step begins an episode.
  __device__ void write(StepResult<kUnits> const& result, StepInput<kUnits> const& input,
                        std::int64_t t, int n, float (&state)[kUnits]) const {
    std::int64_t const H = pass_.hidden;
    bool const has_second = has(kUnits - 1);
    if (n < pass_.batch && has(0)) {
      if (pass_.h != nullptr) {
        store_units(pass_.h + pass_.h_rows.at(t, n) + unit_, result.h, pass_.wide_h, has_second);
      }
      if (pass_.reserve != nullptr && input.is_active()) {
        T* const row = pass_.reserve + (t * pass_.batch + n) * 4 * H + unit_;
#pragma unroll
        for (int block = 0; block < 4; ++block) {
          store_units(row + block * H, result.reserve[block], pass_.wide_reserve, has_second);
        }
      }
    }
    if ((input.flags & step_flags::kClearsState) != 0) {
      for (int e = 0; e < kUnits; ++e) state[e] = 0;
    }
  }

  /// Leaves row n for the next chunk or, after the last step of the pass, for the caller.
  __device__ void leave(StepResult<kUnits> const& result, int n,
                        float const (&state)[kUnits]) const {
    if (n >= pass_.batch) return;
    for (int e = 0; e < kUnits && has(e); ++e) {
      std::int64_t const at = std::int64_t{n} * pass_.hidden + unit_ + e;
      pass_.state[at] = state[e];
      pass_.operand[at] = convert<T>(result.operand[e]);
      if (pass_.is_last && pass_.final_state) {
        pass_.final_state.store(n * pass_.final_pitch + unit_ + e, state[e]);
      }
    }
  }

  /// After a wait that expired: NaN is all that comes out from here on.
  __device__ static void poison(StepResult<kUnits>& result, float (&state)[kUnits]) {
    float const nan = __int_as_float(0x7fffffff);
    for (int e = 0; e < kUnits; ++e) result.h[e] = result.operand[e] = state[e] = nan;
  }

 private:
  RecurrentForward<T> const& pass_;
  int unit_;
  float bias_[3][kUnits];
  float recurrent_bias_g_[kUnits];
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
