// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <gru/problem.hpp>
#include <gru/random.hpp>

/// A layer with its data, and what a pass makes of it, in one canonical form: values are double,
/// sequences are dense and time-major, weights are [in, 3H] with gates z, r, g. The runners lay it
/// out as its Problem says (type, layout, pitches, formats), so that one check serves every engine.
namespace gru::test {

using Values = std::vector<double>;
using Bytes = std::vector<std::uint8_t>;

/// The types of data that engines compute in.
enum class DataType { kFloat, kDouble, kHalf, kBfloat16 };

std::string to_string(DataType type);

/// The nearest value of the type.
double round_to(DataType type, double value);

/// The type of h0, the final state and their gradients.
DataType state_type(Problem const& problem, DataType type);

/// The type of the gradients of weights and biases.
DataType weight_gradient_type(Problem const& problem, DataType type);

/// Which nullable outputs a run asks for. The others are passed as null.
struct Wanted {
  bool final_state = true;
  bool dx = true;
  bool dkernel = true;
  bool drecurrent_kernel = true;
  bool dbias = true;
  bool drecurrent_bias = true;
  bool dh0 = true;
};

/// What forward and backward write. Empty: not asked for.
struct Results {
  Values h;                  // [T, N, H]
  Values final_state;        // [N, H]
  Values dx;                 // [T, N, C]
  Values dkernel;            // [C, 3H]
  Values drecurrent_kernel;  // [H, 3H]
  Values dbias;              // [3H]
  Values drecurrent_bias;    // [3H]
  Values dh0;                // [N, H]
};

/// One of the Results' vectors, by name.
struct NamedResult {
  using Member = Values Results::*;

  char const* name;
  Member values;
  bool is_gradient;
};

/// All of them.
std::vector<NamedResult> const& named_results();

/// A Problem and everything that its passes read.
struct Layer {
  Problem problem;

  Values x;                 // [T, N, C]
  Values h0;                // [N, H], empty: null
  Values kernel;            // [C, 3H]
  Values recurrent_kernel;  // [H, 3H]
  Values bias;              // [3H], empty: null
  Values recurrent_bias;    // [3H], empty: null

  std::vector<std::int32_t> lengths;  // [N], where announced
  Bytes episode_starts;               // [T, N], where announced
  Bytes zoneout_mask;                 // [T, N, H], where the Problem expects it
  Bytes dropconnect_mask;             // [H, 3H], where the Problem expects it
  Bytes recurrent_dropout_mask;       // [N, H], where the Problem expects it
  Random random;                      // `state` is ignored, see random_by_pointer

  Values dh;            // [T, N, H], empty: null
  Values dfinal_state;  // [N, H], empty: null

  Wanted wanted;
  Results held;  ///< What gradients that accumulate are added to. Empty: zeros.

  bool random_by_pointer = false;  ///< Seed and offset are read from the engine's memory.
  bool unaligned = false;          ///< Every tensor begins one element past a 256-byte boundary.
  bool small_workspace = false;    ///< The least limit that the passes accept, for small chunks.

  std::int64_t T() const { return problem.steps; }
  std::int64_t N() const { return problem.batch; }
  std::int64_t C() const { return problem.input_size; }
  std::int64_t H() const { return problem.hidden_size; }

  /// lengths[n] clamped to [0, T].
  std::int64_t length(std::int64_t n) const;
};

/// The layer with every value rounded to the type in which a pass of `type` reads it.
Layer rounded(Layer layer, DataType type);

}  // namespace gru::test
