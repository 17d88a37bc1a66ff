// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <sstream>

#include <gru/error.hpp>

namespace gru {

/// Where the reset gate acts.
enum class Variant {
  kResetAfter,   ///< g = tanh(p_g + r * (s R_g + br_g)): 1406.1078v1, cuDNN, PyTorch, Keras's
                 ///< default.
  kResetBefore,  ///< g = tanh(p_g + (r * s) R_g + br_g): 1406.1078v3, ONNX's default.
};

/// The order in which the time steps are done. Outputs stay in time order either way.
enum class Direction { kForward, kReverse };

/// How the sequence tensors (x, h, their gradients, episode starts, zoneout mask) are laid out.
enum class Layout {
  kTimeMajor,   ///< [T, N, width]
  kBatchMajor,  ///< [N, T, width]
};

/// How products of float values are computed. Ignored for the other types.
enum class Precision {
  kFp32,        ///< float's own accuracy: FFMA, three TF32 products or six of bfloat16 parts
  kFp32Strict,  ///< FFMA alone
  kTf32,        ///< operands rounded to TF32
};

/// The type of h0, the final state, the step's state and their gradients.
enum class StateType {
  kSameAsData,  ///< T
  kFloat,       ///< float, also where T has 16 bits. Not for double.
};

/// The type of the gradients of W, R, bx and br.
enum class WeightGradientType {
  kSameAsData,  ///< T
  kFloat,       ///< float (master gradients). Not for double.
};

/// What forward keeps for backward, and what backward does with it.
enum class ReservePolicy {
  kKeep,       ///< 4H values a step and sample; backward only reads them.
  kOverwrite,  ///< The same; backward writes its gradients over them, so they serve once.
  kRecompute,  ///< Nothing but h, which the caller has; backward computes the gates again.
};

/// Where the bits of a random mask come from.
enum class MaskSource {
  kPhilox,  ///< drawn by the library from `Random`
  kCaller,  ///< uint8 values that the caller brings: 1 = take the new value (or keep the weight)
};

/// One way of dropping values at random.
struct Dropping {
  double rate = 0;  ///< The probability of dropping, in [0, 1).
  MaskSource mask = MaskSource::kPhilox;
};

/// The way that computes a Problem.
enum class Engine {
  kAutomatic,   ///< the policy chooses
  kStepwise,    ///< GPU: one product and one fused kernel a step (two each for kResetBefore)
  kHost,        ///< CPU
  kCluster,     ///< GPU, sm_90 on: the recurrence in one kernel, R on the chip of a block cluster
  kGrid,        ///< GPU: the recurrence in one kernel, R on the chip of groups of blocks
  kClusterFma,  ///< as kCluster, for few samples: without tensor cores
  kGridFma,     ///< as kGrid, for few samples: without tensor cores
};

/// How the kernel W and the recurrent kernel R lie in memory: one block each, row-major, with the
/// candidate gate g last. Biases and gradients use the same order of gates.
struct WeightFormat {
  enum class Shape {
    kInputByGates,  ///< W [C, 3H], R [H, 3H]
    kGatesByInput,  ///< W [3H, C], R [3H, H]
  };
  enum class GateOrder {
    kUpdateFirst,  ///< z, r, g
    kResetFirst,   ///< r, z, g
  };

  Shape shape = Shape::kInputByGates;
  GateOrder gates = GateOrder::kUpdateFirst;
  std::int64_t kernel_pitch = 0;            ///< Elements from row to row of W; 0 = tight.
  std::int64_t recurrent_kernel_pitch = 0;  ///< Elements from row to row of R; 0 = tight.

  static constexpr WeightFormat keras() { return {}; }
  static constexpr WeightFormat haste() { return {}; }
  static constexpr WeightFormat pytorch() { return {Shape::kGatesByInput, GateOrder::kResetFirst}; }
  /// cuDNN's unpacked matrices, the three gates one behind the other.
  static constexpr WeightFormat cudnn() { return {Shape::kGatesByInput, GateOrder::kResetFirst}; }
  static constexpr WeightFormat onnx() { return {Shape::kGatesByInput, GateOrder::kUpdateFirst}; }
};

/// Elements from one row of a tensor to the next; 0 = tight (the row's width). A row is what
/// belongs to one step and sample (or to one sample, for the states).
struct RowPitches {
  std::int64_t x = 0;                       ///< width C
  std::int64_t h = 0;                       ///< width H
  std::int64_t dx = 0;                      ///< width C
  std::int64_t dh = 0;                      ///< width H
  std::int64_t h0 = 0;                      ///< width H
  std::int64_t final_state = 0;             ///< width H
  std::int64_t dh0 = 0;                     ///< width H
  std::int64_t dfinal_state = 0;            ///< width H
  std::int64_t episode_starts = 0;          ///< width 1
  std::int64_t zoneout_mask = 0;            ///< width H
  std::int64_t recurrent_dropout_mask = 0;  ///< width H
};

/// Which gradients are added to what the buffer holds, instead of overwriting it.
struct Accumulate {
  bool dx = false;
  bool dkernel = false;
  bool drecurrent_kernel = false;
  bool dbias = false;
  bool drecurrent_bias = false;
  bool dh0 = false;

  static constexpr Accumulate all() { return {true, true, true, true, true, true}; }
};

/// A GRU layer over a batch of sequences: sizes, options, formats, and which inputs there are.
///
/// Everything that can change the engine or the workspace stands here, and is validated once, when
/// a pass is constructed. Pointers come with each run. h0, the biases, the final state and every
/// gradient may be null in a run without being announced here; lengths, episode starts and masks
/// are announced, so that one that was forgotten is an error and not another answer.
struct Problem {
  std::int64_t steps = 0;        ///< T >= 0
  std::int64_t batch = 0;        ///< N >= 0
  std::int64_t input_size = 0;   ///< C >= 1
  std::int64_t hidden_size = 0;  ///< H >= 1

  Variant variant = Variant::kResetAfter;
  Direction direction = Direction::kForward;
  Layout layout = Layout::kTimeMajor;
  WeightFormat weight_format = {};
  RowPitches pitch = {};

  bool lengths = false;  ///< A run brings lengths int32 [N], clamped to [0, T] on the device.
  /// A run also brings the lengths in host memory. Engines that sort rows by length then leave the
  /// steps past them out of the input product too, whose size the host must know. That takes room
  /// in the workspace for the rows of x of a chunk. Needs `lengths`; the others ignore it.
  bool host_lengths = false;
  bool episode_starts = false;  ///< A run brings episode starts uint8 [T, N] or [N, T].

  Dropping zoneout = {};      ///< Units that keep their state (1606.01305).
  Dropping dropconnect = {};  ///< Weights of R dropped for the whole pass.
  Dropping recurrent_dropout =
      {};  ///< One mask a sequence on the state that enters R (1512.05287).

  bool stochastic = false;         ///< Draw the masks; otherwise use the formulas of inference.
  bool keep_for_backward = false;  ///< Forward fills the reserve, as `reserve` says.
  ReservePolicy reserve = ReservePolicy::kKeep;
  Accumulate accumulate = {};

  Precision precision = Precision::kFp32;
  StateType state_type = StateType::kSameAsData;
  WeightGradientType weight_gradient_type = WeightGradientType::kSameAsData;

  Engine engine = Engine::kAutomatic;
  std::size_t workspace_limit = std::size_t{512} << 20;  ///< Bytes that a pass may ask for.
  /// Runs bring Execution::second_stream: a pass may cut the steps so that products over whole
  /// sequences (forward the input product of steps to come, backward dx, dW and dR) run beside the
  /// recurrence. Ignored where that is not predicted to pay, by engines that do not do it, and on
  /// the host.
  bool overlap_products = false;
};

/// The number of values (of type T) in the reserve: 4 H for each step and sample, none where it is
/// not kept. The same for every engine.
inline std::int64_t reserve_values(Problem const& problem) {
  bool const kept = problem.keep_for_backward && problem.reserve != ReservePolicy::kRecompute;
  return kept ? problem.steps * problem.batch * 4 * problem.hidden_size : 0;
}

namespace detail {

inline std::int64_t pitch_or(std::int64_t pitch, std::int64_t width) {
  return pitch == 0 ? width : pitch;
}

/// Elements from row to row of W as the format lays it.
inline std::int64_t kernel_pitch(Problem const& p) {
  bool const by_input = p.weight_format.shape == WeightFormat::Shape::kInputByGates;
  return pitch_or(p.weight_format.kernel_pitch, by_input ? 3 * p.hidden_size : p.input_size);
}

/// Elements from row to row of R as the format lays it.
inline std::int64_t recurrent_kernel_pitch(Problem const& p) {
  bool const by_input = p.weight_format.shape == WeightFormat::Shape::kInputByGates;
  return pitch_or(p.weight_format.recurrent_kernel_pitch,
                  by_input ? 3 * p.hidden_size : p.hidden_size);
}

/// Throws unless the product of the extents, times 16 bytes, can be addressed.
inline void check_addressable(char const* what, std::initializer_list<std::int64_t> extents) {
  std::int64_t product = 16;
  for (std::int64_t const extent : extents) {
    if (extent == 0) continue;  // strides are formed from the others all the same
    bool const overflows = product > std::numeric_limits<std::int64_t>::max() / extent;
    if (overflows) {
      std::ostringstream sizes;
      for (std::int64_t const e : extents) sizes << (sizes.tellp() > 0 ? " x " : "") << e;
      GRU_EXPECT(false, InvalidArgument, "the size of ", what, " overflows: ", sizes.str());
    }
    product *= extent;
  }
}

inline void check_pitch(char const* what, std::int64_t pitch, std::int64_t width) {
  GRU_EXPECT(pitch == 0 || pitch >= width, InvalidArgument, "the row pitch of ", what, " is ",
             pitch, ", less than the row's width ", width);
}

inline void check_rate(char const* what, double rate) {
  GRU_EXPECT(rate >= 0 && rate < 1, InvalidArgument, "the ", what, " rate is ", rate,
             ", outside [0, 1)");
}

template <typename Enumeration>
void check_enumeration(char const* what, Enumeration value, Enumeration last) {
  auto const number = static_cast<std::int64_t>(value);
  GRU_EXPECT(number >= 0 && number <= static_cast<std::int64_t>(last), InvalidArgument, what,
             " is ", number, ", not one of its enumerators");
}

inline void validate_enumerations(Problem const& p) {
  check_enumeration("variant", p.variant, Variant::kResetBefore);
  check_enumeration("direction", p.direction, Direction::kReverse);
  check_enumeration("layout", p.layout, Layout::kBatchMajor);
  check_enumeration("weight_format.shape", p.weight_format.shape,
                    WeightFormat::Shape::kGatesByInput);
  check_enumeration("weight_format.gates", p.weight_format.gates,
                    WeightFormat::GateOrder::kResetFirst);
  check_enumeration("zoneout.mask", p.zoneout.mask, MaskSource::kCaller);
  check_enumeration("dropconnect.mask", p.dropconnect.mask, MaskSource::kCaller);
  check_enumeration("recurrent_dropout.mask", p.recurrent_dropout.mask, MaskSource::kCaller);
  check_enumeration("reserve", p.reserve, ReservePolicy::kRecompute);
  check_enumeration("precision", p.precision, Precision::kTf32);
  check_enumeration("state_type", p.state_type, StateType::kFloat);
  check_enumeration("weight_gradient_type", p.weight_gradient_type, WeightGradientType::kFloat);
  check_enumeration("engine", p.engine, Engine::kGridFma);
}

/// The largest extent that cuBLAS takes.
inline constexpr std::int64_t kLargestExtent = std::numeric_limits<std::int32_t>::max();

inline void check_extent(char const* what, std::int64_t extent) {
  GRU_EXPECT(extent <= kLargestExtent, InvalidArgument, what, " is ", extent,
             ", more than a matrix product takes (", kLargestExtent, ")");
}

inline void validate_sizes(Problem const& p) {
  GRU_EXPECT(p.steps >= 0, InvalidArgument, "steps (T) is ", p.steps, ", must be at least 0");
  GRU_EXPECT(p.batch >= 0, InvalidArgument, "batch (N) is ", p.batch, ", must be at least 0");
  GRU_EXPECT(p.input_size >= 1, InvalidArgument, "input_size (C) is ", p.input_size,
             ", must be at least 1");
  GRU_EXPECT(p.hidden_size >= 1, InvalidArgument, "hidden_size (H) is ", p.hidden_size,
             ", must be at least 1");
  check_extent("input_size (C)", p.input_size);
  check_extent("hidden_size (H) times 4",
               p.hidden_size > kLargestExtent ? p.hidden_size : 4 * p.hidden_size);
  check_extent("batch (N)", p.batch);
}

inline void validate_pitches(Problem const& p) {
  std::int64_t const C = p.input_size;
  std::int64_t const H = p.hidden_size;
  bool const by_input = p.weight_format.shape == WeightFormat::Shape::kInputByGates;
  check_pitch("the kernel", p.weight_format.kernel_pitch, by_input ? 3 * H : C);
  check_pitch("the recurrent kernel", p.weight_format.recurrent_kernel_pitch, by_input ? 3 * H : H);
  check_pitch("x", p.pitch.x, C);
  check_pitch("h", p.pitch.h, H);
  check_pitch("dx", p.pitch.dx, C);
  check_pitch("dh", p.pitch.dh, H);
  check_pitch("h0", p.pitch.h0, H);
  check_pitch("final_state", p.pitch.final_state, H);
  check_pitch("dh0", p.pitch.dh0, H);
  check_pitch("dfinal_state", p.pitch.dfinal_state, H);
  check_pitch("episode_starts", p.pitch.episode_starts, 1);
  check_pitch("zoneout_mask", p.pitch.zoneout_mask, H);
  check_pitch("recurrent_dropout_mask", p.pitch.recurrent_dropout_mask, H);
}

inline void validate_addresses(Problem const& p) {
  std::int64_t const C = p.input_size;
  std::int64_t const H = p.hidden_size;
  check_addressable("x", {p.steps, p.batch, pitch_or(p.pitch.x, C)});
  check_addressable("h", {p.steps, p.batch, pitch_or(p.pitch.h, H)});
  check_addressable("dx", {p.steps, p.batch, pitch_or(p.pitch.dx, C)});
  check_addressable("dh", {p.steps, p.batch, pitch_or(p.pitch.dh, H)});
  check_addressable("episode_starts", {p.steps, p.batch, pitch_or(p.pitch.episode_starts, 1)});
  check_addressable("zoneout_mask", {p.steps, p.batch, pitch_or(p.pitch.zoneout_mask, H)});
  check_addressable("the reserve", {p.steps, p.batch, 4, H});
  check_addressable("the workspace of a step", {p.batch, 16, H});
  check_addressable("h0", {p.batch, pitch_or(p.pitch.h0, H)});
  check_addressable("final_state", {p.batch, pitch_or(p.pitch.final_state, H)});
  check_addressable("dh0", {p.batch, pitch_or(p.pitch.dh0, H)});
  check_addressable("dfinal_state", {p.batch, pitch_or(p.pitch.dfinal_state, H)});
  check_addressable("recurrent_dropout_mask",
                    {p.batch, pitch_or(p.pitch.recurrent_dropout_mask, H)});
  check_addressable("the kernel", {C > 3 * H ? C : 3 * H, kernel_pitch(p)});
  check_addressable("the recurrent kernel", {3 * H, recurrent_kernel_pitch(p)});
}

}  // namespace detail

/// Throws InvalidArgument, with the offending values, unless the Problem makes sense. Passes call
/// it.
inline void validate(Problem const& p) {
  detail::validate_enumerations(p);
  detail::validate_sizes(p);
  detail::validate_pitches(p);
  detail::validate_addresses(p);
  GRU_EXPECT(p.lengths || !p.host_lengths, InvalidArgument, "host_lengths without lengths");
  detail::check_rate("zoneout", p.zoneout.rate);
  detail::check_rate("dropconnect", p.dropconnect.rate);
  detail::check_rate("recurrent dropout", p.recurrent_dropout.rate);
}

}  // namespace gru
