// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/sequence.hpp>
#include <gru/error.hpp>
#include <gru/problem.hpp>
#include <gru/tensors.hpp>

/// Checks of what a run brings, against what its Problem announced. They run before anything is
/// enqueued, and are the same for every engine.
namespace gru::detail {

inline constexpr std::size_t kWorkspaceAlignment = 256;

inline void check_aligned(char const* name, void const* pointer, std::size_t alignment) {
  bool const aligned = reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0;
  GRU_EXPECT(aligned, InvalidArgument, name, " is ", pointer, ", not aligned to ", alignment,
             " bytes");
}

template <typename T>
void check_optional(char const* name, T const* pointer) {
  check_aligned(name, pointer, alignof(T));
}

/// A pointer that must be there unless its tensor is empty.
template <typename T>
void check_required(char const* name, T const* pointer, bool empty) {
  GRU_EXPECT(pointer != nullptr || empty, InvalidArgument, name, " is null");
  check_optional(name, pointer);
}

/// A pointer that must be there exactly where the Problem announced it.
template <typename T>
void check_announced(char const* name, T const* pointer, bool announced, bool empty) {
  GRU_EXPECT(pointer == nullptr || announced, InvalidArgument, name, " is ",
             static_cast<void const*>(pointer), ", but the Problem did not announce it");
  if (announced) check_required(name, pointer, empty);
}

/// A mask: required where announced, ignored where the Problem names the caller as its source but
/// is not stochastic.
inline void check_mask(char const* name, std::uint8_t const* pointer, Problem const& p,
                       Dropping const& option, bool empty) {
  if (!p.stochastic && option.mask == MaskSource::kCaller) return;
  check_announced(name, pointer, expects_mask(p, option), empty);
}

/// The type pointed to must be the one that the Problem asks for.
template <typename T>
void check_or_float(char const* name, OrFloat<T> pointer, bool wants_float) {
  if (!pointer) return;
  using Value = std::remove_const_t<T>;
  bool const expects_float = wants_float || std::is_same_v<Value, float>;
  GRU_EXPECT(pointer.is_float() == expects_float, InvalidArgument, name, " points to ",
             pointer.is_float() ? "float" : "the data type", ", but the Problem asks for ",
             expects_float ? "float" : "the data type");
  check_aligned(name, pointer.data(), expects_float ? alignof(float) : alignof(Value));
}

/// What the Problem says about types must fit T. Called once, at construction.
template <typename T>
void check_types(Problem const& p) {
  if constexpr (std::is_same_v<T, double>) {
    GRU_EXPECT(p.state_type == StateType::kSameAsData, InvalidArgument,
               "state_type kFloat would be narrower than the data type double");
    GRU_EXPECT(p.weight_gradient_type == WeightGradientType::kSameAsData, InvalidArgument,
               "weight_gradient_type kFloat would be narrower than the data type double");
  }
}

/// Backward's own demand on the Problem. Called once, at construction.
inline void check_keeps_for_backward(Problem const& p) {
  GRU_EXPECT(p.keep_for_backward, InvalidArgument,
             "keep_for_backward is false: a backward pass needs the Problem that forward kept for");
}

inline bool float_state(Problem const& p) {
  return p.state_type == StateType::kFloat;
}

template <typename T>
void check_weights(Problem const&, Weights<T> const& weights) {
  check_required("weights.kernel", weights.kernel, false);
  check_required("weights.recurrent_kernel", weights.recurrent_kernel, false);
  check_optional("weights.bias", weights.bias);
  check_optional("weights.recurrent_bias", weights.recurrent_bias);
}

inline void check_workspace(Workspace workspace, std::size_t needed) {
  GRU_EXPECT(workspace.bytes >= needed, InvalidArgument, "the workspace has ", workspace.bytes,
             " bytes, ", needed, " are needed");
  if (needed == 0) return;
  GRU_EXPECT(workspace.data != nullptr, InvalidArgument, "the workspace is null, ", needed,
             " bytes are needed");
  check_aligned("the workspace", workspace.data, kWorkspaceAlignment);
}

inline void check_reserve(char const* name, void const* data, std::size_t bytes, std::size_t needed,
                          bool announced, std::size_t alignment) {
  GRU_EXPECT(data == nullptr || announced, InvalidArgument, name, " is ", data,
             ", but the Problem does not use it (see keep_for_backward and the reserve policy)");
  if (!announced) return;
  GRU_EXPECT(data != nullptr || needed == 0, InvalidArgument, name, " is null, ", needed,
             " bytes are needed");
  GRU_EXPECT(bytes >= needed, InvalidArgument, name, " has ", bytes, " bytes, ", needed,
             " are needed");
  check_aligned(name, data, alignment);
}

/// The inputs that forward and backward share.
template <typename Tensors>
void check_sequence_inputs(Problem const& p, Tensors const& t) {
  bool const no_rows = p.steps == 0 || p.batch == 0;
  bool const no_samples = p.batch == 0;
  check_required("x", t.x, no_rows);
  check_or_float("h0", t.h0, float_state(p));
  check_announced("lengths", t.lengths, p.lengths, no_samples);
  check_announced("episode_starts", t.episode_starts, p.episode_starts, no_rows);
  check_mask("zoneout_mask", t.zoneout_mask, p, p.zoneout, no_rows);
  check_mask("dropconnect_mask", t.dropconnect_mask, p, p.dropconnect, no_rows);
  check_mask("recurrent_dropout_mask", t.recurrent_dropout_mask, p, p.recurrent_dropout, no_rows);
  check_optional("random.state", t.random.state);
}

template <typename T>
void check_tensors(Problem const& p, ForwardTensors<T> const& t) {
  check_sequence_inputs(p, t);
  check_required("h", t.h, p.steps == 0 || p.batch == 0);
  check_or_float("final_state", t.final_state, float_state(p));
  check_announced("host_lengths", t.host_lengths, p.host_lengths, p.batch == 0);
  bool const kept = p.keep_for_backward && p.reserve != ReservePolicy::kRecompute;
  check_reserve("reserve", t.reserve.data, t.reserve.bytes, reserve_values(p) * sizeof(T), kept,
                alignof(T));
}

template <typename T>
void check_tensors(Problem const& p, StepTensors<T> const& t) {
  GRU_EXPECT(p.steps == 1, InvalidArgument, "step() needs a Problem of 1 step, this one has ",
             p.steps);
  GRU_EXPECT(!p.keep_for_backward && !p.lengths, InvalidArgument,
             "step() keeps nothing for backward and takes no lengths; use run()");
  bool const empty = p.batch == 0;
  check_required("x", t.x, empty);
  check_or_float("state", t.state, float_state(p));
  check_or_float("new_state", t.new_state, float_state(p));
  GRU_EXPECT(t.new_state || empty, InvalidArgument, "new_state is null");
  check_mask("zoneout_mask", t.zoneout_mask, p, p.zoneout, empty);
  check_mask("dropconnect_mask", t.dropconnect_mask, p, p.dropconnect, empty);
  check_mask("recurrent_dropout_mask", t.recurrent_dropout_mask, p, p.recurrent_dropout, empty);
  check_optional("random.state", t.random.state);
  check_optional("h", t.h);
  GRU_EXPECT(t.time >= 0, InvalidArgument, "time is ", t.time, ", must be at least 0");
  check_addressable("the zoneout draws up to this time", {t.time / 4 + 1, p.batch, p.hidden_size});
  std::int64_t const in_pitch = pitch_or(p.pitch.h0, p.hidden_size);
  std::int64_t const out_pitch = pitch_or(p.pitch.final_state, p.hidden_size);
  GRU_EXPECT(t.state.data() != t.new_state.data() || p.batch <= 1 || in_pitch == out_pitch,
             InvalidArgument,
             "step() in place needs equal row pitches of h0 and final_state, they "
             "are ",
             in_pitch, " and ", out_pitch);
}

template <typename T>
void check_tensors(Problem const& p, BackwardTensors<T> const& t) {
  check_sequence_inputs(p, t);
  bool const float_weights = p.weight_gradient_type == WeightGradientType::kFloat;
  check_required("h", t.h, p.steps == 0 || p.batch == 0);
  check_optional("dh", t.dh);
  check_or_float("dfinal_state", t.dfinal_state, float_state(p));
  std::size_t const reserve_bytes = reserve_values(p) * sizeof(T);
  check_reserve("reserve", t.reserve.data, t.reserve.bytes, reserve_bytes,
                p.reserve == ReservePolicy::kKeep, alignof(T));
  check_reserve("overwritten_reserve", t.overwritten_reserve.data, t.overwritten_reserve.bytes,
                reserve_bytes, p.reserve == ReservePolicy::kOverwrite, alignof(T));
  check_optional("dx", t.dx);
  check_or_float("dkernel", t.dkernel, float_weights);
  check_or_float("drecurrent_kernel", t.drecurrent_kernel, float_weights);
  check_or_float("dbias", t.dbias, float_weights);
  check_or_float("drecurrent_bias", t.drecurrent_bias, float_weights);
  check_or_float("dh0", t.dh0, float_state(p));
}

}  // namespace gru::detail
