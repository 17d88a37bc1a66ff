// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/cell.hpp>
#include <gru/detail/approximate.cuh>
#include <gru/detail/cuda_types.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/recurrence.cuh>
#include <gru/detail/step_flags.cuh>
#include <gru/detail/stepwise_kernels.cuh>

/// What the persistent kernels of backward have in common: the steps they are given, how forward's
/// values reach a lane, and how a lane finishes its units of a row.
///
/// A step back multiplies dq, the gradients of s R, with the transpose of R: what comes out is the
/// gradient that the state left by the step before has through R. All gradients of a step are
/// linear in that of its state. So a lane computes their factors, from what forward kept, before
/// the products arrive, and multiplies once they have.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A chunk of steps for a persistent kernel that goes back through them. Internal buffers are dense
/// and time-major.
template <typename T>
struct RecurrentBackward {
  int batch = 0;   // N
  int hidden = 0;  // H
  GateColumns columns;
  float through_scale =
      1;  // on dq R^T: what DropConnect and recurrent dropout leave to the product
  bool has_zoneout = false;
  float new_weight = 1;  // zoneout's weight of the new state where the flags take it

  std::int64_t first_time = 0;          // least time index of the chunk
  int steps = 0;                        // of the chunk
  bool reverse = false;                 // whether the layer is: then these steps ascend in time
  T const* kept = nullptr;              // [steps, N, 4H] the reserve's rows
  T const* entering = nullptr;          // [steps, N, H] the states that entered
  T const* dh = nullptr;                // from the chunk's first time index on, or null
  Rows dh_rows;                         // of dh
  std::uint8_t const* flags = nullptr;  // [steps, N, flags_pitch] see step_flags, or null
  std::int64_t flags_pitch = 0;
  bool wide_inputs = false;  // whether pairs of kept, entering and dh begin at those of a pair

  T* gradients = nullptr;  // [steps, N, 4H] out: of p in the weights' order, then of q_g; may be
                           // where `kept` is
  bool wide_gradients = false;
  float* direct = nullptr;     // [N, H] carried gradient along everything but R, in and out
  T* dq = nullptr;             // [N, 3H] of the step done last, in and out
  float* bias_sums = nullptr;  // [N, 4H] in and out: a row of a lane gets the sums of all of its
                               // rows and steps; or null

  TileDeal deal;  // for kernels whose lanes finish tiles

  std::uint32_t* status = nullptr;  // set where a wait expired
  std::uint32_t most_polls = 0;     // of one wait

  // Derived from the above, so that no step computes it: bytes from the row of a step to that of
  // the next one done, and where the blocks z, r, g and the fourth begin in a row of 4H.
  std::int64_t kept_step = 0;
  std::int64_t entering_step = 0;
  std::int64_t dh_step = 0;
  std::int64_t flags_step = 0;
  int block[4] = {};

  void derive() {
    std::int64_t const N = batch;
    std::int64_t const H = hidden;
    std::int64_t const sign = reverse ? 1 : -1;
    constexpr std::int64_t kBytes = sizeof(T);
    kept_step = sign * N * 4 * H * kBytes;
    entering_step = sign * N * H * kBytes;
    dh_step = sign * dh_rows.step * kBytes;
    flags_step = sign * N * flags_pitch;
    std::int64_t const positions[4] = {columns.z, columns.r, GateColumns::g, 3};
    for (int b = 0; b < 4; ++b) block[b] = static_cast<int>(positions[b] * H * kBytes);
  }

  /// Whether the steps ascend in time.
  __device__ bool ascends() const { return reverse; }

  /// Where the chunk's first step done is among its rows.
  __device__ int first_step() const { return reverse ? 0 : steps - 1; }

  /// What a lane says whose wait expired; see RecurrentForward.
  __device__ void expire() const {
#if defined(GRU_DEBUG_TRAP)
    __trap();
#endif
    *status = kStatusExpired;
  }
};

/// What a lane needs of the outside for one step of one row.
template <int kUnits>
struct BackwardInput {
  float kept[4][kUnits];  // pre-activations of z, r, g; q_g, or what multiplied R_g
  float s[kUnits];        // the state that entered, 0 where an episode began
  float dh[kUnits];
  std::uint32_t flags;
};

/// The inputs of the steps to come, on their way through shared memory. Each lane fetches what it
/// will read itself, so that no barrier is needed.
///
/// A lane finishes kUnits units, from `unit` on, of row tile_row of some tiles. kSorts: whether
/// rows are sorted. kStages_: how many steps are under way or in use.
template <typename T, int kUnits, int kLanes, bool kSorts, int kStages_ = 4>
class BackwardInputs {
 public:
  using OwnRows = LaneRows<RecurrentBackward<T>, kLanes, kSorts>;
  static constexpr int kStages = kStages_;
  static constexpr int kValues = 6;  // kept, entering, dh
  static constexpr int kLaneBytes = kUnits * static_cast<int>(sizeof(T));
  static constexpr int kValueBytes = kLanes * kLaneBytes;
  static constexpr int kTileBytes = kValues * kValueBytes + kLanes * 4;

  GRU_HOST_DEVICE static constexpr int shared_bytes(int tiles) {
    return tiles * (kStages * kTileBytes + OwnRows::kTileBytes);
  }

  /// Begins the fetch of the first steps. `shared` is the ring, aligned to 16 bytes; `lane` counts
  /// the block's lanes that finish rows; `most_tiles` is the count of the lane that has most.
  __device__ BackwardInputs(RecurrentBackward<T> const& pass, std::byte* shared, int lane,
                            TileSpan const& tiles, int tile_row, int most_tiles, int unit)
      : pass_{pass},
        shared_{shared},
        lane_{lane},
        stage_bytes_{most_tiles * kTileBytes},
        flag_shift_{step_flags::shift(unit)},
        count_{unit + kUnits <= pass.hidden ? kUnits : 1},
        rows_{pass, tiles, tile_row, ptx::shared_address(shared + kStages * stage_bytes_), lane},
        active_{pass, {tiles.first, tiles.apart, unit < pass.hidden ? tiles.count : 0}} {
    std::int64_t const H = pass.hidden;
    std::int64_t const row = pass.first_step() * std::int64_t{pass.batch} + rows_.first();
    kept_ = bytes(pass.kept + row * 4 * H + unit);
    entering_ = bytes(pass.entering + row * H + unit);
    dh_ = bytes(pass.dh + pass.dh_rows.at(pass.first_step(), rows_.first()) + unit);
    flags_ = pass.flags + row * pass.flags_pitch + unit / 8 * 4;
    for (int i = 0; i < kStages - 1; ++i) fetch(i);
  }

  __device__ OwnRows const& rows() const { return rows_; }

  /// Begins the fetch of the chunk's i-th step done, the next one, for the tiles that are active
  /// then; every lane calls it in each step.
  __device__ void fetch(int i) {
    if (i < pass_.steps) {
      std::byte* const to = shared_ + i % kStages * stage_bytes_;
#pragma unroll 1
      for (int tile = 0; tile < active_.count() && rows_.has(tile); ++tile) {
        std::int64_t const n = rows_.row(tile);
        constexpr std::int64_t kBytes = sizeof(T);
        fetch_tile(to + tile * kTileBytes, kept_ + n * 4 * pass_.hidden * kBytes,
                   entering_ + n * pass_.hidden * kBytes, dh_ + n * pass_.dh_rows.sample * kBytes,
                   flags_ + n * pass_.flags_pitch);
      }
      active_.advance();
      kept_ += pass_.kept_step;
      entering_ += pass_.entering_step;
      dh_ += pass_.dh_step;
      flags_ += pass_.flags_step;
    }
    ptx::commit_copies();
  }

  /// Waits until the step has arrived that was fetched kStages - 1 fetches ago.
  __device__ void wait() const {
    ptx::wait_copies<kStages - 1>();
  }

  /// The chunk's i-th step done of a tile, which must have arrived.
  __device__ BackwardInput<kUnits> read(int i, int tile) const {
    BackwardInput<kUnits> input;
    std::byte const* const from = shared_ + i % kStages * stage_bytes_ + tile * kTileBytes;
    auto const load = [&](int value, float(&units)[kUnits]) {
      auto const together = load_units<kUnits>(
          reinterpret_cast<T const*>(from + value * kValueBytes + lane_ * kLaneBytes));
      for (int e = 0; e < kUnits; ++e) units[e] = convert<float>(together.value[e]);
    };
#pragma unroll
    for (int value = 0; value < 4; ++value) load(value, input.kept[value]);
    load(4, input.s);
    load(5, input.dh);
    if (pass_.dh == nullptr) {
      for (float& dh : input.dh) dh = 0;
    }
    auto const word =
        *reinterpret_cast<std::uint32_t const*>(from + kValues * kValueBytes + lane_ * 4);
    std::uint32_t const own = step_flags::of_lane<kUnits>(word, flag_shift_);
    input.flags =
        (pass_.flags != nullptr ? own : step_flags::kPlain) & (rows_.has(tile) ? 255u : 0u);
    return input;
  }

 private:
  static __device__ std::byte const* bytes(T const* values) {
    return reinterpret_cast<std::byte const*>(values);
  }

  __device__ void fetch_tile(std::byte* to, std::byte const* kept, std::byte const* entering,
                             std::byte const* dh, std::uint8_t const* flags) const {
    std::byte const* const from[kValues] = {kept + pass_.block[0],
                                            kept + pass_.block[1],
                                            kept + pass_.block[2],
                                            kept + pass_.block[3],
                                            entering,
                                            dh};
    bool const has_dh = pass_.dh != nullptr;
    std::byte* const mine = to + lane_ * kLaneBytes;
    std::uint32_t const at = ptx::shared_address(mine);
    constexpr bool kCopiesLane = kLaneBytes >= 4;  // cp.async takes no fewer
    constexpr bool kCopiesUnit = sizeof(T) >= 4;
    if (kCopiesLane && (kUnits == 1 || pass_.wide_inputs)) {
      constexpr int kBytes = kCopiesLane ? kLaneBytes : 4;
#pragma unroll
      for (int v = 0; v < 5; ++v) ptx::copy_async<kBytes>(at + v * kValueBytes, from[v]);
      if (has_dh) ptx::copy_async<kBytes>(at + 5 * kValueBytes, from[5]);
    } else if (kCopiesUnit) {
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        if (v < 5 || has_dh) {
          ptx::copy_async<4>(at + v * kValueBytes, from[v]);
          if (count_ > 1) ptx::copy_async<4>(at + v * kValueBytes + 4, from[v] + 4);
        }
      }
    } else {
      fetch_narrow(mine, from, has_dh ? 6 : 5);
    }
    if (pass_.flags != nullptr) {
      ptx::copy_async<4>(ptx::shared_address(to) + kValues * kValueBytes + lane_ * 4, flags);
    }
  }

  /// One by one, and waited for: values too narrow to be copied by themselves.
  __device__ void fetch_narrow(std::byte* mine, std::byte const* const (&from)[kValues],
                               int values) const {
    T loaded[kValues][kUnits];
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
#pragma unroll
      for (int e = 0; e < kUnits; ++e) {
        if (v < values && e < count_) loaded[v][e] = reinterpret_cast<T const*>(from[v])[e];
      }
    }
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
#pragma unroll
      for (int e = 0; e < kUnits; ++e) {
        if (v < values && e < count_) {
          reinterpret_cast<T*>(mine + v * kValueBytes)[e] = loaded[v][e];
        }
      }
    }
  }

  RecurrentBackward<T> const& pass_;
  std::byte* shared_;
  int lane_;
  int stage_bytes_;
  int flag_shift_;
  int count_;  // units of the lane that the layer has, if any
  OwnRows rows_;
  ActiveTiles<RecurrentBackward<T>, kSorts>
      active_;  // that need inputs, in the step to be fetched next
  std::byte const* kept_;
  std::byte const* entering_;
  std::byte const* dh_;
  std::uint8_t const* flags_;
};

/// What a step's gradients are to that of its state: its factors, for a lane's units of one row.
/// Reset before: those of a.r and q_g are to the gradient of r * s, and q_g's is that of the
/// entering state along r * s.
template <int kUnits>
struct BackwardFactors {
  cell::Gates<float> a[kUnits];  // of the pre-activations
  float q_g[kUnits];             // of the candidate's recurrent part
  float direct[kUnits];          // of the entering state along everything but R
  float dh[kUnits];              // what the output adds to the gradient
  float operand[kUnits];         // reset before: what multiplied R_g
};

/// A step's gradients, for a lane's units of one row.
template <int kUnits>
struct BackwardResult {
  cell::Gates<float> a[kUnits];   // of the pre-activations
  float q_g[kUnits];              // of the candidate's recurrent part; reset before: its operand
  cell::Gates<float> dq[kUnits];  // what multiplies the transpose of R: 0 where an episode began
};

/// A lane that finishes kUnits neighbouring units, from `unit` on, of some rows. These are counted
/// from `first_row` on; beyond the batch there is nothing to read or write. V is the value type of
/// the cell's formulas; in 11 bits the gradient of a gate near saturation would be lost.
template <typename T, int kUnits, typename V = Approximate<22>>
class BackwardLane {
 public:
  __device__ BackwardLane(RecurrentBackward<T> const& pass, int first_row, int unit)
      : pass_{pass}, first_row_{first_row}, unit_{unit} {
    std::int64_t const row = pass.first_step() * std::int64_t{pass.batch} + first_row;
    gradients_ = reinterpret_cast<std::byte*>(pass.gradients + row * 4 * pass.hidden + unit);
  }

  __device__ bool has(int e) const { return unit_ + e < pass_.hidden; }

  /// Whether the lane has any unit of the row.
  __device__ bool is_inside(int row) const { return has(0) && first_row_ + row < pass_.batch; }

  /// The carried gradient of a row before the chunk.
  __device__ void load(int row, float (&direct)[kUnits]) const {
    std::int64_t const n = first_row_ + row;
    for (int e = 0; e < kUnits; ++e) {
      bool const inside = n < pass_.batch && has(e);
      direct[e] = inside ? pass_.direct[n * pass_.hidden + unit_ + e] : 0.0f;
    }
  }

  /// dq of a row before the chunk, of unit e.
  __device__ cell::Gates<float> load_dq(int row, int e) const {
    std::int64_t const n = first_row_ + row;
    if (n >= pass_.batch || !has(e)) return {0, 0, 0};
    std::int64_t const H = pass_.hidden;
    T const* const dq = pass_.dq + n * 3 * H + unit_ + e;
    return {convert<float>(dq[pass_.columns.z * H]), convert<float>(dq[pass_.columns.r * H]),
            convert<float>(dq[GateColumns::g * H])};
  }

  /// The factors of a step: the gradients for a state's gradient of 1.
  template <Variant variant = Variant::kResetAfter>
  __device__ BackwardFactors<kUnits> prepare(BackwardInput<kUnits> const& input) const {
    BackwardFactors<kUnits> factors;
#pragma unroll
    for (int e = 0; e < kUnits; ++e) {
      bool const takes_new = (input.flags & step_flags::kTakesNew << e) != 0;
      float const weight = !pass_.has_zoneout ? 1.0f : takes_new ? pass_.new_weight : 0.0f;
      auto const split = cell::zoneout_backward(V{weight}, V{1});
      auto const d = cell::new_state_backward(V{input.kept[0][e]}, V{input.kept[2][e]},
                                              V{input.s[e]}, split.c);
      factors.a[e] = {static_cast<float>(d.a_z), 0, static_cast<float>(d.a_g)};
      V const a_r{input.kept[1][e]};
      if constexpr (variant == Variant::kResetAfter) {
        auto const reset = cell::reset_after_backward(a_r, V{input.kept[3][e]}, d.a_g);
        factors.a[e].r = static_cast<float>(reset.a_r);
        factors.q_g[e] = static_cast<float>(reset.q_g);
      } else {
        auto const reset = cell::reset_state_backward(a_r, V{input.s[e]}, V{1});
        factors.a[e].r = static_cast<float>(reset.a_r);
        factors.q_g[e] = static_cast<float>(reset.s);
        factors.operand[e] = input.kept[3][e];
      }
      factors.direct[e] = static_cast<float>(split.s + d.s);
      factors.dh[e] = input.dh[e];
    }
    return factors;
  }

  /// Does a step: `sums` are dq R^T of the step done before, unscaled. A row that does not do the
  /// step carries its gradient on. Reset before: all but the reset gate.
  template <Variant variant = Variant::kResetAfter>
  __device__ BackwardResult<kUnits> finish(float const (&sums)[kUnits],
                                           BackwardFactors<kUnits> const& factors,
                                           std::uint32_t flags, float (&direct)[kUnits]) {
    using namespace step_flags;
    BackwardResult<kUnits> result;
    bool const row_is_active = (flags & kIsActive) != 0;
    bool const begins_episode = (flags & kClearsState) != 0;
#pragma unroll
    for (int e = 0; e < kUnits; ++e) {
      bool const keeps = (flags & kKeepsOperand << e) != 0;
      float const carried = direct[e] + (keeps ? sums[e] * pass_.through_scale : 0.0f);
      float const d = carried + factors.dh[e];
      bool const active = row_is_active && has(e);
      bool const passes = active && !begins_episode;
      auto const of = [&](bool is_so, float factor) { return is_so ? d * factor : 0.0f; };
      cell::Gates<float> const& a = factors.a[e];
      if constexpr (variant == Variant::kResetAfter) {
        result.a[e] = {of(active, a.z), of(active, a.r), of(active, a.g)};
        result.q_g[e] = of(active, factors.q_g[e]);
        result.dq[e] = {of(passes, a.z), of(passes, a.r), of(passes, factors.q_g[e])};
      } else {
        result.a[e] = {of(active, a.z), 0, of(active, a.g)};
        result.q_g[e] = active ? factors.operand[e] : 0.0f;
        result.dq[e] = {of(passes, a.z), 0, of(passes, a.g)};
      }
      direct[e] = active ? of(passes, factors.direct[e]) : carried;
    }
    return result;
  }

  /// Reset before: does the reset gate; `sums` are da_g R_g^T of this step, unscaled.
  __device__ void finish_reset(float const (&sums)[kUnits], BackwardFactors<kUnits> const& factors,
                               std::uint32_t flags, BackwardResult<kUnits>& result,
                               float (&direct)[kUnits]) const {
    using namespace step_flags;
    bool const row_passes = (flags & kIsActive) != 0 && (flags & kClearsState) == 0;
#pragma unroll
    for (int e = 0; e < kUnits; ++e) {
      bool const keeps = (flags & kKeepsOperand << e) != 0;
      bool const passes = row_passes && keeps && has(e);
      float const d = sums[e] * pass_.through_scale;
      result.a[e].r = passes ? d * factors.a[e].r : 0.0f;
      result.dq[e].r = result.a[e].r;
      if (passes) direct[e] += d * factors.q_g[e];
    }
  }

  /// Writes the gradients of the step, and adds them to the sums for the biases.
  __device__ void write(BackwardResult<kUnits> const& result, int row) {
    write_blocks<0, 1, 2, 3>(result, row);
  }
  /// Reset before, the same in two: all but the reset gate, and the reset gate.
  __device__ void write_others(BackwardResult<kUnits> const& result, int row) {
    write_blocks<0, 2, 3>(result, row);
  }
  __device__ void write_reset(BackwardResult<kUnits> const& result, int row) {
    write_blocks<1>(result, row);
  }

  /// Goes on to the next step, after the last row of one.
  __device__ void advance() {
    gradients_ += pass_.kept_step;
  }

  /// Leaves a row, after its last step of the chunk, for the next chunk.
  __device__ void leave(BackwardResult<kUnits> const& result, int row,
                        float const (&direct)[kUnits]) const {
    if (!is_inside(row)) return;
    std::int64_t const n = first_row_ + row;
    std::int64_t const H = pass_.hidden;
    for (int e = 0; e < kUnits && has(e); ++e) {
      pass_.direct[n * H + unit_ + e] = direct[e];
      T* const dq = pass_.dq + n * 3 * H + unit_ + e;
      dq[pass_.columns.z * H] = convert<T>(result.dq[e].z);
      dq[pass_.columns.r * H] = convert<T>(result.dq[e].r);
      dq[GateColumns::g * H] = convert<T>(result.dq[e].g);
    }
  }

  /// Reset before: the same for the reset gate and what it carries, after `leave`.
  __device__ void leave_reset(BackwardResult<kUnits> const& result, int row,
                              float const (&direct)[kUnits]) const {
    if (!is_inside(row)) return;
    std::int64_t const n = first_row_ + row;
    std::int64_t const H = pass_.hidden;
    for (int e = 0; e < kUnits && has(e); ++e) {
      pass_.direct[n * H + unit_ + e] = direct[e];
      pass_.dq[n * 3 * H + pass_.columns.r * H + unit_ + e] = convert<T>(result.dq[e].r);
    }
  }

  /// Adds the sums for the biases to those of a row that the lane finishes, after the last step.
  __device__ void leave_bias_sums(int row) const {
    if (pass_.bias_sums == nullptr || !is_inside(row)) return;
    std::int64_t const H = pass_.hidden;
    float* const sums = pass_.bias_sums + std::int64_t{first_row_ + row} * 4 * H + unit_;
    std::int64_t const blocks[4] = {pass_.columns.z, pass_.columns.r, GateColumns::g, 3};
    for (int block = 0; block < 4; ++block) {
      for (int e = 0; e < kUnits && has(e); ++e)
        sums[blocks[block] * H + e] += bias_sums_[block][e];
    }
  }

  /// After a wait that expired: every gradient from here on is NaN.
  __device__ void poison(float (&direct)[kUnits]) const {
    for (float& d : direct) d = __int_as_float(0x7fffffff);
  }

 private:
  /// Some of a gradient row's four blocks, for the lane's units.
  template <int... kBlocks>
  __device__ void write_blocks(BackwardResult<kUnits> const& result, int row) {
    if (!is_inside(row)) return;
    float blocks[4][kUnits];
#pragma unroll
    for (int e = 0; e < kUnits; ++e) {
      blocks[0][e] = result.a[e].z;
      blocks[1][e] = result.a[e].r;
      blocks[2][e] = result.a[e].g;
      blocks[3][e] = result.q_g[e];
    }
    std::byte* const to =
        gradients_ + std::int64_t{row * 4} * pass_.hidden * static_cast<std::int64_t>(sizeof(T));
    auto const add = [&](int block) {
      for (int e = 0; e < kUnits; ++e) bias_sums_[block][e] += blocks[block][e];
    };
    auto const store = [&](int block, bool wide) {
      store_units(reinterpret_cast<T*>(to + pass_.block[block]), blocks[block], wide,
                  has(kUnits - 1));
    };
    if (pass_.wide_gradients) {
      (store(kBlocks, true), ...);
    } else {
      (store(kBlocks, false), ...);
    }
    (add(kBlocks), ...);
  }

  RecurrentBackward<T> const& pass_;
  int first_row_;
  int unit_;
  std::byte* gradients_;
  float bias_sums_[4][kUnits] = {};
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
