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
#include <gru/detail/stepwise_kernels.cuh>
#include <gru/detail/tile_deal.cuh>
#include <gru/detail/units.cuh>
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
  float const* p = nullptr;              // [steps, N, 3H] x W
  std::int32_t const* p_rows = nullptr;  // [N] where each sample's rows of p begin, where they are
                                         // packed (see packed_input.cuh), or null
  std::uint8_t const* flags = nullptr;   // [steps, N, flags_pitch] see step_flags, or null
  std::int64_t flags_pitch = 0;

  float* state = nullptr;  // [N, H] carried, in and out
  T* operand = nullptr;    // [N, H] the state as it multiplies R, in and out
  T* h = nullptr;          // out, or null
  Rows h_rows;
  bool wide_h = false;        // whether pairs of h begin at the boundary of a pair
  T* reserve = nullptr;       // [T, N, 4H] out, or null
  bool wide_reserve = false;  // whether its pairs do
  OrFloat<T> final_state;  // [N, H] out, or null: the last chunk that does a row's tile leaves it
  std::int64_t final_pitch = 0;

  TileDeal deal;  // for kernels whose lanes finish tiles

  std::uint32_t* status = nullptr;  // set where a wait expired
  std::uint32_t most_polls = 0;     // of one wait

  // Derived from the above, so that no step computes it: bytes from the row of a step to that of
  // the next one done, and where the gates z, r, g begin in a row.
  std::int64_t p_step = 0;
  std::int64_t flags_step = 0;
  std::int64_t h_step = 0;
  std::int64_t reserve_step = 0;
  int p_row = 0;  // bytes of a row of p
  int p_gate[3] = {};
  int reserve_gate[3] = {};

  void derive() {
    std::int64_t const N = batch;
    std::int64_t const H = hidden;
    std::int64_t const sign = reverse ? -1 : 1;
    p_row = 3 * hidden * static_cast<int>(sizeof(float));
    p_step = sign * p_apart() * p_row;
    flags_step = sign * N * flags_pitch;
    h_step = sign * h_rows.step * static_cast<std::int64_t>(sizeof(T));
    reserve_step = sign * N * 4 * H * static_cast<std::int64_t>(sizeof(T));
    std::int64_t const positions[3] = {columns.z, columns.r, GateColumns::g};
    for (int gate = 0; gate < 3; ++gate) {
      p_gate[gate] = static_cast<int>(positions[gate] * H * static_cast<int>(sizeof(float)));
      reserve_gate[gate] = static_cast<int>(positions[gate] * H * static_cast<int>(sizeof(T)));
    }
  }

  /// Rows of p from a step of a sample to its next one.
  GRU_HOST_DEVICE int p_apart() const { return p_rows == nullptr ? batch : 1; }

  /// Whether the steps ascend in time.
  __device__ bool ascends() const { return !reverse; }

  /// Where the chunk begins among its rows.
  __device__ int first_row() const { return reverse ? steps - 1 : 0; }

  /// What a lane says whose wait expired. GRU_DEBUG_TRAP ends the kernel, and with it the context,
  /// where a debugger can look.
  __device__ void expire() const {
#if defined(GRU_DEBUG_TRAP)
    __trap();
#endif
    *status = kStatusExpired;
  }
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
  Units<T, kUnits> together;
  for (int e = 0; e < kUnits; ++e) together.value[e] = convert<T>(values[e]);
  if (wide) {
    *reinterpret_cast<Units<T, kUnits>*>(to) = together;
    return;
  }
  to[0] = together.value[0];
  if (kUnits == 2 && has_second) to[1] = together.value[kUnits - 1];
}

/// What a lane needs of the outside for one step of one row: the input product for the gates z, r,
/// g, and the flags.
template <int kUnits>
struct StepInput {
  float p[3][kUnits];
  std::uint32_t flags;

  __device__ bool is_active() const { return (flags & step_flags::kIsActive) != 0; }
};

/// The rows that a lane finishes, one in each of its tiles, counted from the row `first()` on.
/// Where they are sorted, their numbers are kept in shared memory; the lanes of a warp that are 4
/// apart finish the same rows.
template <typename Steps, int kLanes, bool kSorts>
class LaneRows {
 public:
  static constexpr int kTileBytes = kLanes / 8 * 4;

  /// `shared` has kTileBytes for each of the lane's tiles; `lane` counts the block's lanes that
  /// finish rows.
  __device__ LaneRows(Steps const& steps, TileSpan const& tiles, int tile_row, std::uint32_t shared,
                      int lane)
      : steps_{steps}, tiles_{tiles}, tile_row_{tile_row}, sorted_{shared + lane_offset(lane)} {
    for (int k = 0; kSorts && k < tiles.count; ++k) {
      std::uint32_t const row = has(k) ? steps.deal.order[place(k)] : steps.batch;
      ptx::store_shared(sorted_ + k * kTileBytes, row);
    }
  }

  /// Where a lane's word is among those of a tile.
  __device__ static std::uint32_t lane_offset(int lane) { return (lane / 32 * 4 + lane % 4) * 4; }

  /// Whether there is a row in the lane's k-th tile.
  __device__ bool has(int k) const { return place(k) < steps_.batch; }

  __device__ int first() const { return kSorts ? 0 : place(0); }

  /// The row in the k-th tile; beyond the batch where there is none.
  __device__ int row(int k) const {
    return kSorts ? __float_as_int(ptx::load_shared(sorted_ + k * kTileBytes)) : place(k) - first();
  }

 private:
  __device__ int place(int k) const { return tiles_.place(k, tile_row_); }

  Steps const& steps_;
  TileSpan tiles_;
  int tile_row_;
  std::uint32_t sorted_;
};

/// The inputs of the steps to come, on their way through shared memory. Each lane fetches what it
/// will read itself, so that no barrier is needed, but where flags are shared.
///
/// A lane finishes kUnits units, from `unit` on, of row tile_row of some tiles. kSorts: whether
/// rows are sorted. kStages_: how many steps are under way or in use. Flags: how flags get to
/// lanes.
template <typename T, int kUnits, int kLanes, bool kSorts, int kStages_ = 4,
          typename Flags = OwnFlags>
class InputRing {
 public:
  using OwnRows = LaneRows<RecurrentForward<T>, kLanes, kSorts>;
  static constexpr int kStages = kStages_;
  static constexpr int kGateBytes = kLanes * kUnits * 4;
  static constexpr int kTileBytes = 3 * kGateBytes + kLanes * 4;

  GRU_HOST_DEVICE static constexpr int shared_bytes(int tiles) {
    return tiles * (kStages * kTileBytes + 2 * OwnRows::kTileBytes);
  }

  /// Begins the fetch of the first steps. `shared` is the ring, aligned to 16 bytes; `lane` counts
  /// the block's lanes that finish rows; `most_tiles` is the count of the lane that has most.
  __device__ InputRing(RecurrentForward<T> const& pass, std::byte* shared, int lane,
                       TileSpan const& tiles, int tile_row, int most_tiles, int unit)
      : pass_{pass},
        shared_{ptx::shared_address(shared)},
        lane_{lane},
        stage_bytes_{most_tiles * kTileBytes},
        flag_shift_{step_flags::shift(unit)},
        flags_{lane, tile_row, unit},
        rows_{pass, tiles, tile_row, shared_ + kStages * stage_bytes_, lane},
        p_rows_{shared_ + kStages * stage_bytes_ + most_tiles * OwnRows::kTileBytes +
                OwnRows::lane_offset(lane)},
        active_{pass, {tiles.first, tiles.apart, unit < pass.hidden ? tiles.count : 0}} {
    for (int k = 0; kSorts && k < tiles.count && rows_.has(k); ++k) {
      int const n = rows_.row(k);
      std::uint32_t const first = pass.p_rows == nullptr ? n : pass.p_rows[n];
      ptx::store_shared(p_rows_ + k * OwnRows::kTileBytes, first);
    }
    std::int64_t const p_row = pass.first_row() * std::int64_t{pass.p_apart()} + rows_.first();
    next_p_ = reinterpret_cast<std::byte const*>(pass.p + p_row * 3 * pass.hidden + unit);
    std::int64_t const row = pass.first_row() * std::int64_t{pass.batch} + rows_.first();
    next_flags_ = pass.flags + row * pass.flags_pitch + unit / 8 * 4;
    pair_ = kUnits == 1 ? 1 : pass.hidden % 2 == 0 ? 2 : unit + 1 < pass.hidden ? 3 : 1;
    ptx::keep(shared_);
    for (int i = 0; i < kStages - 1; ++i) fetch(i);
  }

  __device__ OwnRows const& rows() const { return rows_; }

  /// Begins the fetch of the chunk's i-th step, the next one, for the tiles that are active then;
  /// every lane calls it in each step.
  __device__ void fetch(int i) {
    if (i < pass_.steps) {
      std::uint32_t const to = shared_ + i % kStages * stage_bytes_;
      if (pass_.flags != nullptr) flags_.meet();
#pragma unroll 1
      for (int tile = 0; tile < active_.count() && rows_.has(tile); ++tile) {
        std::int64_t const n = rows_.row(tile);
        std::int64_t const p_row = kSorts ? load_p_row(tile) : n;
        std::byte const* const p = next_p_ + p_row * pass_.p_row;
        std::uint32_t const at = to + tile * kTileBytes + lane_ * (4 * kUnits);
        if (pair_ == 2) {
          fetch_gates<8>(at, p);
        } else {
          fetch_gates<4>(at, p);
          if (pair_ == 3) fetch_gates<4>(at + 4, p + 4);
        }
        if (pass_.flags != nullptr) {
          flags_.fetch(to + tile * kTileBytes + 3 * kGateBytes,
                       next_flags_ + n * pass_.flags_pitch);
        }
      }
      active_.advance();
      next_p_ += pass_.p_step;
      next_flags_ += pass_.flags_step;
    }
    ptx::commit_copies();
  }

  /// Waits until the step has arrived that was fetched kStages - 1 fetches ago.
  __device__ void wait() const {
    ptx::wait_copies<kStages - 1>();
    if (pass_.flags != nullptr) flags_.meet();
  }

  /// The chunk's i-th step of a tile, which must have arrived.
  __device__ StepInput<kUnits> read(int i, int tile) const {
    StepInput<kUnits> input;
    std::uint32_t const from = shared_ + i % kStages * stage_bytes_ + tile * kTileBytes;
    std::uint32_t const at = from + lane_ * (4 * kUnits);
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) {
      if constexpr (kUnits == 2) {
        float2 const pair = ptx::load_shared_pair(at + gate * kGateBytes);
        input.p[gate][0] = pair.x;
        input.p[gate][1] = pair.y;
      } else {
        input.p[gate][0] = ptx::load_shared(at + gate * kGateBytes);
      }
    }
    // Without a branch: a step must not wait here for the flags to arrive.
    std::uint32_t const word =
        __float_as_uint(ptx::load_shared(from + 3 * kGateBytes + flags_.at()));
    std::uint32_t const own = step_flags::of_lane<kUnits>(word, flag_shift_);
    input.flags =
        (pass_.flags != nullptr ? own : step_flags::kPlain) & (rows_.has(tile) ? 255u : 0u);
    return input;
  }

 private:
  /// The row of p where the steps of the lane's row of a tile begin, where rows are sorted.
  __device__ int load_p_row(int tile) const {
    return __float_as_int(ptx::load_shared(p_rows_ + tile * OwnRows::kTileBytes));
  }

  template <int kBytes>
  __device__ void fetch_gates(std::uint32_t at, std::byte const* p) const {
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) {
      ptx::copy_async<kBytes>(at + gate * kGateBytes, p + pass_.p_gate[gate]);
    }
  }

  RecurrentForward<T> const& pass_;
  std::uint32_t shared_;
  int lane_;
  int stage_bytes_;
  int flag_shift_;
  Flags flags_;
  OwnRows rows_;
  std::uint32_t p_rows_;  // where those of the lane's tiles are in shared memory
  ActiveTiles<RecurrentForward<T>, kSorts>
      active_;  // that need inputs, in the step to be fetched next
  int pair_;    // how a pair is fetched: 1 the first alone, 2 as one, 3 one by one
  std::byte const* next_p_;
  std::uint8_t const* next_flags_;
};

/// What the reset gate gives, for a lane's units of one row, where it acts before the product.
template <int kUnits>
struct ResetResult {
  float operand[kUnits];  // what multiplies R_g in this step
  float a_r[kUnits];
};

/// A step's results for a lane's units of one row. Reset before: a.r and q_g are not among them.
template <int kUnits>
struct StepResult {
  float h[kUnits];
  float operand[kUnits];  // what multiplies R in the next step
  cell::Gates<float> a[kUnits];
  float q_g[kUnits];
};

/// A lane that finishes kUnits neighbouring units, from `unit` on, of some rows. These are counted
/// from `first_row` on; beyond the batch there is nothing to read or write. V is the value type of
/// the cell's formulas.
template <typename T, int kUnits, typename V>
class ForwardLane {
 public:
  __device__ ForwardLane(RecurrentForward<T> const& pass, int first_row, int unit)
      : pass_{pass}, first_row_{first_row}, unit_{unit} {
    int const H = pass.hidden;
    auto const of = [&](T const* bias, std::int64_t position, int e) {
      return bias != nullptr && unit + e < H ? convert<float>(bias[position * H + unit + e]) : 0.0f;
    };
    GateColumns const columns = pass.columns;
    for (int e = 0; e < kUnits; ++e) {
      bias_[e] = {of(pass.bias, columns.z, e) + of(pass.recurrent_bias, columns.z, e),
                  of(pass.bias, columns.r, e) + of(pass.recurrent_bias, columns.r, e),
                  of(pass.bias, columns.g, e)};
      recurrent_bias_g_[e] = of(pass.recurrent_bias, columns.g, e);
    }
    std::int64_t const t = pass.first_time + pass.first_row();
    h_ = pass.h + pass.h_rows.at(t, first_row) + unit;
    reserve_ = pass.reserve + (t * pass.batch + first_row) * 4 * H + unit;
  }

  __device__ bool has(int e) const { return unit_ + e < pass_.hidden; }

  /// The carried state of a row before the chunk.
  __device__ void load(int row, float (&state)[kUnits]) const {
    int const n = first_row_ + row;
    for (int e = 0; e < kUnits; ++e) {
      bool const inside = n < pass_.batch && has(e);
      state[e] = inside ? pass_.state[std::int64_t{n} * pass_.hidden + unit_ + e] : 0.0f;
    }
  }

  /// Reset before: what multiplies R_g, from s R for the reset gate, unscaled and without bias. 0
  /// for units and rows beyond the layer.
  __device__ ResetResult<kUnits> reset(float const (&sums)[kUnits], StepInput<kUnits> const& input,
                                       float const (&state)[kUnits]) const {
    ResetResult<kUnits> result;
#pragma unroll
    for (int e = 0; e < kUnits; ++e) {
      V const a_r{input.p[1][e] + bias_[e].r + sums[e] * pass_.recurrent_scale};
      float const reset = static_cast<float>(cell::reset_state(a_r, V{state[e]}));
      bool const keeps = (input.flags & step_flags::kKeepsReset << e) != 0 && has(e);
      result.operand[e] = keeps ? reset * pass_.operand_scale : 0.0f;
      result.a_r[e] = static_cast<float>(a_r);
    }
    return result;
  }

  /// Does a step: `sums` are s R for the gates z, r, g, unscaled and without bias; reset before:
  /// s R_z, nothing, and (r * s) R_g. Units and rows beyond the layer keep a state of 0.
  template <Variant variant = Variant::kResetAfter>
  __device__ StepResult<kUnits> finish(float const (&sums)[3][kUnits],
                                       StepInput<kUnits> const& input,
                                       float (&state)[kUnits]) const {
    using namespace step_flags;
    StepResult<kUnits> result;
    float const scale = pass_.recurrent_scale;
#pragma unroll
    for (int e = 0; e < kUnits; ++e) {
      cell::Gates<V> const p{V{input.p[0][e] + bias_[e].z}, V{input.p[1][e] + bias_[e].r},
                             V{input.p[2][e] + bias_[e].g}};
      float const q_g = sums[2][e] * scale + recurrent_bias_g_[e];
      cell::Gates<V> const q{V{sums[0][e] * scale}, V{sums[1][e] * scale}, V{q_g}};
      V const s{state[e]};
      cell::Gates<V> const a = pre_activations<variant>(p, q);
      V const updated = cell::new_state(a.z, a.g, s);
      float const weight = (input.flags & kTakesNew << e) != 0 ? pass_.new_weight : 0.0f;
      V const zoned_out = cell::zoneout(updated, s, V{weight});
      // A selection: a branch would keep the units from overlapping.
      float const new_state = static_cast<float>(pass_.has_zoneout ? zoned_out : updated);
      bool const does = input.is_active() && has(e);
      state[e] = does ? new_state : state[e];
      result.h[e] = does ? new_state : 0.0f;
      bool const keeps = (input.flags & kKeepsOperand << e) != 0;
      result.operand[e] = keeps ? state[e] * pass_.operand_scale : 0.0f;
      result.a[e] = {static_cast<float>(a.z), static_cast<float>(a.r), static_cast<float>(a.g)};
      result.q_g[e] = q_g;
    }
    return result;
  }

  /// Reset before: writes what the reserve keeps of `reset`.
  __device__ void write_reset(ResetResult<kUnits> const& result, StepInput<kUnits> const& input,
                              int row) const {
    if (pass_.reserve != nullptr && is_inside(row) && input.is_active()) {
      write_reserve(row, 1, result.a_r);
      write_reserve(row, 3, result.operand);
    }
  }

  /// Writes what the caller sees of the step; then clears the state where the next step begins an
  /// episode.
  template <Variant variant = Variant::kResetAfter>
  __device__ void write(StepResult<kUnits> const& result, StepInput<kUnits> const& input, int row,
                        float (&state)[kUnits]) const {
    if (is_inside(row)) {
      if (pass_.h != nullptr) {
        store_units(h_ + std::int64_t{row} * pass_.h_rows.sample, result.h, pass_.wide_h,
                    has(kUnits - 1));
      }
      if (pass_.reserve != nullptr && input.is_active()) {
        float gates[3][kUnits];
        for (int e = 0; e < kUnits; ++e) {
          gates[0][e] = result.a[e].z;
          gates[1][e] = result.a[e].r;
          gates[2][e] = result.a[e].g;
        }
        constexpr bool kAfter = variant == Variant::kResetAfter;
        write_reserve(row, 0, gates[0]);
        if (kAfter) write_reserve(row, 1, gates[1]);
        write_reserve(row, 2, gates[2]);
        if (kAfter) write_reserve(row, 3, result.q_g);
      }
    }
    bool const clears = (input.flags & step_flags::kClearsState) != 0;
    for (int e = 0; e < kUnits; ++e) state[e] = clears ? 0.0f : state[e];
  }

  /// Goes on to the next step, after the last row of one.
  __device__ void advance() {
    h_ = reinterpret_cast<T*>(reinterpret_cast<std::byte*>(h_) + pass_.h_step);
    reserve_ = reinterpret_cast<T*>(reinterpret_cast<std::byte*>(reserve_) + pass_.reserve_step);
  }

  /// Leaves a row, after its last step of the chunk, for the next chunk and for the caller.
  __device__ void leave(StepResult<kUnits> const& result, int row,
                        float const (&state)[kUnits]) const {
    int const n = first_row_ + row;
    if (n >= pass_.batch) return;
    for (int e = 0; e < kUnits && has(e); ++e) {
      std::int64_t const at = std::int64_t{n} * pass_.hidden + unit_ + e;
      pass_.state[at] = state[e];
      pass_.operand[at] = convert<T>(result.operand[e]);
      if (pass_.final_state) {
        pass_.final_state.store(n * pass_.final_pitch + unit_ + e, state[e]);
      }
    }
  }

  /// After a wait that expired: every step from here on gives NaN.
  __device__ void poison() {
    for (int e = 0; e < kUnits; ++e) recurrent_bias_g_[e] = __int_as_float(0x7fffffff);
  }

 private:
  /// Whether the lane has any unit of the row.
  __device__ bool is_inside(int row) const {
    return has(0) && first_row_ + row < pass_.batch;
  }

  /// Writes one of a reserve row's four blocks: the gates z, r, g, and the fourth.
  __device__ void write_reserve(int row, int block, float const (&values)[kUnits]) const {
    auto* const to = reinterpret_cast<std::byte*>(reserve_ + std::int64_t{row} * 4 * pass_.hidden);
    int const at = block < 3 ? pass_.reserve_gate[block < 3 ? block : 0]
                             : 3 * pass_.hidden * static_cast<int>(sizeof(T));
    store_units(reinterpret_cast<T*>(to + at), values, pass_.wide_reserve, has(kUnits - 1));
  }

  RecurrentForward<T> const& pass_;
  int first_row_;
  int unit_;
  T* h_;
  T* reserve_;
  cell::Gates<float> bias_[kUnits];
  float recurrent_bias_g_[kUnits];
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
